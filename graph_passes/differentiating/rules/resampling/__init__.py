"""Gradient rules of ops that read an image between its elements."""
