"""Answers, metrics and sweeps."""
