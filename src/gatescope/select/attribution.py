"""CULNIG's selectors, on attributions ("Neuron-Level Analysis of Cultural Understanding in LLMs", section 3.3).

General. With every country's scores summed, the score of a neuron is s(questions) - s(control). The top t% are taken,
MLP and attention ranked apart; of these, the neurons that are among the top r% of the reading-comprehension set
(superficial ones, that respond to country names) are dropped. Nothing is refilled.

Specific, for a country c: the same with c's own scores and all modules in one pool, and of these only the neurons
whose score for c has a z-score of at least `z` over all the countries.

Where paper and published code differ the code is the default: control scores are clamped at 0 example by example,
sums are divided by the number of distinct items of all countries, z uses the population's standard deviation
(a neuron that is the same everywhere has z = 0 and is dropped), counts are rounded down. Ties are broken by site,
layer and index. `control=None` takes nothing off the questions' scores (the paper's Table 19).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core.attributions import Attributions
from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.core.relatives import check_same_model
from gatescope.select.selection import Selection, top

ATTENTION = ("q", "k", "v")
Sets = Attributions | Sequence[Attributions]
Pairs = list[tuple[Attributions, Attributions | None]]


@checked
def culnig_general(
    scores: Sets,
    control: Sets | None,
    exclude: Attributions | None,
    *,
    mlp_rate: float = 0.01,
    attention_rate: float = 0.002,
    exclude_rate: float = 0.01,
    clamp_control: bool = True,
    per_item: bool = True,
) -> NeuronSet:
    """Culture-general neurons: MLP first, then attention, each best first.

    Args:
        scores: of the questions, all countries; several datasets' add up, each divided by its own items.
        control: of the same questions with the question removed; one for each of `scores`. None for no control.
        exclude: of the reading-comprehension set, all countries it has; None to drop nothing.
        mlp_rate, attention_rate: share of each pool's neurons to take, before dropping.
        exclude_rate: share of each pool's neurons that count as superficial.
        clamp_control: count an example's negative control scores as 0 (published code; the paper does not).
        per_item: divide by the number of distinct items (published code) instead of plain sums (equation 10).

    Raises:
        GatescopeError: if the sets belong to different models or sites, the control set is empty, or a country of the
            questions is missing from the control set.
    """
    pairs = _pairs(scores, control, exclude)
    first = pairs[0][0]
    score = _general_scores(pairs, clamp_control, per_item)
    selected: list[Tensor] = []
    for pool, rate in ((_pool(first, attention=False), mlp_rate), (_pool(first, attention=True), attention_rate)):
        chosen = _top(score, pool, rate)
        # Not refilled, as in the paper: the set may end smaller than its rate.
        if exclude is not None:
            chosen = chosen[~torch.isin(chosen, _top(exclude.sums.sum(0), pool, exclude_rate))]
        selected.append(chosen)
    provenance = {
        "method": "CULNIG-general",
        "mlp_rate": str(mlp_rate),
        "attention_rate": str(attention_rate),
        "exclude_rate": str(exclude_rate if exclude is not None else 0),
        **_control_provenance(control, clamp_control),
        "per_item": str(per_item),
    }
    return NeuronSet(first.layout, torch.cat(selected), first.model, provenance)


@checked
def culnig_specific(
    scores: Sets,
    control: Sets | None,
    exclude: Attributions | None,
    *,
    rate: float = 0.003,
    exclude_rate: float = 0.01,
    z: float = 0.5,
    clamp_control: bool = True,
    per_item: bool = True,
    country_mean: bool = False,
    ddof: int = 0,
    countries: Sequence[str] | None = None,
) -> Selection:
    """Culture-specific neurons of each country.

    Args:
        scores, control, exclude, clamp_control, per_item: as for `culnig_general`.
        rate: share of all neurons, MLP and attention together, to take before dropping.
        exclude_rate: share of all neurons that count as superficial, by the country's own reading scores.
        z: least z-score over all countries of `scores`.
        country_mean: divide each country's sums by its own number of examples, instead of all by the same.
        ddof: of the standard deviation; 0 is the population's.
        countries: which to select for; those of the reading set by default (all, if there is none).

    Returns:
        A NeuronSet for each country, best first; scores are z-scores [g, 1, n] over the flat layout.

    Raises:
        GatescopeError: as `culnig_general`, for a country that is missing from one of the sets, and for a `z` that is no finite
            number.
    """
    check_z(z)
    pairs = _pairs(scores, control, exclude)
    first = pairs[0][0]
    targets = tuple(countries or (first if exclude is None else exclude).groups)
    _check_has(first, targets, "the questions, which have")
    if exclude is not None:
        _check_has(exclude, targets, "the reading set, which has")
    table = _specific_scores(pairs, clamp_control, per_item, country_mean)
    spread = table.std(0, correction=ddof)
    # A neuron with the same score everywhere would give 0 / 0; at z = 0 it is dropped.
    zscores = torch.where(spread > 0, (table - table.mean(0)) / spread, 0.0)
    pool = torch.ones(first.layout.size, dtype=torch.bool)
    # Rounded down, as in the published code.
    count = int(first.layout.size * rate)
    sets: dict[str, NeuronSet] = {}
    for country in targets:
        row = first.row(country)
        chosen = _top(table[row], pool, rate)
        if exclude is not None:
            # The country's own reading scores: a neuron may respond to one name only.
            superficial = _top(exclude.sums[exclude.row(country)], pool, exclude_rate)
            chosen = chosen[~torch.isin(chosen, superficial)]
        chosen = chosen[zscores[row, chosen] >= z]
        provenance = {"method": "CULNIG-specific", "group": country, "rate": str(rate), "z": str(z), "ddof": str(ddof)}
        if control is None:
            provenance.update(_control_provenance(control, clamp_control))
        sets[country] = NeuronSet(first.layout, chosen, first.model, provenance)
    rows = [first.row(country) for country in targets]
    # The flat layout spans several sites, so its scores have one axis in the place of layers.
    return Selection("CULNIG-specific", sets, count, zscores[rows][:, None, :])


@checked
def culnig_scores(
    scores: Sets,
    control: Sets | None,
    *,
    country: str | None = None,
    clamp_control: bool = True,
    per_item: bool = True,
    country_mean: bool = False,
) -> Float64[Tensor, " n"]:
    """The scores CULNIG's selectors rank by, for every neuron of the layout: s(questions) - s(control).

    The published code keeps it with its neurons as `attribute_score`; `gatescope.interop.published.write_culnig` takes it.

    Args:
        scores, control, clamp_control, per_item, country_mean: as given to the selector.
        country: whose, as `culnig_specific` ranks; all countries together, as `culnig_general` does, if None.

    Raises:
        GatescopeError: as the selectors do.
    """
    pairs = _pairs(scores, control, None)
    if country is None:
        return _general_scores(pairs, clamp_control, per_item)
    return _specific_scores(pairs, clamp_control, per_item, country_mean)[pairs[0][0].row(country)]


@checked
def att(scores: Attributions, rate: float) -> Selection:
    """Attribution difference: a group's mean score minus the mean of the other groups', MAD's contrast on attributions.

    From no paper: the gradient-based counterpart of the activation-based ones, for comparing them on one site.

    Raises:
        GatescopeError: for one group only, several sites, or a rate outside (0, 1].
    """
    if len(scores.groups) < 2:
        raise GatescopeError(f"ATT compares groups and needs at least two; there are attributions for {list(scores.groups)}.")
    site = scores.layout.only()
    # At least 1: the sums of a group without examples are 0 anyway.
    means = scores.sums / scores.seen.clamp(min=1)[:, None]
    others = (means.sum(0, keepdim=True) - means) / (len(scores.groups) - 1)
    return top("ATT", scores, rate, (means - others).unflatten(1, site.shape))


def _pool(scores: Attributions, *, attention: bool) -> Bool[Tensor, " n"]:
    return torch.cat([torch.full((s.size,), (s.site in ATTENTION) == attention) for s in scores.layout.sites])


def _top(score: Float64[Tensor, " n"], pool: Bool[Tensor, " n"], rate: float) -> Int64[Tensor, " k"]:
    """Flat numbers of the floor(rate x pool) best of a pool; ties by flat number, that is by site, layer, index."""
    check_share(rate)
    members = pool.nonzero().flatten()
    # Stable, so that ties stay in flat order.
    order = np.argsort(-score[members].numpy(), kind="stable")[: int(len(members) * rate)]
    return members[torch.from_numpy(order)]


def check_share(rate: float) -> None:
    """Refuse a rate that is no share of a pool.

    Raises:
        GatescopeError: if it is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise GatescopeError(f"rate is {rate}; it is a share of a pool of neurons, so it must lie in [0, 1].")


def check_z(z: float) -> None:
    """Refuse a least z-score that no score can be compared with, or that all or none would reach.

    Raises:
        GatescopeError: if it is NaN or infinite.
    """
    if not math.isfinite(z):
        raise GatescopeError(f"z is {z}; it is the least z-score over all countries, so it must be a number, such as 0.5.")


def _scaled(scores: Attributions, per_item: bool, clamp: bool = False, country_mean: bool = False) -> Float64[Tensor, "g n"]:
    sums = scores.clamped if clamp else scores.sums
    if country_mean:
        return sums / scores.seen[:, None]
    # In the published code an item counts once, however many wordings it has.
    return sums / scores.items if per_item else sums


def _general_scores(pairs: Pairs, clamp: bool, per_item: bool) -> Float64[Tensor, " n"]:
    score = torch.zeros(pairs[0][0].layout.size, dtype=torch.float64)
    for questions, removed in pairs:
        own = _scaled(questions, per_item).sum(0)
        score += own if removed is None else own - _scaled(removed, per_item, clamp).sum(0)
    return score


def _specific_scores(pairs: Pairs, clamp: bool, per_item: bool, country_mean: bool) -> Float64[Tensor, "g n"]:
    first = pairs[0][0]
    table = torch.zeros(len(first.groups), first.layout.size, dtype=torch.float64)
    for questions, removed in pairs:
        table += _scaled(questions, per_item, country_mean=country_mean)[[questions.row(c) for c in first.groups]]
        if removed is not None:
            table -= _scaled(removed, per_item, clamp, country_mean)[[removed.row(c) for c in first.groups]]
    return table


def _control_provenance(control: Sets | None, clamp_control: bool) -> dict[str, str]:
    return {"control": "none"} if control is None else {"clamp_control": str(clamp_control)}


def _pairs(scores: Sets, control: Sets | None, exclude: Attributions | None) -> Pairs:
    """Each dataset's questions with its control set, all of one model, the same sites and the same countries."""
    questions = [scores] if isinstance(scores, Attributions) else list(scores)
    removed: list[Attributions | None] = [None] * len(questions)
    if control is not None:
        removed = [control] if isinstance(control, Attributions) else list(control)
    if not questions or len(questions) != len(removed):
        raise GatescopeError(
            f"There are {len(questions)} sets of questions and {len(removed)} control sets; each needs its own."
        )
    for dataset, without_question in zip(questions, removed, strict=True):
        _check(dataset, without_question, exclude)
        # All against the first: their scores are added neuron by neuron.
        _check(questions[0], dataset, None)
        _check_has(dataset, questions[0].groups, "one of the sets of questions, which has")
        if without_question is not None:
            _check_has(without_question, questions[0].groups, "the control set, which has")
    return list(zip(questions, removed, strict=True))


def _check(scores: Attributions, control: Attributions | None, exclude: Attributions | None) -> None:
    if control is not None and (control.items == 0 or int(control.seen.sum()) == 0):
        raise GatescopeError("The control set is empty; attribute the questions with the question text removed, and pass that.")
    for other in (control, exclude):
        if other is None:
            continue
        check_same_model(scores.model, other.model, "compare attributions")
        if other.layout != scores.layout:
            raise GatescopeError(f"Attributions over {scores.layout} and over {other.layout} cannot be compared.")


def _check_has(scores: Attributions, countries: Iterable[str], name: str) -> None:
    for country in countries:
        if country not in scores.groups:
            raise GatescopeError(f"{country!r} is missing from {name} {list(scores.groups)}.")
