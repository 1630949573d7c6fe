"""The effects of a sweep as numbers with intervals: of every selector, and of every mask on every group.

Effect  self, cross and gap of one selector, accuracy change and flip rate (VLM paper, section 4.4)
Cell    one mask on one group: counts, accuracy change, flip rate, their intervals, McNemar's p
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from gatescope.reports.words import Value, count, number, probability, span
from gatescope.statistics.significance import EffectInterval, Intervals, holm
from gatescope.statistics.table import ALL, Table

EVERYONE = "all groups"  # how a mask that is the same for all groups is called


@dataclass(frozen=True)
class Effect:
    """One selector's means over cells, by part: "self", "cross", "gap"."""

    selector: str
    accuracy: dict[str, Value]
    flips: dict[str, Value]


@dataclass(frozen=True)
class Cell:
    """What one mask does to one group's answers.

    Attributes:
        selector, mask, group: which mask, asked about which group.
        own: whether the mask was found on that group.
        examples: how many were asked.
        before, after: how many were right without and with the mask (sums of scores where answers have scores).
        changed: how many answers changed.
        accuracy: change in points.
        flips: flip rate in percent.
        p: McNemar's, uncorrected.
        holm: corrected over all cells of the selector.
    """

    selector: str
    mask: str
    group: str
    own: bool
    examples: int
    before: float
    after: float
    changed: float
    accuracy: Value
    flips: Value
    p: float
    holm: float

    def tip(self, kind: str) -> str:
        """What a reader is told on pointing at the cell: of "accuracy" or "flips"."""
        mask = "One mask for all groups" if self.mask == ALL else f"Mask of {self.mask}"
        own = " (its own)" if self.own and self.mask != ALL else ""
        if kind == "accuracy":
            what = f"{number(self.accuracy.value, signed=True)} points, 95% interval {span(self.accuracy)}"
        else:
            what = f"{number(self.flips.value)}% changed, 95% interval {span(self.flips)}"
        right = f"right: {count(self.before)} before, {count(self.after)} after, of {self.examples}"
        p = f"McNemar p {probability(self.p)}, Holm {probability(self.holm)}"
        return f"{mask}, asked about {self.group}{own}\n{what}\n{right}; {count(self.changed)} answers changed\n{p}"


@dataclass(frozen=True)
class Matrix:
    """A map to draw: rows by columns of numbers, each with what to tell of it; `own` cells are framed."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    tips: tuple[tuple[str, ...], ...]
    own: tuple[tuple[bool, ...], ...]


def intervals(table: Table) -> dict[str, Intervals]:
    """95% bootstrap intervals by selector."""
    return {selector: table.intervals(selector) for selector in table.selectors}


def effects(table: Table, drawn: dict[str, Intervals]) -> tuple[Effect, ...]:
    """Self, cross and gap of every selector."""

    def parts(of, bounds: EffectInterval) -> dict[str, Value]:
        named = {"self": "self_", "cross": "cross", "gap": "gap"}
        return {name: Value(getattr(of, part), *getattr(bounds, part)) for name, part in named.items()}

    return tuple(
        Effect(e.selector, parts(e.accuracy, drawn[e.selector].accuracy), parts(e.flips, drawn[e.selector].flips))
        for e in table.self_cross().effects
    )


def together(found: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """Effects with numbered random sets ("random 0", "random 1", ...) as one: their mean, and the least to the greatest."""
    drawn = [effect for effect in found if is_random(effect.selector)]
    if len(drawn) < 2:
        return found

    def mean(kind: str) -> dict[str, Value]:
        values = {part: [getattr(effect, kind)[part].value for effect in drawn] for part in ("self", "cross", "gap")}
        return {part: Value(sum(each) / len(each), min(each), max(each)) for part, each in values.items()}

    one = Effect(f"random, {len(drawn)} sets", mean("accuracy"), mean("flips"))
    first = found.index(drawn[0])
    return tuple(one if i == first else effect for i, effect in enumerate(found) if effect not in drawn or i == first)


def is_random(selector: str) -> bool:
    """Whether a selector is one of several numbered random sets, or all of them.

    >>> [is_random(name) for name in ("random 3", "random, 10 sets", "RND", "randomised")]
    [True, True, False, False]
    """
    return bool(re.fullmatch(r"random( \d+|, \d+ sets)", selector))


def cells(table: Table, drawn: dict[str, Intervals]) -> tuple[Cell, ...]:
    """Every mask on every group, selector by selector."""
    asked = Counter(row.group for row in table.rows if not row.selector and not row.mask)
    accuracy, found = table.accuracy().tolist(), []
    for selector in table.selectors:
        change, flips, p = table.changes(selector), table.flips(selector), table.mcnemar(selector)
        corrected, bounds = holm(p), drawn[selector]
        for m, mask in enumerate(table.masks(selector)):
            for g, group in enumerate(table.groups):
                share = asked[group] / 100
                of = Value(change[m, g].item(), bounds.accuracy.low[m, g].item(), bounds.accuracy.high[m, g].item())
                flipped = Value(flips[m, g].item(), bounds.flips.low[m, g].item(), bounds.flips.high[m, g].item())
                own, was = mask in (group, ALL), accuracy[g]
                before, after, changed = (round(share * v, 6) for v in (was, was + of.value, flipped.value))
                counts, chance = (asked[group], before, after, changed), (p[m, g].item(), corrected[m, g].item())
                found.append(Cell(selector, mask, group, own, *counts, of, flipped, *chance))
    return tuple(found)


def matrices(found: tuple[Cell, ...], kind: str) -> tuple[Matrix, ...]:
    """Maps of "accuracy" or "flips", mask by evaluated group; selectors with one mask for all groups share one."""
    columns = tuple(dict.fromkeys(cell.group for cell in found))
    by_mask: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        by_mask.setdefault((cell.selector, cell.mask), []).append(cell)
    panels: dict[str, dict[str, list[Cell]]] = {}
    shared = [s for s, mask in by_mask if mask == ALL and sum(other == s for other, _ in by_mask) == 1]
    for (selector, mask), row in by_mask.items():
        if selector in shared and len(shared) > 1:
            panels.setdefault("One mask for all groups", {})[selector] = row
        else:
            panels.setdefault(selector, {})[EVERYONE if mask == ALL else mask] = row
    return tuple(
        Matrix(
            name,
            tuple(rows),
            columns,
            tuple(tuple(getattr(cell, kind).value for cell in row) for row in rows.values()),
            tuple(tuple(cell.tip(kind) for cell in row) for row in rows.values()),
            tuple(tuple(cell.own and cell.mask != ALL for cell in row) for row in rows.values()),
        )
        for name, rows in panels.items()
    )


def lead(found: tuple[Effect, ...]) -> Effect | None:
    """The selector with the most negative gap: the one to speak of first. None if no selector has a gap."""
    with_gap = [effect for effect in found if not math.isnan(effect.accuracy["gap"].value)]
    return min(with_gap, key=lambda effect: effect.accuracy["gap"].value, default=None)
