"""Where the neurons are: by layer and group, how their scores lie, how far the sets overlap.

A selector whose sets are the same for all groups (RND) is shown once, as "all groups".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gatescope.core.neurons import NeuronSet
from gatescope.reports.effects import EVERYONE, Matrix
from gatescope.select.selection import Selection
from gatescope.statistics.table import ALL

BINS = 60


@dataclass(frozen=True)
class Histogram:
    """How one group's scores lie in one selector: all finite scores, and those of the selected neurons, by bin."""

    selector: str
    group: str
    edges: tuple[float, ...]
    neurons: tuple[int, ...]
    selected: tuple[int, ...]
    never: int


def sets(selection: Selection) -> dict[str, NeuronSet]:
    """A selection's sets by the name to show; one where all are the same."""
    each = list(selection.values())
    if list(selection) == [ALL] or (len(each) > 1 and all(other == each[0] for other in each)):
        return {EVERYONE: each[0]}
    return dict(selection)


def layers(selections: Mapping[str, Selection]) -> tuple[Matrix, ...]:
    """Neurons by group (rows) and layer (columns), of each selector and site that has any (VLM paper, Figure 5)."""
    panels = []
    for name, selection in selections.items():
        shown = sets(selection)
        if not shown:
            continue
        sites = next(iter(shown.values())).layout.sites
        for site in sites:
            counts = {group: neurons.per_layer(site.site).tolist() for group, neurons in shown.items()}
            if not any(map(any, counts.values())):
                continue
            columns = tuple(str(layer) for layer in range(site.layers))
            tips = tuple(
                tuple(f"{group}, layer {layer}\n{n} of {site.width} {site.site} neurons" for layer, n in enumerate(row))
                for group, row in counts.items()
            )
            title = name if len(sites) == 1 else f"{name}, {site.site}"
            values = tuple(tuple(map(float, row)) for row in counts.values())
            own = tuple(tuple(False for _ in row) for row in values)
            panels.append(Matrix(title, tuple(counts), columns, values, tips, own))
    return tuple(panels)


def histograms(selections: Mapping[str, Selection]) -> tuple[Histogram, ...]:
    """Distributions of scores, by selector and group, in bins that a selector's groups share.

    Scores of -inf ("never") are counted apart; a selector without scores, or with none finite, is left out.
    """
    found = []
    for name, selection in selections.items():
        if selection.scores is None:
            continue
        scores = selection.scores.flatten(1).numpy()
        finite = np.isfinite(scores)
        if not finite.any() or len(scores) != len(selection):
            continue
        low, high = float(scores[finite].min()), float(scores[finite].max())
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        for group, row, real in zip(selection, scores, finite, strict=True):
            chosen = row[selection[group].flat.numpy()]
            every, selected = (tuple(np.histogram(v, edges)[0].tolist()) for v in (row[real], chosen[np.isfinite(chosen)]))
            found.append(Histogram(name, group, tuple(edges.tolist()), every, selected, int((~real).sum())))
    return tuple(found)


def overlap_of_groups(selections: Mapping[str, Selection]) -> tuple[Matrix, ...]:
    """Jaccard overlap between the groups of each selector that has different sets for them."""
    panels = []
    for name, selection in selections.items():
        if len(sets(selection)) < 2:
            continue
        values = tuple(map(tuple, selection.jaccard().tolist()))
        groups = tuple(selection)
        tips = tuple(tuple(_told(a, selection[a], b, selection[b], v) for b, v in zip(groups, row, strict=True))
                     for a, row in zip(groups, values, strict=True))  # fmt: skip
        own = tuple(tuple(a == b for b in groups) for a in groups)
        panels.append(Matrix(name, groups, groups, values, tips, own))
    return tuple(panels)


def overlap_of_selectors(selections: Mapping[str, Selection]) -> Matrix | None:
    """Jaccard overlap between selectors, mean over the groups both have; None with fewer than two selectors."""
    if len(selections) < 2:
        return None
    names = tuple(selections)
    each = {(a, b): between(selections[a], selections[b]) for a, b in itertools.product(names, names)}
    mean = {pair: sum(by.values()) / len(by) if by else math.nan for pair, by in each.items()}
    tips = {
        (a, b): f"{a} and {b}\n" + ("\n".join(f"{g}: {v:.2f}" for g, v in by.items()) or "no group in common")
        for (a, b), by in each.items()
    }
    return Matrix(
        "mean over groups",
        names,
        names,
        tuple(tuple(mean[a, b] for b in names) for a in names),
        tuple(tuple(tips[a, b] for b in names) for a in names),
        tuple(tuple(a == b for b in names) for a in names),
    )


def between(a: Selection, b: Selection) -> dict[str, float]:
    """Jaccard overlap of two selections' sets, by group; none where they are of different models or sites."""
    common = [group for group in a if group in b]
    if not common or a[common[0]].layout != b[common[0]].layout or a[common[0]].model != b[common[0]].model:
        return {}
    return {g: len(a[g] & b[g]) / max(len(a[g] | b[g]), 1) for g in common}


def _told(a: str, first: NeuronSet, b: str, second: NeuronSet, share: float) -> str:
    both = round(share * (len(first) + len(second)) / (1 + share))
    return f"{a} and {b}\n{both} neurons in common; of {len(first)} and {len(second)}\noverlap {share:.3f}"
