"""Training steps under measurement: original against rewritten."""
