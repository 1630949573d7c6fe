"""Several runs side by side: models, selectors or sites; one self-contained page and its numbers as CSV."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import torch

from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError
from gatescope.reports import found, maps, summary, tables
from gatescope.reports.effects import Cell, Effect, Matrix, cells, effects, intervals, lead, together
from gatescope.reports.gathered import sweeps
from gatescope.reports.page import MAPS, render
from gatescope.reports.words import NOTHING, number, with_span
from gatescope.select.selection import Selection
from gatescope.steps.run import Run

TENTHS = 10


def compare(runs: Sequence[str | Path | Run], out: str | Path) -> Path:
    """Write a page that puts the selectors of several runs next to each other; the numbers as CSV beside it.

    Of a run with several sweeps the first is compared. Runs on different questions are shown, with a note that says so.

    Args:
        runs: two or more run directories, each with a sweep.
        out: the page to write.

    Returns:
        The path of the page.

    Raises:
        GatescopeError: for fewer than two runs, or one without a sweep.
    """
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    if len(opened) < 2:
        raise GatescopeError(f"A comparison needs at least two runs; {len(opened)} was given.")
    page = Path(out)
    if page.is_dir():
        page = page / "compare.html"
    names = _names([run.path for run in opened])
    rows: list[Effect] = []
    of_groups: dict[str, dict[str, Cell]] = {}
    selections: dict[str, Selection] = {}
    shown, asked = [], []
    for name, run in zip(names, opened, strict=True):
        table = next(iter(sweeps(run).values()))
        drawn = intervals(table)
        rows += [replace(effect, selector=f"{name}, {effect.selector}") for effect in together(effects(table, drawn))]
        for cell in cells(table, drawn):
            if cell.own:
                of_groups.setdefault(f"{name}, {cell.selector}", {})[cell.group] = cell
        selections |= {f"{name}, {selector}": s for selector, s in run.selections.items()}
        questions = [(row.id, row.group) for row in table.rows if not row.selector and not row.mask]
        asked.append((sorted(questions), run.manifest.get("sweep", {}).get("fingerprint")))
        link = run.path / "report.html"
        shown.append({
            "name": name,
            "link": quote(os.path.relpath(link, page.parent)) if link.is_file() else "",
            "model": summary.model_name(run.manifest),
            "study": str(run.manifest.get("study", {}).get("name") or NOTHING),
            "questions": f"{len(questions):,}",
            "accuracy": number(table.accuracy().mean().item()),
        })  # fmt: skip
    kinds = []
    for kind, (title, colour) in MAPS.items():
        dots, zero = maps.dots(rows, kind)
        drawn_maps, legend = maps.heatmaps([_own(of_groups, kind)], colour)
        kinds.append({"kind": kind, "title": title, "dots": dots, "zero": zero, "maps": drawn_maps, "legend": legend})
    across = found.overlap_of_selectors(selections)
    deep = _depth(selections)
    context = {
        "title": f"{len(opened)} runs",
        "lines": _lines(rows),
        "warnings": ["The runs were not asked the same questions, so their numbers differ for that reason too."]
        if any(each != asked[0] for each in asked)
        else [],
        "runs": shown,
        "effects": rows,
        "sizes": {effect.selector: summary.size(selections.get(effect.selector)) for effect in rows},
        "kinds": kinds,
        "layers": maps.heatmaps([deep], "share") if deep else None,
        "overlap": maps.heatmaps([across], "overlap") if across else None,
    }
    text = tables.effects_csv({"": rows})
    artefacts.write_bytes(page.with_suffix(".csv"), text.encode())
    artefacts.write_bytes(page, render("compare.html", context).encode())
    return page


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart; numbered if none do."""
    parts = [path.absolute().parts for path in paths]
    for take in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-take:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}. {part[-1]}" for number, part in enumerate(parts, 1)]


def _lines(rows: Sequence[Effect]) -> list[str]:
    best = lead(tuple(rows))
    if best is None:
        return []
    self_, cross, gap = (with_span(best.accuracy[part], signed=True) for part in ("self", "cross", "gap"))
    near = [e.selector for e in rows if e is not best and e.accuracy["gap"].low <= best.accuracy["gap"].high]
    beside = f" The intervals of {', '.join(near)} overlap its own, so it may not be the largest." if near else ""
    return [
        f"The largest gap is that of {best.selector}: switching off a group's neurons changes its own accuracy by {self_} "
        f"points and that of the other groups by {cross}, a gap of {gap}.{beside} Brackets "
        f"hold 95% bootstrap intervals over questions."
    ]


def _own(of_groups: dict[str, dict[str, Cell]], kind: str) -> Matrix:
    columns = tuple(dict.fromkeys(group for row in of_groups.values() for group in row))
    values = tuple(tuple(getattr(r[g], kind).value if g in r else math.nan for g in columns) for r in of_groups.values())
    tips = tuple(tuple(r[g].tip(kind) if g in r else f"{g} was not asked" for g in columns) for r in of_groups.values())
    plain = tuple(tuple(False for _ in columns) for _ in of_groups)
    return Matrix("a group's own mask", tuple(of_groups), columns, values, tips, plain)


def _depth(selections: dict[str, Selection]) -> Matrix | None:
    """Percent of a selection's neurons in each tenth of the layers (each layer, where all have the same few), all sites and
    groups together.
    """
    deep = {site.layers for selection in selections.values() for n in selection.values() for site in n.layout.sites}
    parts = next(iter(deep)) if len(deep) == 1 and max(deep) <= TENTHS else TENTHS
    what, first = ("layer", 0) if parts < TENTHS else ("tenth", 1)
    rows: dict[str, list[float]] = {}
    for name, selection in selections.items():
        total = torch.zeros(parts, dtype=torch.float64)
        for neurons in selection.values():
            for site in neurons.layout.sites:
                place = torch.arange(site.layers) * parts // site.layers
                total.index_add_(0, place, neurons.per_layer(site.site).double())
        if total.sum() > 0:
            rows[name] = (100 * total / total.sum()).tolist()
    if not rows:
        return None
    columns = tuple(str(part + first) for part in range(parts))
    values = tuple(tuple(row) for row in rows.values())
    tips = tuple(tuple(f"{name}\n{what} {t + first}: {v:.1f}%" for t, v in enumerate(row)) for name, row in rows.items())
    return Matrix(
        f"share of neurons, by {what}", tuple(rows), columns, values, tips, tuple(tuple(False for _ in r) for r in values)
    )
