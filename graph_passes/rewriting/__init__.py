"""Passes of `rewrite`: they replace batch norms by our ops, fuse ReLUs, freeze batch norms, or make them train."""
