"""Passes that change whether a batch norm trains: frozen, made to train, or without the outputs of training."""
