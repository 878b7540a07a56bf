"""Passes that put a ReLU and its gradient into the ops of the batch norm before it."""
