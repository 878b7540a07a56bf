"""Passes of `rewrite`: channel ops in the place of batch norms, fusions, freezing, training what was frozen."""
