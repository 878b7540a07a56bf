"""Runs our training graphs in sessions of any onnxruntime, and keeps their state between runs."""
