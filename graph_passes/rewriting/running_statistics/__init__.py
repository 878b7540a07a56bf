"""Passes that say how running statistics are updated, and write them."""
