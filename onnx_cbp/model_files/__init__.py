"""Reads and writes model files, whole or not at all, with their data in files next to them."""
