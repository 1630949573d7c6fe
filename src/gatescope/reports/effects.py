"""The effects of a sweep as numbers with intervals: of every selector, and of every mask on every group.

Effect  self, cross and gap of one selector, accuracy change and flip rate (VLM paper, section 4.4)
Cell    one mask on one group: counts, accuracy change, flip rate, their intervals, McNemar's p
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from gatescope.reports.words import Value, count, number, probability, span
from gatescope.statistics.intervals import EffectInterval, Intervals
from gatescope.statistics.metrics import SelfCross
from gatescope.statistics.significance import holm
from gatescope.statistics.table import ALL, Table

MEASURES = {"accuracy": "accuracy change (points)", "flips": "flip rate (%)"}
PARTS = ("self", "cross", "gap")
EVERYONE = "all groups"  # how a mask that is the same for all groups is called


@dataclass(frozen=True)
class Effect:
    """One selector's means over cells, by part: "self", "cross", "gap"."""

    selector: str
    accuracy: dict[str, Value]
    flips: dict[str, Value]

    def of(self, kind: str) -> dict[str, Value]:
        """The parts of "accuracy" or of "flips"."""
        return self.accuracy if kind == "accuracy" else self.flips


@dataclass(frozen=True)
class Cell:
    """What one mask does to one group's answers.

    Attributes:
        selector, mask, group: which mask, asked about which group.
        own: whether the mask was found on that group.
        examples: how many were answered.
        before, after: how many were right without and with the mask (sums of scores where answers have scores).
        changed: how many answers are not the full model's.
        accuracy: change in points.
        flips: flip rate in percent.
        p: McNemar's, uncorrected.
        holm: corrected over all cells of the selector.
        holes: how many were not answered, because the model gave NaN; nothing else here includes them.
    """

    selector: str
    mask: str
    group: str
    own: bool
    examples: int
    before: float
    after: float
    changed: int
    accuracy: Value
    flips: Value
    p: float
    holm: float
    holes: int = 0

    def tip(self, kind: str) -> str:
        """The tooltip of the cell, for "accuracy" or "flips"."""
        everyone = self.mask == ALL
        mask = "One mask for all groups" if everyone else f"Mask of {self.mask}"
        own = " (its own)" if self.own and not everyone else ""
        return "\n".join([f"{mask}, asked about {self.group}{own}", self._effect(kind), self._counts(), self._chance()])

    def of(self, kind: str) -> Value:
        """The change of "accuracy" or of "flips"."""
        return self.accuracy if kind == "accuracy" else self.flips

    def _effect(self, kind: str) -> str:
        if kind == "accuracy":
            return f"{number(self.accuracy.value, signed=True)} points, 95% interval {span(self.accuracy)}"
        return f"{number(self.flips.value)}% changed, 95% interval {span(self.flips)}"

    def _counts(self) -> str:
        right = f"right: {count(self.before)} before, {count(self.after)} after, of {self.examples}"
        holes = f"; {count(self.holes)} left out: the model gave NaN" if self.holes else ""
        return f"{right}; {count(self.changed)} answers changed{holes}"

    def _chance(self) -> str:
        return f"McNemar p {probability(self.p)}, Holm {probability(self.holm)}"


class Entry(NamedTuple):
    """One cell of a map: its number, what tells its tooltip, whether it is framed."""

    value: float
    tip: Callable[[], str]
    own: bool = False


class Tips(Sequence[tuple[str, ...]]):
    """The tooltips of a map, told when they are asked for: a map that is drawn as a picture has none."""

    def __init__(self, entries: Sequence[Sequence[Entry]]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, row: Any) -> Any:
        return tuple(entry.tip() for entry in self._entries[row])


@dataclass(frozen=True)
class Matrix:
    """A map to draw: rows by columns of numbers, each with a tooltip; `own` cells are framed."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    tips: Sequence[tuple[str, ...]]
    own: tuple[tuple[bool, ...], ...]

    @classmethod
    def of(cls, name: str, rows: Sequence[str], columns: Sequence[str], entry: Callable[[str, str], Entry]) -> Matrix:
        """A map of what `entry` says of every row and column."""
        entries = [[entry(row, column) for column in columns] for row in rows]

        def field(which: str) -> tuple[tuple[Any, ...], ...]:
            return tuple(tuple(getattr(cell, which) for cell in row) for row in entries)

        return cls(name, tuple(rows), tuple(columns), field("value"), Tips(entries), field("own"))

    @property
    def size(self) -> int:
        """How many cells it has."""
        return len(self.rows) * len(self.columns)


def intervals(table: Table) -> dict[str, Intervals]:
    """95% bootstrap intervals by selector."""
    return {selector: table.intervals(selector) for selector in table.selectors}


def effects(table: Table, drawn: dict[str, Intervals]) -> tuple[Effect, ...]:
    """Self, cross and gap of every selector."""

    def values(effect: SelfCross, bounds: EffectInterval) -> dict[str, Value]:
        return {
            "self": Value(effect.self_, *bounds.self_),
            "cross": Value(effect.cross, *bounds.cross),
            "gap": Value(effect.gap, *bounds.gap),
        }

    return tuple(
        Effect(e.selector, values(e.accuracy, drawn[e.selector].accuracy), values(e.flips, drawn[e.selector].flips))
        for e in table.self_cross().effects
    )


def together(rows: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """Effects with numbered random sets ("random 0", "random 1", ...) as one: their mean, and the least to the greatest."""
    drawn = [effect for effect in rows if is_random(effect.selector)]
    # A single random set is a selector like any other.
    if len(drawn) < 2:
        return rows

    def mean(kind: str) -> dict[str, Value]:
        values = {part: [effect.of(kind)[part].value for effect in drawn] for part in PARTS}
        return {part: Value(sum(numbers) / len(numbers), min(numbers), max(numbers)) for part, numbers in values.items()}

    # In the place of the first of them, so that the order of selectors stays.
    one = Effect(f"random, {len(drawn)} sets", mean("accuracy"), mean("flips"))
    first = rows.index(drawn[0])
    return (*rows[:first], one, *(effect for effect in rows[first:] if effect not in drawn))


def is_random(selector: str) -> bool:
    """Whether a selector is one of several numbered random sets, or all of them.

    >>> [is_random(name) for name in ("random 3", "random, 10 sets", "RND", "randomised")]
    [True, True, False, False]
    """
    return bool(re.fullmatch(r"random( \d+|, \d+ sets)", selector))


def cells(table: Table, drawn: dict[str, Intervals]) -> tuple[Cell, ...]:
    """Every mask on every group, selector by selector."""

    def values(means: Tensor, low: Tensor, high: Tensor) -> list[list[Value]]:
        rows = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
        return [list(map(Value, *row)) for row in rows]

    filled: list[Cell] = []
    for selector in table.selectors:
        changes, flips, p = table.changes(selector), table.flips(selector), table.mcnemar(selector)
        bounds = drawn[selector]
        accuracy = values(changes, bounds.accuracy.low, bounds.accuracy.high)
        flipped = values(flips, bounds.flips.low, bounds.flips.high)
        uncorrected, corrected = p.tolist(), holm(p).tolist()
        for m, mask in enumerate(table.masks(selector)):
            counts = zip(table.groups, table.counts((selector, mask)), strict=True)
            for g, (group, masked) in enumerate(counts):
                cell = Cell(
                    selector,
                    mask,
                    group,
                    # A mask for all groups was found on this group too.
                    own=mask in (group, ALL),
                    examples=masked.examples,
                    before=round(masked.before, 6),  # sums of scores carry rounding errors
                    after=round(masked.right, 6),
                    changed=masked.changed,
                    accuracy=accuracy[m][g],
                    flips=flipped[m][g],
                    p=uncorrected[m][g],
                    holm=corrected[m][g],
                    holes=masked.holes,
                )
                filled.append(cell)
    return tuple(filled)


def matrices(filled: tuple[Cell, ...], kind: str) -> tuple[Matrix, ...]:
    """Maps of "accuracy" or "flips", mask by evaluated group; selectors with one mask for all groups share one."""
    groups = tuple(dict.fromkeys(cell.group for cell in filled))
    return tuple(_matrix(name, rows, groups, kind) for name, rows in panels(filled).items())


def panels(filled: tuple[Cell, ...]) -> dict[str, dict[str, dict[str, Cell]]]:
    """Cells by the name of their map, row and column."""
    with_own = {cell.selector for cell in filled if cell.mask != ALL}
    # One row each: as maps of their own they would fill the page with single lines.
    shared = {cell.selector for cell in filled} - with_own
    found: dict[str, dict[str, dict[str, Cell]]] = {}
    for cell in filled:
        if cell.selector in shared and len(shared) > 1:
            panel, row = "One mask for all groups", cell.selector
        else:
            panel, row = cell.selector, EVERYONE if cell.mask == ALL else cell.mask
        found.setdefault(panel, {}).setdefault(row, {})[cell.group] = cell
    return found


def _matrix(name: str, rows: Mapping[str, Mapping[str, Cell]], groups: Sequence[str], kind: str) -> Matrix:
    def entry(row: str, group: str) -> Entry:
        cell = rows[row][group]
        return Entry(cell.of(kind).value, partial(cell.tip, kind), cell.own and cell.mask != ALL)

    return Matrix.of(name, tuple(rows), groups, entry)


def lead(rows: tuple[Effect, ...]) -> Effect | None:
    """The selector with the most negative gap: the one to speak of first. None if no selector has a gap."""
    with_gap = [effect for effect in rows if not math.isnan(effect.accuracy["gap"].value)]
    return min(with_gap, key=lambda effect: effect.accuracy["gap"].value, default=None)
