"""The page's figures as PNG and SVG files, for papers and slides (matplotlib, the extra `report`)."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.reports.colours import DEEP, LIGHT, ramp
from gatescope.reports.effects import Effect, Matrix
from gatescope.reports.found import Histogram
from gatescope.reports.words import number

INK = "#1d1c1a"
# Text is text, never mathematics: a group may be called "$1$". The salt makes the SVG the same each time.
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "gatescope",
    "font.size": 8,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "axes.edgecolor": "#8a8780",
}


def check() -> None:
    """See that figures can be drawn.

    Raises:
        GatescopeError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise GatescopeError(
            "The report's figure files need matplotlib: pip install gatescope[report]. Or leave them out: "
            "gs.report(run, figures=False)."
        ) from error


def files(name: str, draw: Callable[[], Any]) -> dict[str, bytes]:
    """What `draw` draws, as NAME.png and NAME.svg."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure, found = draw(), {}
        for kind, more in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, bbox_inches="tight", facecolor="white", **more)
            found[f"{name}.{kind}"] = buffer.getvalue()
    return found


def heatmaps(panels: Sequence[Matrix], *, title: str, kind: str, columns: str = "asked about", digits: int = 1) -> Any:
    """Maps one under the other, on one scale.

    Args:
        panels: what to draw.
        title: over all.
        kind: "change" (diverging, in points), "share" (sequential, from 0) or "log" (sequential, log colour).
        columns: what the columns are.
        digits: of the printed numbers.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colours = (LIGHT["loss"], LIGHT["mid"], LIGHT["gain"]) if kind == "change" else (LIGHT["mid"], LIGHT["count"])
    colour_map = ListedColormap(ramp(*colours))
    top = largest(panels)
    heights = [0.24 * len(panel.rows) + 0.9 + 0.075 * max(map(len, _short(panel.columns))) for panel in panels]
    wide = max(4.0, max(0.34 * len(panel.columns) for panel in panels) + 2.0)
    figure = Figure(figsize=(wide, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    places = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [len(panel.rows) for panel in panels]}
    )[:, 0]
    for place, panel in zip(places, panels, strict=True):
        shares = [[strength(v, top, log=kind == "log") * (math.copysign(1, v)) for v in row] for row in panel.values]
        place.imshow(shares, cmap=colour_map, vmin=-1 if kind == "change" else 0, vmax=1, aspect="auto")
        place.set_title(*_short([panel.name]), loc="left", fontsize=9)
        place.set_xticks(
            range(len(panel.columns)), _short(panel.columns), rotation=90 if max(map(len, panel.columns)) > 3 else 0
        )
        place.set_yticks(range(len(panel.rows)), _short(panel.rows))
        place.set_xlabel(columns)
        place.tick_params(length=0)
        for y, row in enumerate(panel.values):
            for x, value in enumerate(row):
                ink = "white" if abs(shares[y][x]) > DEEP else INK
                text = number(value, 0 if kind == "log" else digits, signed=kind == "change")
                place.text(x, y, text, ha="center", va="center", fontsize=6, color=ink, in_layout=False)
    return figure


def self_cross(effects: Sequence[Effect]) -> Any:
    """Self (filled) and cross (hollow) of every selector with 95% intervals, accuracy change and flip rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.42 * len(effects) + 1.3), layout="constrained")
    for place, (title, kind) in zip(figure.subplots(1, 2, sharey=True), MEASURES.items(), strict=True):
        place.axvline(0, color="#8a8780", linewidth=0.6)
        for part, face, shift in (("self", LIGHT["loss"], -0.13), ("cross", "white", 0.13)):
            values = [getattr(effect, kind)[part] for effect in effects]
            heights = [y + shift for y in range(len(values))]
            place.hlines(heights, [v.low for v in values], [v.high for v in values], color=LIGHT["loss"], linewidth=1)
            place.scatter([v.value for v in values], heights, s=22, color=face, edgecolors=LIGHT["loss"], label=part, zorder=3)
        place.set_yticks(range(len(effects)), _short([effect.selector for effect in effects]))
        place.set_ylim(len(effects) - 0.5, -0.5)
        place.set_title(title, loc="left", fontsize=9)
        place.spines[["top", "right", "left"]].set_visible(False)
        place.tick_params(length=0)
    figure.legend(*place.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def scores(histograms: Sequence[Histogram]) -> Any:
    """Scores of all neurons and of the selected ones, a panel for each selector and a line for each group."""
    from matplotlib.figure import Figure

    by_selector: dict[str, list[Histogram]] = {}
    for histogram in histograms:
        by_selector.setdefault(histogram.selector, []).append(histogram)
    rows = max(map(len, by_selector.values()))
    figure = Figure(figsize=(2.6 * len(by_selector) + 1, 0.34 * rows + 1), layout="constrained")
    for place, (selector, each) in zip(
        figure.subplots(1, len(by_selector), squeeze=False)[0], by_selector.items(), strict=True
    ):
        top = math.log1p(max(max(h.neurons) for h in each))
        for y, h in enumerate(each):
            for counts, colour in ((h.neurons, "#c9c6be"), (h.selected, LIGHT["loss"])):
                tall = [y + 0.4 - 0.8 * math.log1p(n) / top for n in counts]
                place.fill_between(h.edges[:-1], tall, y + 0.4, step="post", color=colour, linewidth=0)
        place.set_yticks(range(len(each)), _short([h.group for h in each]))
        place.set_ylim(len(each) - 0.5, -0.6)
        place.set_title(*_short([selector]), loc="left", fontsize=9)
        place.spines[["top", "right", "left"]].set_visible(False)
        place.tick_params(axis="y", length=0)
    figure.supxlabel("score; height: log count; orange: selected", fontsize=8)
    return figure


def _short(names: Sequence[str], most: int = 28) -> list[str]:
    """Names that leave room for the figure."""
    return [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]


def largest(panels: Sequence[Matrix]) -> float:
    """The largest size of a number in the maps, and so the end of their colour scale; 1 if all are 0."""
    return max((abs(v) for panel in panels for row in panel.values for v in row if v == v), default=0.0) or 1.0


def strength(value: float, top: float, *, log: bool = False) -> float:
    """How far along its colour scale a number lies, 0 to 1; NaN for NaN.

    >>> strength(-50, 100), strength(0, 100, log=True), strength(100, 100, log=True)
    (0.5, 0.0, 1.0)
    """
    return math.log1p(abs(value)) / math.log1p(top) if log else abs(value) / top


MEASURES: Mapping[str, str] = {"accuracy change (points)": "accuracy", "flip rate (%)": "flips"}
