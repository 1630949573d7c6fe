"""Ablation examples: what the full model and each mask say to one question (VLM paper, Figure 1).

Of each group, the question that shows most: right without a mask, wrong when the group's own neurons are off, still right
when neurons drawn at random are off. A run holds answers and no questions; those, and pictures, come from the examples
that are given.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatescope.data.example import Example
from gatescope.errors import GatescopeError
from gatescope.evaluate.answers import Reading
from gatescope.evaluate.table import ALL, FULL, Row, Table

THUMBNAIL = 320  # pixels on the longer side
MOST = 12


@dataclass(frozen=True)
class Answer:
    """What one mask made of a question: `who` answered, what was said, how it was read, whether that is right."""

    who: str
    text: str
    read: str
    verdict: str


@dataclass(frozen=True)
class Shown:
    """One question and the answers to it.

    Attributes:
        id, group: which.
        question, choices, answer: from the example; empty if it was not given.
        picture: the picture as a data URI; empty without one.
        answers: of the full model, then of each selector's mask for this group.
        others: what the masks of the other groups do, in words.
    """

    id: str
    group: str
    question: str
    choices: tuple[str, ...]
    answer: str
    picture: str
    answers: tuple[Answer, ...]
    others: str


def ablations(table: Table, first: str | None, examples: Sequence[Example] = ()) -> tuple[Shown, ...]:
    """The most telling question of each group, for at most a dozen groups.

    Args:
        table: the sweep.
        first: the selector whose masks must change the answer; any if None.
        examples: the questions, for their texts and pictures.

    Raises:
        GatescopeError: if examples are given and none of them was asked, or one was asked as another group's.
    """
    by_id = _known(table, examples)
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for row in table.rows:
        rows.setdefault((row.selector, row.mask), {})[row.id] = row
    shown = []
    for group in table.groups:
        # The masks that apply to a group's own questions: found on it, or one for all.
        applied = [(s, m) for s in table.selectors for m in table.masks(s) if m in (group, ALL)]
        own, shared = {s: rows[s, m] for s, m in applied}, [s for s, m in applied if m == ALL]
        leading = [first] if first in own else list(own)
        best, best_rank = None, None
        for row in rows[FULL].values():
            if row.group != group or not any(_flipped(row, own[s][row.id]) for s in leading):
                continue
            known = by_id.get(row.id)
            rank = (
                row.reading.value - min(own[s][row.id].reading.value for s in leading),
                sum(own[s][row.id].reading.value for s in shared),
                known is not None and known.image is not None,
            )
            if best_rank is None or rank > best_rank:
                best, best_rank = row, rank
        if best is not None:
            shown.append(_shown(best, own, rows, first, by_id.get(best.id)))
    return tuple(shown[:MOST])


def _known(table: Table, examples: Sequence[Example]) -> dict[str, Example]:
    asked = {row.id: row.group for row in table.rows}
    known = {example.id: example for example in examples if example.id in asked}
    if examples and not known:
        raise GatescopeError(
            f"None of the {len(examples)} examples given was asked in this run's sweep; give the ones it was run on "
            f"(study.evaluation)."
        )
    for example in known.values():
        if example.group != asked[example.id]:
            raise GatescopeError(
                f"Example {example.id!r} is of group {example.group!r}, and the run asked it as one of {asked[example.id]!r}; "
                f"give the examples the run was made with."
            )
    return known


def _flipped(before: Row, after: Row) -> bool:
    return before.reading.predicted != after.reading.predicted


def _shown(
    row: Row,
    own: Mapping[str, Mapping[str, Row]],
    rows: Mapping[tuple[str, str], Mapping[str, Row]],
    first: str | None,
    example: Example | None,
) -> Shown:
    answers = [_answer("full model", row), *(_answer(f"{s} off", answered[row.id]) for s, answered in own.items())]
    elsewhere = [by[row.id] for (s, m), by in rows.items() if s == first and m not in (row.group, ALL)]
    same = sum(not _flipped(row, other) for other in elsewhere)
    others = f"{first} masks of other groups: {same} of {len(elsewhere)} leave the answer as it was." if elsewhere else ""
    if example is None:
        return Shown(row.id, row.group, "", (), "", "", tuple(answers), others)
    choices = tuple(
        f"{label}. {choice}" if label else choice
        for label, choice in zip(example.labels or [""] * len(example.choices), example.choices, strict=True)
    )
    truth = choices[example.choices.index(example.answer)] if example.answer in example.choices else example.answer
    question = example.question or example.prompt or ""
    return Shown(row.id, row.group, question, choices, truth, thumbnail(example), tuple(answers), others)


def _answer(who: str, row: Row) -> Answer:
    return Answer(who, row.text.strip(), row.reading.predicted, verdict(row.reading))


def verdict(reading: Reading) -> str:
    """Right, wrong, or the score.

    >>> verdict(Reading("boat", True, False)), verdict(Reading("3", False, False, 0.75))
    ('right', 'score 0.75')
    """
    return ("right" if reading.correct else "wrong") if reading.score is None else f"score {reading.score:.2f}"


def thumbnail(example: Example) -> str:
    """The example's picture, small, as a data URI; empty if it has none or it cannot be opened."""
    try:
        picture = example.picture()
    except GatescopeError:
        return ""
    if picture is None:
        return ""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "PNG" if max(small.size) <= THUMBNAIL // 2 else "JPEG"
    buffer = io.BytesIO()
    small.save(buffer, kind, quality=82)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
