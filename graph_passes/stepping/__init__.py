"""Passes on our training graphs: their metadata, and their form for a session."""
