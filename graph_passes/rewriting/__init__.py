"""Passes of `rewrite`: our ops for batch norms, fusions, freezing, making frozen batch norms train."""
