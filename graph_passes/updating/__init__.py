"""Passes of `update_bn`: the statistics of a batch as a model's results."""
