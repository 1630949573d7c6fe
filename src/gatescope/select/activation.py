"""Selectors on firing counters, from "Finding Culture-Sensitive Neurons in Vision-Language Models".

With P = K / T the firing rate and M = S / T the mean positive activation of a neuron on a group:

    RND      a uniform draw from all layers, one for every group; or matched to a selection's layers      (B.2.1)
    LAP(g)   P_g                                                                                          (eq. 3)
    LAPE     low entropy of P normalised over groups; assigned to the group with the highest P            (eq. 4)
    MAD(g)   M_g - mean of the others' M                                                                  (eq. 6)
    CAS(g)   P1 - P2 if g has the highest rate P1, else never; P2 is the second highest. The paper's
             second version calls it ConAct.                                                              (3.4)

LAP, LAPE and MAD pass an activity gate: a rate at least the alpha-percentile of all rates of all neurons and groups,
zeros included. Where the paper is silent: equality passes the gate; percentiles are numpy's linear ones
(`interpolation="kth"` for the published LAPE code's); CAS has no gate unless `alpha` is given; a neuron that two groups
share first place on (dead neurons among them) is nobody's (`ties="first"` gives it to the first listed); what is left
tied is ordered by (layer, index).

A neuron that never fires has no entropy and is dropped, whatever the gate. Entropies that differ by no more than
rounding (1e-12) are equal: of neurons whose rates are the same up to the groups' order, the first numbered comes first.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.neurons import NeuronSet
from gatescope.select.selection import Selection, top, wanted_count

INTERPOLATIONS = ("linear", "kth")
ROUNDING = 1e-12  # entropies are sums of a few float64 terms below 1: their error is a thousandth of this


@checked
def cas(
    counters: Counters,
    rate: float,
    *,
    alpha: float | None = None,
    interpolation: str = "linear",
    ties: str = "nobody",
) -> Selection:
    """Contrastive Activation Selection (equations of section 3.4).

    Args:
        counters: of at least two groups with tokens.
        rate: share of all neurons to select for each group, in (0, 1].
        alpha: percentile of the activity gate; no gate if None, as in the paper.
        interpolation: of the percentile, "linear" or "kth".
        ties: "nobody" or "first": whose a neuron is that several groups share first place on.

    Returns:
        At most round(rate x N) neurons a group, largest margin first; scores are margins [g, l, n].

    Raises:
        GatescopeError: for one group only, a group without tokens, or a rate outside (0, 1].

    >>> from gatescope.core.neurons import Layout
    >>> import dataclasses
    >>> c = Counters.zeros(["a", "b"], Layout.single("gate", 1, 4))
    >>> c = dataclasses.replace(c, K=torch.tensor([[[8, 4, 2, 0]], [[0, 4, 6, 0]]]), T=torch.tensor([8, 8]))
    >>> {g: list(s) for g, s in cas(c, rate=0.5).items()}
    {'a': [('gate', 0, 0)], 'b': [('gate', 0, 2)]}
    """
    _several_groups("CAS", counters)
    one_of("ties", ties, ("nobody", "first"))
    rates = counters.P
    # max() names the first of equals, as the literal reading wants
    winner = rates.max(0).indices
    margin = margins(rates)
    own = torch.arange(len(counters.groups))[:, None, None] == winner
    scores = torch.where(own & ((margin > 0) | (ties == "first")), margin, -torch.inf)
    why = "a neuron is only its top group's"
    if alpha is not None:
        scores, why = _gated(scores, rates, alpha, interpolation), f"{why}, and the activity gate (alpha {alpha}) drops some"
    return top("CAS", counters, rate, scores, [rates], why_fewer=why)


conact = cas


@checked
def lap(counters: Counters, rate: float, *, alpha: float | None = 95, interpolation: str = "linear") -> Selection:
    """Activation probability (equation 3): the neurons that fire most often for a group.

    Ties go to the larger margin over the other groups. Arguments and errors as for `cas`; `alpha=None` lifts the gate.
    """
    _several_groups("LAP", counters)
    rates = counters.P
    scores = _gated(rates, rates, alpha, interpolation)
    return top("LAP", counters, rate, scores, [margins(rates)], why_fewer=f"the activity gate (alpha {alpha}) drops some")


@checked
def mad(counters: Counters, rate: float, *, alpha: float | None = 95, interpolation: str = "linear") -> Selection:
    """Mean activation difference (equations 5 to 7); a negative difference may be selected.

    Ties go to the larger P, then to the larger margin of M. Arguments and errors as for `cas`.
    """
    _several_groups("MAD", counters)
    rates, means = counters.P, counters.M
    others = (means.sum(0, keepdim=True) - means) / (len(counters.groups) - 1)
    # The gate is on rates here too: a mean may come from a few tokens alone.
    scores = _gated(means - others, rates, alpha, interpolation)
    ties = [rates, margins(means)]
    return top("MAD", counters, rate, scores, ties, why_fewer=f"the activity gate (alpha {alpha}) drops some")


@checked
def lape(
    counters: Counters,
    rate: float,
    *,
    rho: float | None = None,
    alpha: float = 95,
    beta: float = 90,
    interpolation: str = "linear",
    variant: str = "vlm",
) -> Selection:
    """Activation probability entropy (equation 4).

    `variant="vlm"`, the VLM paper's (B.2.3): of the neurons that fire and whose highest rate passes the gate, the rho%
    of lowest entropy (rounded up; 7% of 100 are 7) are kept, each assigned to its top group if its rate there is at least
    the beta-percentile, and ranked by rate, then lower entropy, then margin.

    `variant="tang2024"`, the original code's: a strict gate at the 95th of all rates (kth value), one pool of the
    round(rate x N) lowest entropies for all groups, and every group whose rate is over the gate gets the neuron. Rates
    are compared in float32, and half a neuron is rounded to the even number, as there. Sets differ in size, may overlap,
    and are in (layer, index) order.

    Args:
        counters, rate, alpha, interpolation: as for `cas`.
        rho: percent of the survivors to keep, in (0, 100]; needed for "vlm", for the paper does not give it.
        beta: percentile a rate must reach for assignment; vacuous while beta <= alpha.
        variant: which of the two.

    Raises:
        GatescopeError: as for `cas`; without rho; for an unknown variant.
    """
    _several_groups("LAPE", counters)
    one_of("variant", variant, ("vlm", "tang2024"))
    rates = counters.P
    entropies = _ranks(entropy(rates))
    if variant == "tang2024":
        return _lape_tang2024(counters, rate, entropies)
    if rho is None or not 0 < rho <= 100:
        raise GatescopeError(
            f"rho is {rho}; the VLM paper's LAPE keeps the rho% of lowest entropy and does not say how many: give a "
            f"percentage in (0, 100]. (variant='tang2024' is the original, which has none.)"
        )
    highest, winner = rates.max(0)
    survives = (highest > 0) & (highest >= threshold(rates, alpha, interpolation))
    # In exact arithmetic: in float64 7 percent of 100 are a little more than 7, and the ceiling is 8.
    keep = math.ceil(Fraction(str(rho)) * int(survives.sum()) / 100)
    pool = _lowest(torch.where(survives, entropies, torch.inf), keep)
    assigned = pool & (highest >= threshold(rates, beta, interpolation))
    own = torch.arange(len(counters.groups))[:, None, None] == winner
    scores = torch.where(own & assigned, rates, -torch.inf)
    ties = [(-entropies).expand_as(rates), margins(rates)]
    why = f"{int(assigned.sum())} neurons pass the activity gate (alpha {alpha}) and are among the {rho}% of lowest entropy"
    return top("LAPE", counters, rate, scores, ties, why_fewer=why)


def _lape_tang2024(counters: Counters, rate: float, entropies: Float64[Tensor, "l n"]) -> Selection:
    # What is equal in float32 is not over the bar there: counts are rounded to float32 before they are divided.
    rates = (counters.K.float() / counters.T.float()[:, None, None]).double()
    # Strictly over, as in the original code; in the VLM variant equality passes.
    over = rates > threshold(rates, 95, "kth")
    pool = _lowest(torch.where(over.any(0), entropies, torch.inf), wanted_count(counters.layout, rate))
    sets: dict[str, NeuronSet] = {}
    for g, group in enumerate(counters.groups):
        members = (pool & over[g]).flatten().nonzero().flatten()
        provenance = {"method": "LAPE (Tang 2024)", "group": group, "rate": str(rate)}
        sets[group] = NeuronSet(counters.layout, members, counters.model, provenance)
    scores = torch.where(over & pool, -entropy(counters.P), -torch.inf)
    return Selection("LAPE (Tang 2024)", sets, None, scores)


def _lowest(values: Float64[Tensor, "l n"], count: int) -> Bool[Tensor, "l n"]:
    """Which the `count` lowest are; of equal ones the first."""
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[torch.from_numpy(np.argsort(values.flatten().numpy(), kind="stable")[:count])] = True
    return chosen.view(values.shape)


def _ranks(values: Float64[Tensor, "l n"]) -> Float64[Tensor, "l n"]:
    """The place of each value when they are sorted, 0 for the lowest; values equal to within rounding share one."""
    order = values.flatten().argsort()
    # Sorted neighbours that differ by more than rounding start a new rank.
    steps = values.flatten()[order].diff(prepend=values.new_full((1,), -torch.inf)) > ROUNDING
    ranks = torch.empty_like(values).flatten()
    ranks[order] = steps.cumsum(0).double() - 1
    return ranks.view(values.shape)


@checked
def random(counters: Counters, rate: float, *, seed: int = 0, like: Selection | None = None) -> Selection:
    """RND: neurons drawn uniformly.

    Args:
        counters: whose groups and layout.
        rate: share of all neurons, in (0, 1]; not used with `like`.
        seed: of the draw.
        like: a selection to match: each group gets its own draw, with as many neurons in each layer.

    Returns:
        round(rate x N) neurons from all layers, the same draw for every group; or the matched draws.

    Raises:
        GatescopeError: for a rate outside (0, 1].
    """
    count = wanted_count(counters.layout, rate)
    generator = torch.Generator().manual_seed(seed)
    if like is None:
        order = torch.randperm(counters.layout.size, generator=generator)
        provenance = {"method": "RND", "rate": str(rate), "seed": str(seed)}
        drawn = NeuronSet(counters.layout, order[:count], counters.model, provenance)
        return Selection("RND", dict.fromkeys(counters.groups, drawn), count)
    site = counters.layout.only()
    # One generator for all groups, so that their draws differ.
    sets: dict[str, NeuronSet] = {}
    for group, neurons in like.items():
        counts = neurons.per_layer(site.site).tolist()
        flat: list[Tensor] = []
        for start, width, n in zip(site.starts, site.widths, counts, strict=True):
            flat.append(start + torch.randperm(width, generator=generator)[:n])
        provenance = {"method": "RND", "matched": f"layers of {like.method}", "group": group, "seed": str(seed)}
        sets[group] = NeuronSet(counters.layout, torch.cat(flat), counters.model, provenance)
    return Selection("RND (layers)", sets, None)


@checked
def margins(values: Float64[Tensor, "g l n"]) -> Float64[Tensor, "g l n"]:
    """Each group's value minus the largest of the others.

    >>> margins(torch.tensor([[[3.0]], [[1.0]], [[2.0]]], dtype=torch.float64)).flatten().tolist()
    [1.0, -2.0, -1.0]
    """
    best = values.topk(2, dim=0)
    # The best group is compared with the second, every other group with the best.
    first = torch.arange(len(values))[:, None, None] == best.indices[0]
    return values - torch.where(first, best.values[1], best.values[0])


@checked
def entropy(rates: Float64[Tensor, "g l n"]) -> Float64[Tensor, "l n"]:
    """Shannon entropy, in nats, of each neuron's rates normalised over groups; 0 for a neuron that never fires."""
    total = rates.sum(0)
    share = torch.where(total > 0, rates / total, 0.0)
    # xlogy, for 0 log 0 is 0 where a group never fires.
    return -torch.special.xlogy(share, share).sum(0)


@checked
def threshold(rates: Float64[Tensor, "g l n"], alpha: float, interpolation: str) -> float:
    """The alpha-percentile of all rates of all groups, zeros included.

    Raises:
        GatescopeError: for an alpha outside [0, 100].
    """
    if not 0 <= alpha <= 100:
        raise GatescopeError(f"alpha is {alpha}; it is a percentile, so it must lie in [0, 100].")
    one_of("interpolation", interpolation, INTERPOLATIONS)
    values = np.sort(rates.flatten().numpy())
    if interpolation == "kth":
        # torch.kthvalue, which the published code uses, counts from 1.
        return float(values[max(round(alpha / 100 * len(values)), 1) - 1])
    return float(np.percentile(values, alpha))


def _gated(scores: Tensor, rates: Tensor, alpha: float | None, interpolation: str) -> Tensor:
    return scores if alpha is None else scores.masked_fill(rates < threshold(rates, alpha, interpolation), -torch.inf)


def _several_groups(name: str, counters: Counters) -> None:
    if len(counters.groups) < 2:
        raise GatescopeError(
            f"{name} compares groups and needs at least two; there are counters for {list(counters.groups)} only."
        )
