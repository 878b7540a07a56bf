"""Whole batch norms and their gradients, for replicas that do not synchronise."""
