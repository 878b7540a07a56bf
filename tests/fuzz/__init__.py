"""Random models and random calls: valid ones keep what they compute, others end in one line."""
