"""Passes of `rewrite(synchronize=..., data_parallel=...)`: what replicas exchange."""
