"""Passes of `finalize`: they turn a training graph into one for inference."""
