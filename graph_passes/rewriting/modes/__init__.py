"""Passes that change the mode of batch norms: freeze them, make them train, or remove their training outputs."""
