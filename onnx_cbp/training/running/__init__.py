"""Training graphs of ours in sessions of any onnxruntime: the state between runs, and what is run."""
