"""Passes that decide how running statistics are updated and written."""
