"""Several runs side by side: models, selectors or sites; one self-contained page and its numbers as CSV."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from jaxtyping import Float64
from torch import Tensor

from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.relatives import SAME_LAYOUT, name_of
from gatescope.reports import found, maps, summary, tables
from gatescope.reports.effects import PARTS, Cell, Effect, Entry, Matrix, cells, effects, intervals, lead, together
from gatescope.reports.gathered import asked, sweeps
from gatescope.reports.page import MAPS, drawn, render, sizes
from gatescope.reports.words import NOTHING, number, with_span
from gatescope.select.selection import Selection
from gatescope.statistics.table import Table
from gatescope.steps.run import Run

TENTHS = 10


def compare(runs: Sequence[str | Path | Run], out: str | Path, *, allow: str | None = None) -> Path:
    """Write a page that puts the selectors of several runs next to each other; the numbers as CSV beside it.

    Of a run with several sweeps the first is compared. Runs on different questions are shown, with a note that says so.

    Args:
        runs: two or more run directories, each with a sweep.
        out: the page to write.
        allow: "same layout" shows how far the neurons of two models overlap, too, where their sites have the same layers and
            width, as those of a base model and its fine-tune; a note names the models. It means nothing elsewhere.

    Returns:
        The path of the page.

    Raises:
        GatescopeError: for fewer than two runs, one without a sweep, or relatives that have not the same layout.
    """
    if allow is not None:
        one_of("allow", allow, (SAME_LAYOUT,))
    if len(runs) < 2:
        raise GatescopeError(f"A comparison needs at least two runs; {len(runs)} was given.")
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    page = Path(out)
    # A directory given as --out is where the page goes, under its usual name.
    page = page / "compare.html" if page.is_dir() else page
    compared = [_read(name, run) for name, run in zip(_names([run.path for run in opened]), opened, strict=True)]
    notes: list[str] = []
    if allow is not None:
        compared, notes = _as_relatives(compared)
    rows = [effect for compared_run in compared for effect in compared_run.effects]
    artefacts.write_bytes(page.with_suffix(".csv"), tables.effects_csv({"": rows}).encode())
    artefacts.write_bytes(page, render("compare.html", _context(compared, rows, page.parent, notes)).encode())
    return page


@dataclass(frozen=True)
class Compared:
    """One of the runs; its selectors are called by its name and theirs.

    Attributes:
        name: what tells it from the others.
        run: its directory.
        table: its first sweep.
        fingerprint: of the questions of that sweep, where the run says.
        effects: of its selectors.
        own: by selector and group, what a group's own mask does to it.
        selections: its neurons.
    """

    name: str
    run: Run
    table: Table
    fingerprint: str | None
    effects: tuple[Effect, ...]
    own: dict[str, dict[str, Cell]]
    selections: dict[str, Selection]

    @property
    def questions(self) -> tuple[list[tuple[str, str]], str | None]:
        """What is the same in runs on the same questions."""
        return sorted((row.id, row.group) for row in self.table.full), self.fingerprint


def _read(name: str, run: Run) -> Compared:
    # The first only: sweeps of several tasks have no counterpart in the other runs.
    sweep, table = next(iter(sweeps(run).items()))
    bounds = intervals(table)
    own: dict[str, dict[str, Cell]] = {}
    for cell in cells(table, bounds):
        if cell.own:
            own.setdefault(f"{name}, {cell.selector}", {})[cell.group] = cell
    shown = tuple(replace(effect, selector=f"{name}, {effect.selector}") for effect in together(effects(table, bounds)))
    selections = {f"{name}, {selector}": selection for selector, selection in run.selections.items()}
    return Compared(name, run, table, asked(run.manifest, sweep), shown, own, selections)


def _as_relatives(compared: list[Compared]) -> tuple[list[Compared], list[str]]:
    """The runs with neurons that are no model's own, so that they can be compared by their numbers; and a note that says so.

    Raises:
        GatescopeError: if the models have not the same layout.
    """
    sets = [(run, neurons) for run in compared for selection in run.selections.values() for neurons in selection.values()]
    layouts = {str(neurons.layout): f"{run.name} has {neurons.layout}" for run, neurons in sets}
    if len(layouts) > 1:
        raise GatescopeError(f"allow={SAME_LAYOUT!r} needs runs with the same layout: {'; '.join(layouts.values())}.")

    def anybody_s(selection: Selection) -> Selection:
        return replace(selection, sets={group: replace(neurons, model={}) for group, neurons in selection.items()})

    models = dict.fromkeys(name_of(run.run.manifest["model"]) for run in compared)
    note = f"Neurons of different models are compared by their numbers, as was allowed ({SAME_LAYOUT}): {'; '.join(models)}."
    freed = [replace(run, selections={name: anybody_s(s) for name, s in run.selections.items()}) for run in compared]
    return freed, [note] if len(models) > 1 else []


def _context(compared: Sequence[Compared], rows: list[Effect], folder: Path, notes: list[str]) -> dict[str, Any]:
    """What the page shows."""
    selections: dict[str, Selection] = {}
    own: dict[str, dict[str, Cell]] = {}
    for compared_run in compared:
        selections |= compared_run.selections
        own |= compared_run.own
    across = found.overlap_of_selectors(selections)
    deep = _depth(selections)
    # Other questions, other accuracies: shown all the same, but not without saying so.
    same = all(compared_run.questions == compared[0].questions for compared_run in compared)
    note = "The runs were not asked the same questions, so their numbers differ for that reason too."
    return {
        "title": f"{len(compared)} runs",
        "lines": _lines(rows),
        "warnings": [*([] if same else [note]), *notes],
        "runs": [_about(compared_run, folder) for compared_run in compared],
        "effects": rows,
        "sizes": sizes(rows, selections),
        "kinds": [drawn(rows, kind, [_own(own, kind)]) for kind in MAPS],
        "layers": maps.heatmaps([deep], "share") if deep else None,
        "overlap": maps.heatmaps([across], "overlap") if across else None,
    }


def _about(compared_run: Compared, folder: Path) -> dict[str, str]:
    """The run's line in the list of runs, with a link to its own page where there is one."""
    link, manifest = compared_run.run.path / "report.html", compared_run.run.manifest
    return {
        "name": compared_run.name,
        # Relative, so that the directory can be moved with its pages.
        "link": quote(os.path.relpath(link, folder)) if link.is_file() else "",
        "model": ", neurons found on ".join([summary.model_name(manifest), *summary.found_elsewhere(manifest)]),
        "study": str(manifest.get("study", {}).get("name") or NOTHING),
        "questions": f"{len(compared_run.table.full):,}",
        "accuracy": number(compared_run.table.accuracy().mean().item()),
    }


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart; numbered if none do."""
    split = [path.absolute().parts for path in paths]
    for take in range(1, max(map(len, split)) + 1):
        names = ["/".join(names_of_path[-take:]) for names_of_path in split]
        if len(set(names)) == len(names):
            return names
    return [f"{number}. {names_of_path[-1]}" for number, names_of_path in enumerate(split, 1)]


def _lines(rows: Sequence[Effect]) -> list[str]:
    best = lead(tuple(rows))
    if best is None:
        return []
    self_, cross, gap = (with_span(best.accuracy[part], signed=True) for part in PARTS)
    # An interval that reaches into the best one's: the order of the two may be chance.
    near = [e.selector for e in rows if e is not best and e.accuracy["gap"].low <= best.accuracy["gap"].high]
    overlapping = f" The intervals of {', '.join(near)} overlap its own, so it may not be the largest." if near else ""
    return [
        f"The largest gap is that of {best.selector}: switching off a group's neurons changes its own accuracy by {self_} "
        f"points and that of the other groups by {cross}, a gap of {gap}.{overlapping} Brackets "
        f"hold 95% bootstrap intervals over questions."
    ]


def _own(own: Mapping[str, Mapping[str, Cell]], kind: str) -> Matrix:
    """What each group's own mask does to it, by selector and group."""

    def entry(selector: str, group: str) -> Entry:
        cell = own[selector].get(group)
        if cell is None:
            return Entry(math.nan, lambda: f"{group} was not asked")
        return Entry(cell.of(kind).value, partial(cell.tip, kind))

    groups = dict.fromkeys(group for cells_of in own.values() for group in cells_of)
    return Matrix.of("a group's own mask", tuple(own), tuple(groups), entry)


def _depth(selections: Mapping[str, Selection]) -> Matrix | None:
    """Percent of a selection's neurons in each tenth of the layers (each layer, where all have the same few), all sites and
    groups together; None without neurons.
    """
    # Models of different depth are compared by tenths, since their layers have no counterparts.
    deep = {site.layers for selection in selections.values() for n in selection.values() for site in n.layout.sites}
    bins = min(max(deep, default=TENTHS), TENTHS) if len(deep) == 1 else TENTHS
    totals = {name: _by_depth(selection, bins) for name, selection in selections.items()}
    shares = {name: (100 * total / total.sum()).tolist() for name, total in totals.items() if total.sum() > 0}
    # Layers are counted from 0, as everywhere; tenths from 1.
    what, first = ("layer", 0) if bins < TENTHS else ("tenth", 1)

    def entry(name: str, column: str) -> Entry:
        share = shares[name][int(column) - first]
        return Entry(share, lambda: f"{name}\n{what} {column}: {number(share)}%")

    columns = [str(bin_ + first) for bin_ in range(bins)]
    return Matrix.of(f"share of neurons, by {what}", tuple(shares), columns, entry) if shares else None


def _by_depth(selection: Selection, bins: int) -> Float64[Tensor, " p"]:
    """How many neurons lie in each of so many parts of the layers."""
    total = torch.zeros(bins, dtype=torch.float64)
    for neurons in selection.values():
        for site in neurons.layout.sites:
            bin_of_layer = torch.arange(site.layers) * bins // site.layers
            total.index_add_(0, bin_of_layer, neurons.per_layer(site.site).double())
    return total
