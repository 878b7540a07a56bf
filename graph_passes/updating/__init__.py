"""Passes of `update_bn`: a model whose outputs are the statistics of a batch."""
