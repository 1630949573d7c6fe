"""The results of a sweep: every mask's answer to every example, and the effects computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError
from gatescope.statistics.intervals import Intervals, bootstrap
from gatescope.statistics.metrics import SelfCross, group_means, self_cross
from gatescope.statistics.significance import mcnemar

FULL = ("", "")  # the key of the unmasked model
ALL = "*"  # the group of a mask that is the same for all groups


@dataclass(frozen=True, slots=True)
class Row:
    """One answer: who was asked what, under which mask, what came out and how it was read.

    `selector` and `mask` are empty for the full model; otherwise the mask is the group its neurons were found on, or
    "*" where one mask serves all groups (RND).
    """

    id: str
    group: str
    selector: str
    mask: str
    text: str
    reading: Reading

    def plain(self) -> dict[str, Any]:
        """As a JSON-able dict; `parse` reads it back."""
        flat = asdict(self)
        reading = flat.pop("reading")
        return {**flat, **reading}

    @classmethod
    def full(cls, id: str, group: str, text: str, reading: Reading) -> Row:
        """An answer of the full model."""
        return cls(id, group, *FULL, text, reading)

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Row:
        """The row `plain` came from."""
        return next(cls.parsed([plain]))

    @classmethod
    def parsed(cls, plain: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        """Many rows; what comes again and again in them (ids, groups, answers) is held once."""
        once = dict[str, str]().setdefault
        readings: dict[tuple[str, bool, bool, float | None], Reading] = {}
        for row in plain:
            read = row["predicted"], row["correct"], row["fallback"], row.get("score")
            reading = readings.get(read)
            if reading is None:
                reading = readings[read] = Reading(*read)
            id_, group, selector, mask, text = row["id"], row["group"], row["selector"], row["mask"], row["text"]
            yield cls(once(id_, id_), once(group, group), once(selector, selector), once(mask, mask), once(text, text), reading)


@dataclass(frozen=True)
class Effect:
    """One selector's effect, averaged over groups.

    Attributes:
        selector: its name.
        accuracy: accuracy change in points: self, cross, gap.
        flips: flip rate in percent: self, cross, gap.

    A mask that is the same for all groups has no cross value and no gap: they are NaN.
    """

    selector: str
    accuracy: SelfCross
    flips: SelfCross


class Table:
    """Answers by mask and example. Built by `sweep`, or from the rows of a run.

    Attributes:
        rows: every answer.
        groups: evaluated groups, in order of appearance.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._answers = _by_mask(self.rows)
        full = self._answers[FULL]
        self.groups = tuple(dict.fromkeys(row.group for row in full))
        place = {group: number for number, group in enumerate(self.groups)}
        self._member = torch.tensor([place[row.group] for row in full])
        # By mask: every statistic asks for these, and a table may have hundreds of thousands of rows.
        self._values: dict[tuple[str, str], Float64[Tensor, " e"]] = {}
        self._flips: dict[tuple[str, str], Bool[Tensor, " e"]] = {}

    @property
    def full(self) -> tuple[Row, ...]:
        """The full model's answers: one to each example."""
        return tuple(self._answers[FULL])

    @property
    def selectors(self) -> tuple[str, ...]:
        """Selectors whose masks were swept."""
        return tuple(dict.fromkeys(selector for selector, mask in self._answers if (selector, mask) != FULL))

    def masks(self, selector: str) -> tuple[str, ...]:
        """The groups a selector has a mask for.

        Raises:
            GatescopeError: for a selector that is not in the table.
        """
        if selector not in self.selectors:
            raise GatescopeError(f"No selector {selector!r} in this table; it has {', '.join(map(repr, self.selectors))}.")
        return tuple(mask for s, mask in self._answers if s == selector)

    def accuracy(self) -> Float64[Tensor, " g"]:
        """The full model's accuracy on each group, in percent; where answers have scores, their mean."""
        return group_means(self._value(FULL), self._member, len(self.groups))

    def changes(self, selector: str) -> Float64[Tensor, "m g"]:
        """Accuracy change of each mask on each group, in points (VLM paper, equation 10)."""
        return group_means(self._after(selector), self._member, len(self.groups)) - self.accuracy()

    def flips(self, selector: str) -> Float64[Tensor, "m g"]:
        """Flip rate of each mask on each group, in percent (VLM paper, equation 11)."""
        return group_means(self._flipped(selector), self._member, len(self.groups))

    def intervals(self, selector: str, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Intervals:
        """Bootstrap intervals of `changes`, `flips` and of self, cross and gap; see `intervals.bootstrap`.

        Raises:
            GatescopeError: for a selector that is not in the table, fewer than 2 resamples, or a level outside (0, 1).
        """
        right, after, flipped = self._value(FULL), self._after(selector), self._flipped(selector)
        own = self._own(selector)
        return bootstrap(right, after, flipped, self._member, own, level=level, resamples=resamples, seed=seed)

    def mcnemar(self, selector: str) -> Float64[Tensor, "m g"]:
        """Exact McNemar p-value of each cell of `changes`, uncorrected; see `significance.holm` for many."""
        # Right or wrong, not scores: McNemar's test counts answers that changed sides.
        after = torch.stack([self._correct((selector, mask)) for mask in self.masks(selector)])
        return mcnemar(self._correct(FULL), after, self._member, len(self.groups))

    def counts(self, key: tuple[str, str]) -> list[tuple[int, float, int]]:
        """Of each group under a mask (selector, mask): how many answers, how many right (the sum of scores), how many
        changed.
        """
        how_many = len(self.groups)
        asked = self._member.bincount(minlength=how_many)
        right = self._member.bincount(self._value(key), how_many)
        changed = self._member.bincount(self._changed(key).double(), how_many)
        return list(zip(asked.tolist(), right.tolist(), changed.long().tolist(), strict=True))

    def self_cross(self) -> Effects:
        """Self-deactivation, cross-deactivation and gap of every selector (VLM paper, section 4.4)."""
        return Effects(tuple(self._effect(selector) for selector in self.selectors))

    def _effect(self, selector: str) -> Effect:
        own = self._own(selector)
        return Effect(selector, self_cross(self.changes(selector), own), self_cross(self.flips(selector), own))

    def _own(self, selector: str) -> Bool[Tensor, "m g"]:
        # A mask for all groups counts as own everywhere, and so has no cross value.
        return torch.tensor([[mask in (group, ALL) for group in self.groups] for mask in self.masks(selector)])

    def _after(self, selector: str) -> Float64[Tensor, "m e"]:
        return torch.stack([self._value((selector, mask)) for mask in self.masks(selector)])

    def _flipped(self, selector: str) -> Bool[Tensor, "m e"]:
        return torch.stack([self._changed((selector, mask)) for mask in self.masks(selector)])

    def _changed(self, key: tuple[str, str]) -> Bool[Tensor, " e"]:
        if key not in self._flips:
            pairs = zip(self._answers[key], self._answers[FULL], strict=True)
            # The choice read, not the text: the same choice in other words is no flip.
            self._flips[key] = torch.tensor([row.reading.predicted != before.reading.predicted for row, before in pairs])
        return self._flips[key]

    def _value(self, key: tuple[str, str]) -> Float64[Tensor, " e"]:
        if key not in self._values:
            self._values[key] = torch.tensor([row.reading.value for row in self._answers[key]], dtype=torch.float64)
        return self._values[key]

    def _correct(self, key: tuple[str, str]) -> Bool[Tensor, " e"]:
        return torch.tensor([row.reading.correct for row in self._answers[key]])


def _by_mask(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The answers under each mask, (selector, mask), all of them to the same examples in the same order."""
    answers: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        answers.setdefault((row.selector, row.mask), []).append(row)
    if FULL not in answers:
        raise GatescopeError("A table needs the answers of the full model; there are none.")
    # All statistics are paired, so every mask must have answered the same examples in order.
    ids = [row.id for row in answers[FULL]]
    for key, masked in answers.items():
        if [row.id for row in masked] != ids:
            raise GatescopeError(f"The answers of mask {key} are to other examples than those of the full model.")
    return answers


@dataclass(frozen=True)
class Effects:
    """The effects of several selectors; prints as a table.

    >>> print(Effects((Effect("CAS", SelfCross(-90.0, -0.5, -89.5), SelfCross(91.0, 1.0, 90.0)),)))
               accuracy change (points)       flip rate (%)
    selector     self    cross      gap     self    cross      gap
    CAS         -90.0     -0.5    -89.5     91.0      1.0     90.0
    """

    effects: tuple[Effect, ...]

    def __getitem__(self, selector: str) -> Effect:
        return next(effect for effect in self.effects if effect.selector == selector)

    def __str__(self) -> str:
        wide = max([8, *(len(effect.selector) for effect in self.effects)])
        lines = [
            f"{'':{wide}} {'accuracy change (points)':>26} {'flip rate (%)':>19}",
            f"{'selector':{wide}}" + f"{'self':>9}{'cross':>9}{'gap':>9}" * 2,
        ]
        for effect in self.effects:
            numbers = [*astuple(effect.accuracy), *astuple(effect.flips)]
            lines.append(f"{effect.selector:{wide}}" + "".join(map(_cell, numbers)))
        return "\n".join(lines)


def _cell(number: float) -> str:
    return f"{'-':>9}" if math.isnan(number) else f"{number:9.1f}"
