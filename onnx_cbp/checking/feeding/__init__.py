"""Inputs for models that are compared: the role of each input, and random values for it."""
