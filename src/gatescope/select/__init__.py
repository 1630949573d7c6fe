"""Selectors: from counters to neuron sets. Pure; each returns a `Selection`."""

from gatescope.select.activation import cas, random
from gatescope.select.selection import Selection

__all__ = ["Selection", "cas", "random"]
