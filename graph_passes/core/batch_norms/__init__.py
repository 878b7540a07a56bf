"""The names of batch norms, and which calls and gradients belong to each."""
