"""Numbers made ready for the page: cells with a colour strength, bars and dots with their places in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gatescope.reports.colours import DEEP
from gatescope.reports.effects import Effect, Matrix
from gatescope.reports.figures import largest, strength
from gatescope.reports.found import Histogram
from gatescope.reports.words import MINUS, Value, number, with_span

CROWDED = 10  # columns from which numbers are printed without decimals, and names upright


@dataclass(frozen=True)
class DrawnCell:
    """One cell: what is printed, the exact number, what is told of it, its classes and how strong its colour is."""

    text: str
    exact: str
    tip: str
    classes: str
    share: str


@dataclass(frozen=True)
class Map:
    """A heatmap as a table: caption, column names, rows of (name, cells); `upright` where column names stand."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[DrawnCell, ...]], ...]
    upright: bool


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
    crowded = len(matrix.columns) > CROWDED
    digits = {"log": 0, "overlap": 2}.get(kind, 0 if crowded else 1)
    upright = kind != "log" and (crowded or max(map(len, matrix.columns)) > 8)
    rows = tuple(
        (name, tuple(_cell(*each, kind, top, digits) for each in zip(values, tips, own, strict=True)))
        for name, values, tips, own in zip(matrix.rows, matrix.values, matrix.tips, matrix.own, strict=True)
    )
    return Map(matrix.name, matrix.columns, rows, upright)


def heatmaps(panels: Sequence[Matrix], kind: str) -> tuple[tuple[Map, ...], Legend]:
    """Maps on one scale, and its legend."""
    top = 1.0 if kind == "overlap" else largest(panels)
    end = number(top, 0 if kind in ("log", "overlap") else 1)
    return tuple(heatmap(panel, kind, top) for panel in panels), Legend(kind, f"{MINUS}{end}" if kind == "change" else "0", end)


def _cell(value: float, tip: str, own: bool, kind: str, top: float, digits: int) -> DrawnCell:
    if math.isnan(value):
        return DrawnCell(number(value), "", tip, "none", "0%")
    share = strength(value, top, log=kind == "log")
    hue = ("loss" if value < 0 else "gain") if kind == "change" else "count"
    classes = [hue, *(["deep"] if share > DEEP else []), *(["own"] if own else []), *(["zero"] if value == 0 else [])]
    text = number(value, digits, signed=kind == "change")
    return DrawnCell(text, f"{value:.6g}", tip, " ".join(classes), f"{100 * share:.0f}%")


def dots(effects: Sequence[Effect], kind: str) -> tuple[dict[str, tuple[Dot, ...]], float]:
    """Self and cross of each selector along a strip all share; and where the strip's zero is."""
    values = {e.selector: {part: getattr(e, kind)[part] for part in ("self", "cross")} for e in effects}
    ends = [end for parts in values.values() for v in parts.values() for end in (v.value, v.low, v.high) if end == end]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    low, high = (low, high) if high > low else (low, low + 1)

    def place(value: float) -> float:
        return round(3 + 94 * (value - low) / (high - low), 2)

    def dot(selector: str, part: str, v: Value) -> Dot:
        low, high = (place(end if end == end else v.value) for end in (v.low, v.high))
        return Dot(part, place(v.value), low, high, f"{selector}, {part}: {with_span(v, signed=kind == 'accuracy')}")

    shown = {s: tuple(dot(s, part, v) for part, v in parts.items() if v.value == v.value) for s, parts in values.items()}
    return shown, place(0)


def ridges(histograms: Sequence[Histogram]) -> tuple[Ridges, ...]:
    """Histograms by selector; heights are the logarithm of counts."""
    by_selector: dict[str, list[Histogram]] = {}
    for histogram in histograms:
        by_selector.setdefault(histogram.selector, []).append(histogram)
    found = []
    for selector, each in by_selector.items():
        top = max(max(h.neurons) for h in each)
        rows = tuple(Ridge(h.group, _path(h.neurons, top), _path(h.selected, top), _told(h)) for h in each)
        found.append(Ridges(selector, _short(each[0].edges[0]), _short(each[0].edges[-1]), rows))
    return tuple(found)


def _path(counts: Sequence[int], top: int) -> str:
    step = 600 / len(counts)
    bars = ((i, 24 * strength(n, top, log=True)) for i, n in enumerate(counts) if n)
    return "".join(f"M{i * step:g} 24v{-height:.1f}h{step:g}v{height:.1f}z" for i, height in bars)


def _told(h: Histogram) -> str:
    ends = [edge for edge, n in zip(h.edges, h.selected, strict=False) if n]
    lowest = f", the lowest near {_short(ends[0])}" if ends else ""
    never = f"; {h.never:,} never eligible" if h.never else ""
    return f"{h.group}: {sum(h.neurons):,} neurons with a score{never}; {sum(h.selected):,} selected{lowest}"


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", MINUS)
