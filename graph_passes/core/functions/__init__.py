"""Inlines model-local functions."""
