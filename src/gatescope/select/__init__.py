"""Selectors: from counters or attributions to neuron sets. Pure."""

from gatescope.select.activation import cas, conact, lap, lape, mad, random
from gatescope.select.attribution import att, culnig_general, culnig_scores, culnig_specific
from gatescope.select.cape import cape
from gatescope.select.selection import Selection, top

__all__ = [
    "Selection",
    "att",
    "cape",
    "cas",
    "conact",
    "culnig_general",
    "culnig_scores",
    "culnig_specific",
    "lap",
    "lape",
    "mad",
    "random",
    "top",
]
