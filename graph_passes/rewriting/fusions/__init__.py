"""Passes that fuse a ReLU and its gradient with the ops of the batch norm before it."""
