"""The numbers of the page as CSV, one row a fact, unrounded; empty where there is no number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from gatescope.core.counters import Counters
from gatescope.reports import found, summary
from gatescope.reports.effects import MEASURES, PARTS, Cell, Effect
from gatescope.reports.words import Value
from gatescope.select.selection import Selection
from gatescope.statistics.table import Table


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as CSV; NaN is left empty.

    >>> csv_text(["a", "b"], [["x, y", float("nan")]])
    'a,b\n"x, y",\n'
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_field(v) for v in row] for row in rows)
    return buffer.getvalue()


def effects_csv(swept: Mapping[str, Sequence[Effect]]) -> str:
    """Self, cross and gap with their intervals, by sweep."""
    header = ["sweep", "selector", "measure", *(f"{part}{end}" for part in PARTS for end in ("", " low", " high"))]
    rows: list[list[object]] = []
    for name, effects in swept.items():
        for effect in effects:
            for kind, measure in MEASURES.items():
                numbers = [number for part in PARTS for number in _three(effect.of(kind)[part])]
                rows.append([name, effect.selector, measure, *numbers])
    return csv_text(header, rows)


def cells_csv(swept: Mapping[str, Sequence[Cell]]) -> str:
    """Every mask on every group, by sweep."""
    header = ["sweep", "selector", "mask", "group", "own", "examples", "right before", "right after", "answers changed"]
    header += [f"{measure}{end}" for measure in MEASURES.values() for end in ("", " low", " high")]
    header += ["McNemar p", "Holm p"]
    rows: list[list[object]] = []
    for name, cells in swept.items():
        for c in cells:
            which = [name, c.selector, c.mask, c.group, c.own]
            rows.append([*which, c.examples, c.before, c.after, c.changed, *_three(c.accuracy), *_three(c.flips), c.p, c.holm])
    return csv_text(header, rows)


def groups_csv(table: Table, counters: Counters | None) -> str:
    """The groups: what was seen and counted, and how the full model answers."""
    accuracy = dict(zip(table.groups, table.accuracy().tolist(), strict=True))
    sums = summary.counted(counters)
    # Groups of one half alone are listed too.
    names = dict.fromkeys([*sums, *accuracy])
    header = ["group", "identification examples", "counted examples", "counted tokens", "accuracy of the full model"]
    return csv_text(header, [[name, *sums.get(name, ("", "", "")), accuracy.get(name, "")] for name in names])


def layers_csv(selections: Mapping[str, Selection]) -> str:
    """Neurons by selector, group, site and layer."""
    rows = [
        [name, group, site.site, layer, n]
        for name, selection in selections.items()
        for group, neurons in selection.items()
        for site in neurons.layout.sites
        for layer, n in enumerate(neurons.per_layer(site.site).tolist())
    ]
    return csv_text(["selector", "group", "site", "layer", "neurons"], rows)


def overlap_csv(selections: Mapping[str, Selection]) -> str:
    """Jaccard overlap: between the groups of a selector, and of one group between selectors."""
    rows: list[list[object]] = []
    for name, selection in selections.items():
        shares = selection.jaccard().flatten().tolist()
        rows += [[name, a, name, b, share] for (a, b), share in zip(product(selection, selection), shares, strict=True)]
    for a, first in selections.items():
        for b, second in selections.items():
            # A selector against itself is in the rows above, group by group.
            if a != b:
                rows += [[a, group, b, group, v] for group, v in found.between(first, second).items()]
    return csv_text(["selector", "group", "other selector", "other group", "jaccard"], rows)


def scores_csv(histograms: Sequence[found.Histogram]) -> str:
    """Distributions of scores, bin by bin; a bin of "never" (-inf) first."""
    rows: list[list[object]] = []
    for h in histograms:
        # They have no place on a linear scale, but without them the rows would not add up to all neurons.
        rows.append([h.selector, h.group, "-inf", "-inf", h.never, 0])
        bins = zip(h.edges, h.edges[1:], h.neurons, h.selected, strict=False)
        rows += [[h.selector, h.group, *bin_] for bin_ in bins]
    return csv_text(["selector", "group", "from", "to", "neurons", "selected"], rows)


def _field(value: object) -> object:
    """A number as it stands, a truth as 0 or 1, NaN as nothing."""
    # Spreadsheets read True and False in the language of their user.
    if value is True or value is False:
        return int(value)
    return "" if value != value else value  # only NaN is not itself


def _three(value: Value) -> tuple[float, float, float]:
    return value.value, value.low, value.high
