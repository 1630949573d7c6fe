"""Selectors: from counters or attributions to neuron sets. Pure."""

from gatescope.select.activation import cas, random
from gatescope.select.attribution import culnig_general, culnig_specific
from gatescope.select.selection import Selection

__all__ = ["Selection", "cas", "culnig_general", "culnig_specific", "random"]
