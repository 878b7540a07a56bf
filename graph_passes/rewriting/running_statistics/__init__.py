"""Passes on how running statistics are updated and written."""
