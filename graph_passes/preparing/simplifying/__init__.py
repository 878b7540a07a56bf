"""Passes that compute what is constant, and unpack functions, branches and sequences."""
