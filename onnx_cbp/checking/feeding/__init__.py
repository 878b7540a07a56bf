"""Inputs for models that are compared: what each input is for, and random values for it."""
