"""What batch norms are called, and which calls and gradients belong to one."""
