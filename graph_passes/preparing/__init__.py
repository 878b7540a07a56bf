"""Passes that make a graph fit for others: for the gradient builder, and for whatever reads batch norms."""
