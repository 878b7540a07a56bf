"""Convolutions of training graphs, and the gradients of their weights and data."""
