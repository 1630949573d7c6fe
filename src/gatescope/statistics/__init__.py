"""Metrics, tables, intervals, tests. Pure."""
