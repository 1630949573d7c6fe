"""The page's figures as PNG and SVG files, for papers and slides (matplotlib, the extra `report`)."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.reports import maps
from gatescope.reports.colours import LIGHT, ramp
from gatescope.reports.effects import MEASURES, Effect, Matrix
from gatescope.reports.found import Histogram

INK = "#1d1c1a"
NUMBERED = 10_000  # cells of a map from which on numbers are left out: they would be specks, and take minutes to draw
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
        # Names of groups may be in any script; a missing glyph is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure, contents = draw(), {}
        # No date in the SVG: the same run must give the same file.
        for kind, settings in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, bbox_inches="tight", facecolor="white", **settings)
            contents[f"{name}.{kind}"] = buffer.getvalue()
    return contents


def heatmaps(panels: Sequence[Matrix], *, title: str, kind: str, columns: str = "asked about") -> Any:
    """Maps one under the other, on one scale, with the page's colours and numbers.

    Args:
        panels: what to draw.
        title: over all.
        kind: "change", "share", "overlap" or "log" (see `gatescope.reports.maps.heatmap`).
        columns: what the columns are.
    """
    from matplotlib.figure import Figure

    # The page's own maps, so that figure and page cannot differ.
    drawn, _ = maps.heatmaps(panels, kind)
    names = [_short(panel.columns) for panel in drawn]
    heights = [0.24 * len(panel.rows) + 0.9 + 0.075 * max(map(len, short)) for panel, short in zip(drawn, names, strict=True)]
    wide = max(4.0, 0.34 * max(map(len, names)) + 2.0)
    figure = Figure(figsize=(wide, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    ratios = [len(panel.rows) for panel in drawn]
    all_axes = figure.subplots(len(drawn), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axes, panel in zip(all_axes, drawn, strict=True):
        _heatmap(axes, panel, kind, columns)
    return figure


def _heatmap(axes: Any, drawn: maps.Map, kind: str, columns: str) -> None:
    """One map, drawn on these axes."""
    from matplotlib.colors import ListedColormap

    ends, low = (("loss", "mid", "gain"), -1) if kind == "change" else (("mid", "count"), 0)
    colours = ListedColormap(ramp(*(LIGHT[end] for end in ends)))
    shares = [list(map(_signed, cells)) for _, cells in drawn.rows]
    axes.imshow(shares, cmap=colours, vmin=low, vmax=1, aspect="auto")
    axes.set_title(*_short([drawn.name]), loc="left", fontsize=9)
    rotation = 90 if max(map(len, drawn.columns)) > 3 else 0
    axes.set_xticks(range(len(drawn.columns)), _short(drawn.columns), rotation=rotation)
    axes.set_yticks(range(len(drawn.rows)), _short([name for name, _ in drawn.rows]))
    axes.set_xlabel(columns)
    axes.tick_params(length=0)
    if len(drawn.rows) * len(drawn.columns) > NUMBERED:
        return
    for y, (_, cells) in enumerate(drawn.rows):
        for x, cell in enumerate(cells):
            # Out of the layout, which would measure every number of a map of thousands.
            how = {"fontsize": 6, "color": "white" if cell.deep else INK, "in_layout": False}
            axes.text(x, y, cell.text, ha="center", va="center", **how)


def _signed(cell: maps.DrawnCell) -> float:
    """Where a cell lies on the colour scale, losses below zero; NaN leaves it white."""
    if cell.hue == "none":
        return math.nan
    return -cell.strength if cell.hue == "loss" else cell.strength


def self_cross(effects: Sequence[Effect]) -> Any:
    """Self (filled) and cross (hollow) of every selector with 95% intervals, accuracy change and flip rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.42 * len(effects) + 1.3), layout="constrained")
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, (kind, title) in zip(all_axes, MEASURES.items(), strict=True):
        axes.axvline(0, color="#8a8780", linewidth=0.6)
        # Apart by a little, so that intervals that overlap can both be seen.
        for part, face, shift in (("self", LIGHT["loss"], -0.13), ("cross", "white", 0.13)):
            values = [effect.of(kind)[part] for effect in effects]
            heights = [y + shift for y in range(len(values))]
            axes.hlines(heights, [v.low for v in values], [v.high for v in values], color=LIGHT["loss"], linewidth=1)
            axes.scatter([v.value for v in values], heights, s=22, color=face, edgecolors=LIGHT["loss"], label=part, zorder=3)
        _listed(axes, title, [effect.selector for effect in effects], top=-0.5)
        axes.tick_params(length=0)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def scores(histograms: Sequence[Histogram]) -> Any:
    """Scores of all neurons and of the selected ones, a panel for each selector and a line for each group."""
    from matplotlib.figure import Figure

    selectors = maps.by_selector(histograms)
    rows = max(map(len, selectors.values()))
    figure = Figure(figsize=(2.6 * len(selectors) + 1, 0.34 * rows + 1), layout="constrained")
    all_axes = figure.subplots(1, len(selectors), squeeze=False)[0]
    for axes, (selector, by_group) in zip(all_axes, selectors.items(), strict=True):
        top = max(max(h.neurons) for h in by_group)
        for y, h in enumerate(by_group):
            for counts, colour in ((h.neurons, "#c9c6be"), (h.selected, LIGHT["loss"])):
                tall = [y + 0.4 - 0.8 * maps.strength(n, top, log=True) for n in counts]
                axes.fill_between(h.edges[:-1], tall, y + 0.4, step="post", color=colour, linewidth=0)
        _listed(axes, selector, [h.group for h in by_group], top=-0.6)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel("score; height: log count; orange: selected", fontsize=8)
    return figure


def _listed(axes: Any, title: str, names: Sequence[str], top: float) -> None:
    """Axes with a line for each name, the first on top."""
    axes.set_yticks(range(len(names)), _short(names))
    axes.set_ylim(len(names) - 0.5, top)
    axes.set_title(*_short([title]), loc="left", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _short(names: Sequence[str], most: int = 28) -> list[str]:
    """Names that leave room for the figure."""
    return [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
