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
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.reports import figures as drawing
from gatescope.reports import found, maps, provenance, summary, tables
from gatescope.reports.colours import DARK, LIGHT
from gatescope.reports.effects import Matrix, matrices
from gatescope.reports.examples import ablations
from gatescope.reports.gathered import Gathered, asked, gather
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
    gathered = gather(run)
    page, beside = _places(run, out)
    _keep_questions(page, examples)

    written = _written(gathered)
    pictures = _pictures(gathered) if figures else {}
    files = [f"{beside.name}/{name}" for name in (*written, *pictures)]
    context = _about(run, gathered) | _drawn(gathered) | _asked(gathered, examples) | {"files": files}

    for name, text in written.items():
        artefacts.write_bytes(beside / name, text.encode())
    for name, content in pictures.items():
        artefacts.write_bytes(beside / name, content)
    artefacts.write_bytes(page, render("page.html", context).encode())
    return page


def _places(run: Run, out: str | Path | None) -> tuple[Path, Path]:
    """Where the page goes, and the directory of the files beside it."""
    page = Path(out) if out is not None else run.path / "report.html"
    page = page / "report.html" if page.is_dir() else page
    return page, page.with_suffix("") if page.suffix else page.with_name(f"{page.name} files")


def _keep_questions(page: Path, examples: Sequence[Example]) -> None:
    """Refuse to replace a page with questions by one without."""
    if not examples and page.is_file() and SHOWN in page.read_text(encoding="utf-8", errors="replace"):
        raise GatescopeError(
            f"{page} shows questions and pictures, and a page written without examples would not. Give them again "
            f"(examples=study.evaluation; --data on the command line), or write to another place (out=, --out)."
        )


def _written(gathered: Gathered) -> dict[str, str]:
    """The numbers as CSV, by the file's name."""
    return {
        "effects.csv": tables.effects_csv(gathered.effects),
        "cells.csv": tables.cells_csv(gathered.cells),
        "groups.csv": tables.groups_csv(gathered.swept[gathered.first], gathered.counters),
        "layers.csv": tables.layers_csv(gathered.selections),
        "scores.csv": tables.scores_csv(gathered.histograms),
        "overlap.csv": tables.overlap_csv(gathered.selections),
    }


def _pictures(gathered: Gathered) -> dict[str, bytes]:
    """The figures as PNG and SVG, by the file's name."""
    pictures: dict[str, bytes] = {}

    def heatmaps(file: str, panels: Sequence[Matrix], **how) -> None:
        if panels:
            pictures.update(drawing.files(file, partial(drawing.heatmaps, panels, **how)))

    for number, name in enumerate(gathered.swept):
        end = f".{number}" if number else ""
        pictures |= drawing.files(f"self-cross{end}", partial(drawing.self_cross, gathered.shown[name]))
        for kind, file in (("accuracy", "accuracy-change"), ("flips", "flip-rate")):
            title, colour = MAPS[kind]
            heatmaps(f"{file}{end}", matrices(gathered.cells[name], kind), title=f"{title} {name}".strip(), kind=colour)
    heatmaps("layers", gathered.layers, title="Neurons by layer", kind="log", columns="layer")
    if gathered.histograms:
        pictures |= drawing.files("scores", partial(drawing.scores, gathered.histograms))
    overlaps = [*gathered.shared, *([gathered.across] if gathered.across else [])]
    heatmaps("overlap", overlaps, title="Overlap (Jaccard)", kind="share", columns="", digits=2)
    return pictures


def _about(run: Run, gathered: Gathered) -> dict[str, Any]:
    """What the page says of the run."""
    table, manifest, selections = gathered.swept[gathered.first], gathered.manifest, gathered.selections
    lines = summary.lines(table, gathered.shown, selections, manifest.get("against_random", {}))
    first_intervals = next(iter(gathered.intervals[gathered.first].values()), None)
    return {
        "title": summary.title(manifest),
        "run": run.path.resolve().name,
        "about": summary.about(manifest, table, selections),
        "lines": lines,
        "warnings": summary.warnings(manifest, gathered.counters, selections),
        "same": [name for name, s in selections.items() if len(s) > 1 and len(found.sets(s)) == 1],
        "provenance": provenance.facts(manifest, selections, gathered.counters, first_intervals),
        "groups": summary.groups(table, gathered.counters),
    }


def _drawn(gathered: Gathered) -> dict[str, Any]:
    """The page's maps and tables."""
    precision = gathered.manifest.get("precision")
    sections = [
        _effects(name, gathered.shown[name], gathered.cells[name], gathered.selections, precision) for name in gathered.swept
    ]
    return {
        "sections": sections,
        "layers": maps.heatmaps(gathered.layers, "log") if gathered.layers else None,
        "ridges": maps.ridges(gathered.histograms),
        "overlap": maps.heatmaps(gathered.shared, "overlap") if gathered.shared else None,
        "across": maps.heatmaps([gathered.across], "overlap") if gathered.across else None,
    }


def _asked(gathered: Gathered, examples: Sequence[Example]) -> dict[str, Any]:
    """The page's questions."""
    table, leading = gathered.swept[gathered.first], gathered.leading
    fingerprint = asked(gathered.manifest, gathered.first)
    return {
        "leading": leading,
        "examples": ablations(table, leading, examples, fingerprint),
        "has_examples": bool(examples),
        "mark": SHOWN,
    }


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
