"""Passes of `finalize`: from a training graph to one for inference."""
