"""Ops that read an image between its elements, or at places of their own."""
