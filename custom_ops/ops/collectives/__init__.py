"""Ops that exchange values with other replicas."""
