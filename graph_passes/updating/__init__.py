"""Passes of `update_bn`: they make a model whose outputs are the statistics of a batch."""
