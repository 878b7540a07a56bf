"""Passes on our training graphs: their metadata, and what a session runs."""
