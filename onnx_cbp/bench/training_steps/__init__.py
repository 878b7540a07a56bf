"""The benchmark of training steps: original against rewritten."""
