"""Numbers made ready to be shown: cells with a colour, bars and dots with their places in percent.

The page's maps are drawn from these in HTML, the figure files' in matplotlib (`gatescope.reports.figures`).
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gatescope.reports.colours import DEEP, LIGHT, ramp
from gatescope.reports.effects import Effect, Matrix
from gatescope.reports.found import Histogram
from gatescope.reports.words import MINUS, Value, number, score, with_span

CROWDED = 10  # columns from which numbers are printed without decimals, and names upright


@dataclass(frozen=True)
class DrawnCell:
    """One cell: its number, what is printed, its tooltip, its colour, and whether it is framed.

    The colour is `strength`, 0 to 1, of the way to `hue`: "loss", "gain" or "count"; "none" where there is no number.
    """

    value: float
    text: str
    tip: str
    hue: str
    strength: float
    own: bool

    @property
    def deep(self) -> bool:
        """Whether the number is printed in the colour of the page, since the cell's own is strong."""
        return self.strength > DEEP

    @property
    def exact(self) -> str:
        """The number for scripts that read the page."""
        return "" if math.isnan(self.value) else f"{self.value:.6g}"

    @property
    def share(self) -> str:
        """The strength, as the style sheet has it."""
        return f"{100 * self.strength:.0f}%"

    @property
    def classes(self) -> str:
        """What the style sheet knows it by."""
        kinds = {"deep": self.deep, "own": self.own and self.hue != "none", "zero": self.value == 0}
        return " ".join([self.hue, *(kind for kind, holds in kinds.items() if holds)])


@dataclass(frozen=True)
class Map:
    """A heatmap as a table: caption, column names, rows of (name, cells); `upright` where column names stand.

    One too large for a table is a picture, a data URI, and its rows have no cells.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[DrawnCell, ...]], ...]
    upright: bool
    picture: str = ""


@dataclass(frozen=True)
class Legend:
    """The ends of a colour scale."""

    kind: str
    low: str
    high: str


@dataclass(frozen=True)
class Ridge:
    """One group's histogram: SVG paths in a box of 0 0 600 24 for all neurons and the selected ones, and its words."""

    group: str
    neurons: str
    selected: str
    tip: str


@dataclass(frozen=True)
class Ridges:
    """A selector's histograms, with the ends of their common axis."""

    selector: str
    low: str
    high: str
    rows: tuple[Ridge, ...]


@dataclass(frozen=True)
class Dot:
    """An effect and its interval, in percent of the width of its strip."""

    part: str
    at: float
    low: float
    high: float
    tip: str


def heatmap(matrix: Matrix, kind: str, top: float) -> Map:
    """A map of kind "change" (diverging), "share" (sequential), "overlap" (sequential, two decimals) or "log"."""
    # More digits would run into each other.
    crowded = len(matrix.columns) > CROWDED
    digits = {"log": 0, "overlap": 2}.get(kind, 0 if crowded else 1)
    upright = kind != "log" and (crowded or max(map(len, matrix.columns)) > 8)

    def cells(values: Sequence[float], tips: Sequence[str], own: Sequence[bool]) -> tuple[DrawnCell, ...]:
        return tuple(_cell(*cell, kind, top, digits) for cell in zip(values, tips, own, strict=True))

    rows = map(cells, matrix.values, matrix.tips, matrix.own)
    return Map(matrix.name, matrix.columns, tuple(zip(matrix.rows, rows, strict=True)), upright)


def pictured(matrix: Matrix, kind: str, top: float) -> Map:
    """The same as a picture, a pixel a cell, in the colours of the light theme; what has no number is white."""
    values = np.array(matrix.values)
    sizes = np.log1p(np.abs(values)) / np.log1p(top) if kind == "log" else np.abs(values) / top
    shares = np.sign(values) * sizes if kind == "change" else sizes
    low, ends = (-1, ("loss", "mid", "gain")) if kind == "change" else (0, ("mid", "count"))
    places = np.where(np.isnan(shares), 255, np.round(254 * (np.nan_to_num(shares) - low) / (1 - low)))
    image = Image.fromarray(places.astype(np.uint8), "P")
    colours = [*ramp(*(LIGHT[end] for end in ends), steps=255), "#ffffff"]
    image.putpalette(bytes.fromhex("".join(colour[1:] for colour in colours)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    rows = tuple((row, ()) for row in matrix.rows)
    return Map(matrix.name, matrix.columns, rows, False, f"data:image/png;base64,{data}")


def heatmaps(panels: Sequence[Matrix], kind: str, most: float = math.inf) -> tuple[tuple[Map, ...], Legend]:
    """Maps on one scale, and its legend; as pictures where they have more than `most` cells."""
    # Overlaps are shares: 1 is the end whether any set reaches it or not.
    top = 1.0 if kind == "overlap" else _largest(panels)
    end = number(top, 0 if kind in ("log", "overlap") else 1)
    low = f"{MINUS}{end}" if kind == "change" else "0"
    drawn = (pictured if panel.size > most else heatmap for panel in panels)
    return tuple(draw(panel, kind, top) for draw, panel in zip(drawn, panels, strict=True)), Legend(kind, low, end)


def _cell(value: float, tip: str, own: bool, kind: str, top: float, digits: int) -> DrawnCell:
    if math.isnan(value):
        return DrawnCell(value, number(value), tip, "none", 0.0, own)
    hue = ("loss" if value < 0 else "gain") if kind == "change" else "count"
    text = number(value, digits, signed=kind == "change")
    return DrawnCell(value, text, tip, hue, strength(value, top, log=kind == "log"), own)


def _largest(panels: Sequence[Matrix]) -> float:
    """The largest size of a number in the maps, and so the end of their colour scale; 1 if all are 0."""
    sizes = [abs(v) for panel in panels for row in panel.values for v in row if not math.isnan(v)]
    return max(sizes, default=0.0) or 1.0


def strength(value: float, top: float, *, log: bool = False) -> float:
    """How far along its colour scale a number lies, 0 to 1.

    >>> strength(-50, 100), strength(0, 100, log=True), strength(100, 100, log=True)
    (0.5, 0.0, 1.0)
    """
    # log1p, so that a count of 0 is 0.
    return math.log1p(abs(value)) / math.log1p(top) if log else abs(value) / top


def dots(effects: Sequence[Effect], kind: str) -> tuple[dict[str, tuple[Dot, ...]], float]:
    """Self and cross of each selector along a strip all share; and where the strip's zero is."""
    values = {effect.selector: _without_nan(effect.of(kind)) for effect in effects}
    # Zero is always on the strip: it is what effects are compared with.
    ends = [0.0]
    for parts in values.values():
        for v in parts.values():
            ends += [v.value, *v.ends]
    low, high = min(ends), max(ends)
    # Effects that are all 0 would leave a strip of no length.
    high = high if high > low else low + 1

    def position(value: float) -> float:
        return round(3 + 94 * (value - low) / (high - low), 2)  # the dots at the ends need room

    def dot(selector: str, part: str, v: Value) -> Dot:
        start, end = v.ends
        tip = f"{selector}, {part}: {with_span(v, signed=kind == 'accuracy')}"
        return Dot(part, position(v.value), position(start), position(end), tip)

    drawn = {name: tuple(dot(name, part, v) for part, v in parts.items()) for name, parts in values.items()}
    return drawn, position(0)


def _without_nan(parts: Mapping[str, Value]) -> dict[str, Value]:
    """Self and cross, as far as they are known."""
    return {part: parts[part] for part in ("self", "cross") if not math.isnan(parts[part].value)}


def by_selector(histograms: Sequence[Histogram]) -> dict[str, list[Histogram]]:
    """Histograms by selector."""
    grouped: dict[str, list[Histogram]] = {}
    for histogram in histograms:
        grouped.setdefault(histogram.selector, []).append(histogram)
    return grouped


def ridges(histograms: Sequence[Histogram]) -> tuple[Ridges, ...]:
    """Histograms by selector; heights are the logarithm of counts."""
    return tuple(_ridges(selector, by_group) for selector, by_group in by_selector(histograms).items())


def _ridges(selector: str, by_group: Sequence[Histogram]) -> Ridges:
    top = max(max(h.neurons) for h in by_group)
    rows = tuple(Ridge(h.group, _path(h.neurons, top), _path(h.selected, top), _tip(h)) for h in by_group)
    edges = by_group[0].edges  # a selector's groups share their bins
    return Ridges(selector, score(edges[0]), score(edges[-1]), rows)


def _path(counts: Sequence[int], top: int) -> str:
    step = 600 / len(counts)
    bars = ((i, 24 * strength(n, top, log=True)) for i, n in enumerate(counts) if n)
    return "".join(f"M{i * step:g} 24v{-height:.1f}h{step:g}v{height:.1f}z" for i, height in bars)


def _tip(h: Histogram) -> str:
    ends = [edge for edge, n in zip(h.edges, h.selected, strict=False) if n]
    lowest = f", the lowest near {score(ends[0])}" if ends else ""
    never = f"; {h.never:,} never eligible" if h.never else ""
    return f"{h.group}: {sum(h.neurons):,} neurons with a score{never}; {sum(h.selected):,} selected{lowest}"
