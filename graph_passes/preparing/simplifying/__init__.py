"""Passes that compute what is known, and unpack what holds other nodes or values: functions, branches, sequences."""
