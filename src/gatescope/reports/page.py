"""One run as one HTML page that needs nothing else, with its figures and numbers as files beside it.

    RUN/report.html
    RUN/report/*.png, *.svg     the figures
    RUN/report/*.csv            the numbers, unrounded
    RUN/report/masks/*.html     of a large run: each mask's numbers, which the page has as a picture (`gatescope.reports.large`)

The page's content security policy allows no network requests and no script but its own few lines; every text from the
data is escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError
from gatescope.core.garbage import uncollected
from gatescope.data.example import Example
from gatescope.reports import figures as drawing
from gatescope.reports import found, large, maps, provenance, summary, tables
from gatescope.reports.colours import DARK, LIGHT
from gatescope.reports.effects import Effect, Matrix, matrices
from gatescope.reports.examples import ablations, asked_of
from gatescope.reports.gathered import Gathered, asked, gather
from gatescope.select.selection import Selection
from gatescope.steps.run import Run

SHOWN = "<!-- with questions -->"  # in a page that shows them
FILES = {"accuracy": "accuracy-change", "flips": "flip-rate"}
MAPS = {"accuracy": ("Accuracy change, points", "change"), "flips": ("Flip rate, percent", "share")}


def report(
    run: str | Path | Run, out: str | Path | None = None, *, examples: Sequence[Example] = (), figures: bool = True
) -> Path:
    """Write what a run found as one self-contained HTML page, with figures (PNG, SVG) and numbers (CSV) beside it.

    Args:
        run: a run directory with a sweep.
        out: the page to write; `report.html` in the run directory if None. Files go to a directory of the same name next to it.
        examples: the evaluation examples, for what the run does not hold: all questions of a run of an earlier version,
            and pictures that were in memory. All that the run's sweep asked (its first one's, where it has several), or
            none; whatever else the page shows is the same.
        figures: whether to write the figure files too (they need matplotlib).

    Returns:
        The path of the page.

    Raises:
        GatescopeError: if there is no run, it holds no sweep, the examples are not those of the run, matplotlib is not
            installed, or a page with questions or pictures would be replaced by one without them.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if figures:
        drawing.check()
    with uncollected():  # a large run's answers, and what is made of them
        gathered = gather(run)
    page, beside = _destinations(run, out)

    # Everything is made before anything is written: a page that is refused leaves no files of another run beside it.
    written = _written(gathered)
    pictures = _pictures(gathered) if figures else {}
    files = [f"{beside.name}/{name}" for name in (*written, *pictures)]
    context: dict[str, Any] = _about(run, gathered) | _drawn(gathered) | _questions(run, gathered, examples) | {"files": files}
    masks = {}
    if context["most"] < math.inf:  # what the page leaves out
        masks = large.pages(gathered.cells, context["most"], {"run": context["run"], "back": f"../../{page.name}"})
        written |= {file: render("mask.html", about) for file, about in masks.items()}
    context["details"] = {about["key"]: f"{beside.name}/{file}" for file, about in masks.items()}
    if not examples:
        _keep_questions(page, context)

    for name, text in written.items():
        artefacts.write_bytes(beside / name, text.encode())
    for name, content in pictures.items():
        artefacts.write_bytes(beside / name, content)
    artefacts.write_bytes(page, render("page.html", context).encode())
    run.bind_written([page, *(beside / name for name in (*written, *pictures))])
    return page


def _destinations(run: Run, out: str | Path | None) -> tuple[Path, Path]:
    """Where the page goes, and the directory of the files beside it."""
    page = Path(out) if out is not None else run.path / "report.html"
    page = page / "report.html" if page.is_dir() else page
    return page, page.with_suffix("") if page.suffix else page.with_name(f"{page.name} files")


def _keep_questions(page: Path, context: Mapping[str, Any]) -> None:
    """Refuse to replace a page with questions or pictures by one that would not show them."""
    from markupsafe import escape

    before = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    # A page without questions has nothing to lose.
    if SHOWN not in before:
        return
    without_picture = [f'alt="Picture of question {escape(example.id)}"' for example in context["examples"] if example.missing]
    if not context["has_questions"] or any(picture in before for picture in without_picture):
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
    draw: dict[str, Callable[[], Any]] = {}
    for number, name in enumerate(gathered.swept):
        # Most runs have one sweep only, and its files need no number.
        end = f".{number}" if number else ""
        draw[f"self-cross{end}"] = partial(drawing.self_cross, gathered.shown[name])
        for kind, file in FILES.items():
            title, colour = MAPS[kind]
            panels = matrices(gathered.cells[name], kind)
            draw[f"{file}{end}"] = partial(drawing.heatmaps, panels, title=f"{title} {name}".strip(), kind=colour)
    if gathered.layers:
        draw["layers"] = partial(drawing.heatmaps, gathered.layers, title="Neurons by layer", kind="log", columns="layer")
    if gathered.histograms:
        draw["scores"] = partial(drawing.scores, gathered.histograms)
    if overlaps := [*gathered.shared, *([gathered.across] if gathered.across else [])]:
        draw["overlap"] = partial(drawing.heatmaps, overlaps, title="Overlap (Jaccard)", kind="overlap", columns="")
    return {name: content for file, figure in draw.items() for name, content in drawing.files(file, figure).items()}


def _about(run: Run, gathered: Gathered) -> dict[str, Any]:
    """What the page says of the run."""
    table, manifest, selections = gathered.swept[gathered.first], gathered.manifest, gathered.selections
    lines = summary.lines(table, gathered.shown, selections, manifest.get("against_random", {}))
    # All selectors share number of resamples, seed and level.
    first_intervals = next(iter(gathered.intervals[gathered.first].values()), None)
    return {
        "title": summary.title(manifest),
        "run": run.path.resolve().name,
        "about": summary.about(manifest, table, selections),
        "lines": lines,
        "warnings": [
            *gathered.unread,
            *summary.warnings(manifest, gathered.counters, selections),
            *summary.left_out(gathered.swept),
        ],
        "same": [name for name, s in selections.items() if len(s) > 1 and len(found.sets(s)) == 1],
        "provenance": provenance.facts(manifest, selections, gathered.counters, first_intervals),
        "groups": summary.groups(table, gathered.counters),
    }


def _drawn(gathered: Gathered) -> dict[str, Any]:
    """The page's maps and tables."""
    precision = gathered.manifest.get("precision")
    panels = {name: {kind: matrices(cells, kind) for kind in MAPS} for name, cells in gathered.cells.items()}
    tables = [panel for by_kind in panels.values() for of_kind in by_kind.values() for panel in of_kind]
    most = large.most([*tables, *gathered.layers, *gathered.shared])
    sections = [
        {
            "name": name,
            "effects": rows,
            "kinds": [drawn(rows, kind, panels[name][kind], most) for kind in MAPS],
            "sizes": sizes(rows, gathered.selections),
            "precision": precision,
        }
        for name, rows in gathered.shown.items()
    ]
    return {
        "sections": sections,
        "layers": maps.heatmaps(gathered.layers, "log", most) if gathered.layers else None,
        "ridges": maps.ridges(gathered.histograms),
        "overlap": maps.heatmaps(gathered.shared, "overlap", most) if gathered.shared else None,
        "across": maps.heatmaps([gathered.across], "overlap") if gathered.across else None,
        "most": most,
    }


def _questions(run: Run, gathered: Gathered, examples: Sequence[Example]) -> dict[str, Any]:
    """The page's questions: those that are given, or the run's own."""
    table, leading = gathered.swept[gathered.first], gathered.leading
    if examples:
        by_id = asked_of(table, examples, asked(gathered.manifest, gathered.first))
    else:
        by_id = {example.id: example for example in run.questions(gathered.first)}
    return {
        "leading": leading,
        "examples": ablations(table, leading, by_id),
        "has_questions": bool(by_id),
        "mark": SHOWN,
    }


def drawn(rows: Sequence[Effect], kind: str, panels: Sequence[Matrix], most: float = math.inf) -> dict[str, Any]:
    """What a page shows of "accuracy" or "flips": effects along a strip, and maps, pictures above `most` cells."""
    title, colour = MAPS[kind]
    dots, zero = maps.dots(rows, kind)
    drawn_maps, legend = maps.heatmaps(panels, colour, most)
    return {"kind": kind, "title": title, "dots": dots, "zero": zero, "maps": drawn_maps, "legend": legend}


def sizes(rows: Sequence[Effect], selections: Mapping[str, Selection]) -> dict[str, str]:
    """How many neurons a group each selector has."""
    return {effect.selector: summary.size(selections.get(effect.selector)) for effect in rows}


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package, filled; every value is escaped."""
    environment, shell = _environment()
    return environment.get_template(template).render(**shell, **context)


@cache
def _environment() -> tuple[Any, dict[str, Any]]:
    """What fills templates, and what every page has."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from gatescope.reports import words

    environment = Environment(
        loader=PackageLoader("gatescope.reports", "templates"),
        autoescape=True,
        # A slip in a template must fail here, not leave a gap in the page.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"number": words.number, "span": words.span, "nan": float("nan")}
    # Inline, with the script's digest in the policy: the page is one file, and no other script can run in it.
    own = files("gatescope.reports") / "templates"
    script, style = ((own / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment, {"script": Markup(script), "style": Markup(style), "digest": digest, "light": LIGHT, "dark": DARK}
