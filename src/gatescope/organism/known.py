"""How well a selection finds the neurons that are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gatescope.core.errors import GatescopeError
from gatescope.core.neurons import NeuronSet
from gatescope.select import Selection


@dataclass(frozen=True)
class Score:
    """How one group's selected neurons compare with its known ones, each in 0 .. 1.

    Attributes:
        precision: share of the selected that are known; 0 if nothing was selected.
        recall: share of the known that were selected.
        average_precision: mean over the known neurons of the precision among those ranked down to each; 1 if the
            known come first, whatever the number selected. A neuron that is not ranked counts 0.
    """

    precision: float
    recall: float
    average_precision: float


def score(selection: Selection, known: Mapping[str, NeuronSet]) -> dict[str, Score]:
    """Compare each group's selected neurons with its known ones; groups that are not known are left out.

    Average precision ranks every neuron by `selection.scores` [g, l, n], highest first, -inf last, equals by flat
    number (a selector's own tie-breaks are not in its scores). Without scores only the selected neurons are
    ranked, in the order of their set, and known neurons among the rest count as not retrieved.

    Raises:
        GatescopeError: if no neurons are known at all, or the two are of different models.
    """
    if not known:
        raise GatescopeError(
            "There are no known neurons to compare with: `known` is empty, as it is for an organism trained without "
            'routed neurons (KINDS["plain"]). Use an organism of another kind.'
        )
    return {group: _score(selection, row, known[group]) for row, group in enumerate(selection) if group in known}


def precision(selection: Selection, known: Mapping[str, NeuronSet]) -> dict[str, float]:
    """Share of each group's selected neurons that are its known ones (precision at k); see `score`."""
    return {group: scored.precision for group, scored in score(selection, known).items()}


def _score(selection: Selection, row: int, known: NeuronSet) -> Score:
    selected = list(selection.values())[row]
    common = len(selected & known)
    ranking = selected.flat
    if selection.scores is not None:
        # Stable, so that equal scores stay in flat order.
        ranking = selection.scores[row].flatten().argsort(descending=True, stable=True)
    hits = torch.isin(ranking, known.flat)
    precisions = hits.cumsum(0).double() / torch.arange(1, len(ranking) + 1)
    average = precisions[hits].sum().item() / max(len(known), 1)
    # At least 1: an empty set scores 0, not 0 / 0.
    return Score(common / max(len(selected), 1), common / max(len(known), 1), average)
