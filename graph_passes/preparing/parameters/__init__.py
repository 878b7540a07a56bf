"""Passes on parameters: those that an exporter merged or dropped, and those that it never wrote."""
