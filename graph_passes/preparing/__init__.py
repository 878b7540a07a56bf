"""Passes that prepare a graph: for a gradient builder, and for finding batch norms."""
