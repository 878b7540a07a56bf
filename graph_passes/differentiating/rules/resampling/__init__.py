"""Gradient rules of ops that sample an image between its elements."""
