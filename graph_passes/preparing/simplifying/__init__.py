"""Passes that compute what is known, and unpack functions, branches and sequences."""
