"""Where the neurons are: by layer and group, how their scores lie, how far the sets overlap.

A selector whose sets are the same for all groups (RND) is shown once, as "all groups".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatescope.core.layout import SiteShape
from gatescope.core.neurons import NeuronSet
from gatescope.core.relatives import same_card
from gatescope.reports.effects import EVERYONE, Entry, Matrix
from gatescope.reports.words import overlap
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
    neuron_sets = list(selection.values())
    # RND has the same set for every group: once is enough.
    if list(selection) == [ALL] or (len(neuron_sets) > 1 and all(other == neuron_sets[0] for other in neuron_sets)):
        return {EVERYONE: neuron_sets[0]}
    return dict(selection)


def layers(selections: Mapping[str, Selection]) -> tuple[Matrix, ...]:
    """Neurons by group (rows) and layer (columns), of each selector and site that has any (VLM paper, Figure 5)."""
    panels: list[Matrix] = []
    for name, selection in selections.items():
        shown = sets(selection)
        sites = next(iter(shown.values())).layout.sites if shown else ()
        for site in sites:
            counts = {group: neurons.per_layer(site.site).tolist() for group, neurons in shown.items()}
            if any(map(any, counts.values())):
                title = name if len(sites) == 1 else f"{name}, {site.site}"
                panels.append(_by_layer(title, site, counts))
    return tuple(panels)


def _by_layer(title: str, site: SiteShape, counts: Mapping[str, Sequence[int]]) -> Matrix:
    def entry(group: str, layer: str) -> Entry:
        n = counts[group][int(layer)]
        return Entry(float(n), lambda: f"{group}, layer {layer}\n{n} of {site.widths[int(layer)]} {site.site} neurons")

    return Matrix.of(title, tuple(counts), [str(layer) for layer in range(site.layers)], entry)


def histograms(selections: Mapping[str, Selection]) -> tuple[Histogram, ...]:
    """Distributions of scores, by selector and group, in bins that a selector's groups share.

    Scores of -inf ("never") are counted apart; a selector without scores, or with none finite, is left out.
    """
    return tuple(histogram for name, selection in selections.items() for histogram in _histograms(name, selection))


def _histograms(name: str, selection: Selection) -> Iterator[Histogram]:
    if selection.scores is None or len(selection.scores) != len(selection):
        return
    scores = selection.scores.flatten(1).numpy()
    # Selectors give -inf to neurons that can never be chosen.
    finite = np.isfinite(scores)
    if not finite.any():
        return
    low, high = float(scores[finite].min()), float(scores[finite].max())
    # Scores that are all alike would have bins of no width.
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)

    def binned(values: np.ndarray) -> tuple[int, ...]:
        return tuple(np.histogram(values[np.isfinite(values)], edges)[0].tolist())

    for group, row, real in zip(selection, scores, finite, strict=True):
        selected = binned(row[selection[group].flat.numpy()])
        yield Histogram(name, group, tuple(edges.tolist()), binned(row), selected, int((~real).sum()))


def overlap_of_groups(selections: Mapping[str, Selection]) -> tuple[Matrix, ...]:
    """Jaccard overlap between the groups of each selector that has different sets for them."""
    return tuple(_between_groups(name, selection) for name, selection in selections.items() if len(sets(selection)) > 1)


def _between_groups(name: str, selection: Selection) -> Matrix:
    groups, shares = tuple(selection), selection.jaccard().tolist()
    place = {group: number for number, group in enumerate(groups)}

    def entry(a: str, b: str) -> Entry:
        share = shares[place[a]][place[b]]
        return Entry(share, lambda: _tip(a, selection[a], b, selection[b], share), a == b)

    return Matrix.of(name, groups, groups, entry)


def overlap_of_selectors(selections: Mapping[str, Selection]) -> Matrix | None:
    """Jaccard overlap between selectors, mean over the groups both have; None with fewer than two selectors."""
    if len(selections) < 2:
        return None

    def entry(a: str, b: str) -> Entry:
        shares = between(selections[a], selections[b])
        mean = sum(shares.values()) / len(shares) if shares else math.nan
        groups = "\n".join(f"{group}: {overlap(share)}" for group, share in shares.items())
        return Entry(mean, lambda: f"{a} and {b}\n{groups or 'no group in common'}", a == b)

    return Matrix.of("mean over groups", tuple(selections), tuple(selections), entry)


def between(a: Selection, b: Selection) -> dict[str, float]:
    """Jaccard overlap of two selections' sets, by group; none where they are of different models or sites."""
    common = [group for group in a if group in b]
    if not common:
        return {}
    one, other = a[common[0]], b[common[0]]
    # The same numbers mean other neurons there.
    if one.layout != other.layout or not same_card(one.model, other.model):
        return {}
    return {g: len(a[g] & b[g]) / max(len(a[g] | b[g]), 1) for g in common}


def _tip(a: str, first: NeuronSet, b: str, second: NeuronSet, share: float) -> str:
    # Computed back from the share: intersecting thousands of pairs of sets again would take longer than the rest of a page.
    both = round(share * (len(first) + len(second)) / (1 + share))
    return f"{a} and {b}\n{both} neurons in common; of {len(first)} and {len(second)}\noverlap {overlap(share)}"
