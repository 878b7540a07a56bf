"""Passes on parameters: those that an exporter merged or dropped, and counters that it never wrote."""
