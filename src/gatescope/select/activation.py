"""Selectors on firing counters, from "Finding Culture-Sensitive Neurons in Vision-Language Models".

    RND     a uniform draw from all layers, one for every group                                  (appendix B.2.1)
    CAS(g)  P1 - P2 if g is the group with the highest firing rate P1, else -inf, where P2 is
            the highest of the others; the paper's second version calls it ConAct                (section 3.4)

Where the paper is silent: CAS has no activity gate; a neuron two groups share first place on (margin 0, dead neurons
among them) is nobody's; equal margins are ranked by P1, then (layer, index).
"""

from __future__ import annotations

import torch

from gatescope._typing import checked
from gatescope.counters import Counters
from gatescope.errors import GatescopeError
from gatescope.neurons import NeuronSet
from gatescope.select.selection import Selection, top, wanted_count


@checked
def cas(counters: Counters, rate: float) -> Selection:
    """Contrastive Activation Selection (equations of section 3.4).

    Args:
        counters: of at least two groups with tokens.
        rate: share of all neurons to select for each group, in (0, 1].

    Returns:
        At most round(rate x N) neurons a group, largest margin first; scores are margins [g, l, n].

    Raises:
        GatescopeError: for one group only, a group without tokens, or a rate outside (0, 1].

    >>> from gatescope.neurons import Layout
    >>> import dataclasses
    >>> c = Counters.zeros(["a", "b"], Layout.single("gate", 1, 4))
    >>> c = dataclasses.replace(c, K=torch.tensor([[[8, 4, 2, 0]], [[0, 4, 6, 0]]]), T=torch.tensor([8, 8]))
    >>> {g: list(s) for g, s in cas(c, rate=0.5).items()}
    {'a': [('gate', 0, 0)], 'b': [('gate', 0, 2)]}
    """
    if len(counters.groups) < 2:
        raise GatescopeError(
            f"CAS compares groups and needs at least two; there are counters for {list(counters.groups)} only."
        )
    rates = counters.P
    best = rates.topk(2, dim=0)
    margin, winner = best.values[0] - best.values[1], best.indices[0]
    groups = torch.arange(len(counters.groups))[:, None, None]
    scores = torch.where((winner == groups) & (margin > 0), margin, -torch.inf)
    return top("CAS", counters, rate, scores, [rates])


@checked
def random(counters: Counters, rate: float, *, seed: int = 0) -> Selection:
    """RND: round(rate x N) neurons drawn uniformly from all layers; the same draw for every group.

    Raises:
        GatescopeError: for a rate outside (0, 1].
    """
    wanted = wanted_count(counters.layout, rate)
    order = torch.randperm(counters.layout.size, generator=torch.Generator().manual_seed(seed))
    origin = {"method": "RND", "rate": str(rate), "seed": str(seed)}
    drawn = NeuronSet(counters.layout, order[:wanted], counters.model, origin)
    return Selection("RND", dict.fromkeys(counters.groups, drawn), wanted)
