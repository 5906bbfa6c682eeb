"""Measurements against the raw model and against the peers, each pair in the same run."""
