"""One run as one HTML page that needs nothing else, with its figures and numbers as files beside it.

    RUN/report.html
    RUN/report/*.png, *.svg     the figures
    RUN/report/*.csv            the numbers, unrounded

The page's policy forbids it to fetch anything and to run any script but its own few lines; every text from the data is
escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from gatescope.core import artefacts
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.reports import figures as drawing
from gatescope.reports import found, maps, provenance, summary, tables
from gatescope.reports.colours import DARK, LIGHT
from gatescope.reports.effects import cells, effects, intervals, lead, matrices, together
from gatescope.reports.examples import ablations
from gatescope.select.selection import Selection
from gatescope.statistics.table import Table
from gatescope.steps.run import Run

SHOWN = "<!-- with questions -->"  # in a page that shows them
MAPS = {"accuracy": ("Accuracy change, points", "change"), "flips": ("Flip rate, percent", "share")}


def report(
    run: str | Path | Run, out: str | Path | None = None, *, examples: Sequence[Example] = (), figures: bool = True
) -> Path:
    """Write what a run found as one self-contained HTML page, with figures (PNG, SVG) and numbers (CSV) beside it.

    Args:
        run: a run directory with a sweep.
        out: the page to write; `report.html` in the run directory if None. Files go to a directory of its name beside it.
        examples: the evaluation examples, to show questions and pictures, which a run does not hold: all that the run's
            sweep asked (its first one's, where it has several), or none.
        figures: whether to write the figure files too (they need matplotlib).

    Returns:
        The path of the page.

    Raises:
        GatescopeError: if there is no run, it holds no sweep, the examples are not those of the run, matplotlib is not
            installed, or a page with questions would be replaced by one without.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if figures:
        drawing.check()
    swept = sweeps(run)
    counters, selections, manifest = counted(run), chosen(run, swept), run.manifest
    page = Path(out) if out is not None else run.path / "report.html"
    page = page / "report.html" if page.is_dir() else page
    beside = page.with_suffix("") if page.suffix else page.with_name(f"{page.name} files")

    if not examples and page.is_file() and SHOWN in page.read_text(encoding="utf-8", errors="replace"):
        raise GatescopeError(
            f"{page} shows questions and pictures, and a page written without examples would not. Give them again "
            f"(examples=study.evaluation; --data on the command line), or write to another place (out=, --out)."
        )

    drawn = {name: intervals(table) for name, table in swept.items()}
    of_selectors = {name: effects(table, drawn[name]) for name, table in swept.items()}
    shown = {name: together(of) for name, of in of_selectors.items()}
    of_cells = {name: cells(table, drawn[name]) for name, table in swept.items()}
    first = next(iter(swept))
    leading = lead(of_selectors[first])
    histograms = found.histograms(selections)
    where, shared, across = (
        found.layers(selections),
        found.overlap_of_groups(selections),
        found.overlap_of_selectors(selections),
    )

    written = {
        "effects.csv": tables.effects_csv(of_selectors),
        "cells.csv": tables.cells_csv(of_cells),
        "groups.csv": tables.groups_csv(swept[first], counters),
        "layers.csv": tables.layers_csv(selections),
        "scores.csv": tables.scores_csv(histograms),
        "overlap.csv": tables.overlap_csv(selections),
    }
    pictures: dict[str, bytes] = {}
    if figures:
        for name in swept:
            end = f".{number}" if (number := list(swept).index(name)) else ""
            pictures |= drawing.files(f"self-cross{end}", partial(drawing.self_cross, shown[name]))
            for kind, (title, colour) in MAPS.items():
                panels = matrices(of_cells[name], kind)
                draw = partial(drawing.heatmaps, panels, title=f"{title} {name}".strip(), kind=colour)
                pictures |= drawing.files(f"{'accuracy-change' if kind == 'accuracy' else 'flip-rate'}{end}", draw)
        if where:
            draw = partial(drawing.heatmaps, where, title="Neurons by layer", kind="log", columns="layer")
            pictures |= drawing.files("layers", draw)
        if histograms:
            pictures |= drawing.files("scores", partial(drawing.scores, histograms))
        if overlaps := [*shared, *([across] if across else [])]:
            draw = partial(drawing.heatmaps, overlaps, title="Overlap (Jaccard)", kind="share", columns="", digits=2)
            pictures |= drawing.files("overlap", draw)

    context = {
        "title": summary.title(manifest),
        "run": run.path.resolve().name,
        "about": summary.about(manifest, swept[first], selections),
        "lines": summary.lines(swept[first], shown, selections, manifest.get("against_random", {})),
        "warnings": summary.warnings(manifest, counters, selections),
        "sections": [_effects(name, shown[name], of_cells[name], selections, manifest.get("precision")) for name in swept],
        "layers": maps.heatmaps(where, "log") if where else None,
        "ridges": maps.ridges(histograms),
        "overlap": maps.heatmaps(shared, "overlap") if shared else None,
        "same": [name for name, s in selections.items() if len(s) > 1 and len(found.sets(s)) == 1],
        "across": maps.heatmaps([across], "overlap") if across else None,
        "leading": leading.selector if leading else None,
        "examples": ablations(swept[first], leading.selector if leading else None, examples, asked(manifest, first)),
        "has_examples": bool(examples),
        "mark": SHOWN,
        "provenance": provenance.facts(manifest, selections, counters, next(iter(drawn[first].values()), None)),
        "groups": summary.groups(swept[first], counters),
        "files": [f"{beside.name}/{name}" for name in (*written, *pictures)],
    }
    for name, text in written.items():
        artefacts.write_bytes(beside / name, text.encode())
    for name, content in pictures.items():
        artefacts.write_bytes(beside / name, content)
    artefacts.write_bytes(page, render("page.html", context).encode())
    return page


def sweeps(run: Run) -> dict[str, Table]:
    """The run's sweeps by name: the one without a name, and those of several tasks.

    Raises:
        GatescopeError: if there is none, or the answers are only the full model's.
    """
    there = {path.name[len("answers") : -len(".jsonl")].removeprefix(".") for path in run.path.glob("answers*.jsonl")}
    order = [key.removeprefix("sweep").removeprefix(" of ") for key in run.manifest if key.split(" of ")[0] == "sweep"]
    names = dict.fromkeys([*(name for name in order if name in there), *sorted(there)])
    swept = {name: table for name in names if (table := run.table_of(name)).selectors}
    if not swept:
        raise GatescopeError(
            f"{run.path} holds no sweep with a mask, so there is no effect to report. Run one first: "
            f"gs.sweep(model, study.evaluation, masks, run={str(run.path)!r})."
        )
    return swept


def asked(manifest: Mapping[str, Any], name: str) -> str | None:
    """The fingerprint of the examples of the sweep of that name; None where the run does not say."""
    return manifest.get(f"sweep of {name}" if name else "sweep", {}).get("fingerprint")


def chosen(run: Run, swept: Mapping[str, Table]) -> dict[str, Selection]:
    """The run's selections, in the order of its sweeps."""
    kept = run.selections
    names = [selector for table in swept.values() for selector in table.selectors if selector in kept]
    return {name: kept[name] for name in dict.fromkeys([*names, *kept])}


def counted(run: Run) -> Counters | None:
    """The run's counters; None where it has none, or of several classes of tokens."""
    try:
        return run.counters
    except GatescopeError:
        return None


def _effects(name: str, rows, found_cells, selections, precision: Mapping[str, float] | None) -> dict[str, Any]:
    kinds = []
    for kind, (title, colour) in MAPS.items():
        dots, zero = maps.dots(rows, kind)
        drawn, legend = maps.heatmaps(matrices(found_cells, kind), colour)
        kinds.append({"kind": kind, "title": title, "dots": dots, "zero": zero, "maps": drawn, "legend": legend})
    sizes = {effect.selector: summary.size(selections.get(effect.selector)) for effect in rows}
    return {"name": name, "effects": rows, "kinds": kinds, "sizes": sizes, "precision": precision}


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package, filled; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from gatescope.reports import words

    environment = Environment(
        loader=PackageLoader("gatescope.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"number": words.number, "span": words.span, "nan": float("nan")}
    own = files("gatescope.reports") / "templates"
    script, style = ((own / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shell = {"script": Markup(script), "style": Markup(style), "digest": digest, "light": LIGHT, "dark": DARK}
    return environment.get_template(template).render(**shell, **context)
