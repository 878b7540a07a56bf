"""Model-local functions: their bodies in the place of their calls."""
