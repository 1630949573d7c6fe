"""Ablation examples: what the full model and each mask say to one question (VLM paper, Figure 1).

Of each group, the question that shows most: right without a mask, wrong when the group's own neurons are off, still right
when neurons drawn at random are off. Texts and pictures are those of the run's own questions, or of examples that are
given: for a run of an earlier version, which kept none, and for pictures that were in memory.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example, fingerprint
from gatescope.reports.words import number
from gatescope.statistics.table import ALL, Row, Table

_THOSE = (
    "give the ones it was run on: study.evaluation; on the command line the --data, --path, --group and --seed that it was "
    "run with, or none of them."
)
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
        missing: why there is no picture although the question has one; empty otherwise.
        answers: of the full model, then of each selector's mask for this group.
        others: what the masks of the other groups do, in words.
    """

    id: str
    group: str
    question: str
    choices: tuple[str, ...]
    answer: str
    picture: str
    missing: str
    answers: tuple[Answer, ...]
    others: str


Answered = Mapping[tuple[str, str], Mapping[str, Row]]  # by selector and mask, then by question


def ablations(table: Table, first: str | None, by_id: Mapping[str, Example] | None = None) -> tuple[Shown, ...]:
    """The most telling question of each group, for at most a dozen groups.

    Args:
        table: the sweep.
        first: the selector whose masks must change the answer; any if None.
        by_id: the questions, for their texts and pictures, as far as they are known.
    """
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for row in table.rows:
        rows.setdefault((row.selector, row.mask), {})[row.id] = row
    telling = (_most_telling(group, table, rows, first, by_id or {}) for group in table.groups)
    return tuple(shown for shown in telling if shown is not None)[:MOST]


def _most_telling(group: str, table: Table, rows: Answered, first: str | None, by_id: Mapping[str, Example]) -> Shown | None:
    """A group's question that shows most; None if its own masks change no answer."""
    # The masks that apply to a group's own questions: found on it, or one for all.
    own = {s: (mask, rows[s, mask]) for s in table.selectors for mask in table.masks(s) if mask in (group, ALL)}
    leading = [rows_of for _, rows_of in ([own[first]] if first in own else own.values())]
    shared = [rows_of for mask, rows_of in own.values() if mask == ALL]

    def flipped(row: Row) -> bool:
        return row.group == group and any(_flipped(row, answers_of[row.id]) for answers_of in leading)

    def values(row: Row, masks: list[Mapping[str, Row]]) -> list[float]:
        readings = [answers_of[row.id].reading for answers_of in masks]
        return [reading.value for reading in readings if not reading.hole]

    def rank(row: Row) -> tuple[float, float, bool]:
        """What its own neurons cost, what random ones leave, and whether there is something to see."""
        lost = row.reading.value - min(values(row, leading), default=row.reading.value)
        left = sum(values(row, shared))
        return lost, left, row.id in by_id and by_id[row.id].image is not None

    best = max(filter(flipped, table.full), key=rank, default=None)
    if best is None:
        return None
    answers = [_answer("full model", best), *(_answer(f"{s} off", answers_of[best.id]) for s, (_, answers_of) in own.items())]
    return _shown(best, tuple(answers), _others(best, rows, first), by_id.get(best.id))


def asked_of(table: Table, examples: Sequence[Example], digest: str | None) -> dict[str, Example]:
    """The examples by id, if they are those the sweep asked: the same ids, groups and contents.

    Args:
        table: the sweep.
        examples: what is said to have been asked.
        digest: `fingerprint` of what was asked; contents are not compared if None.

    Raises:
        GatescopeError: if one of them was not asked, one that was asked is not there, or they are others of the same ids.

    Warns:
        UserWarning: if contents cannot be compared because a picture can no longer be read.
    """
    groups = {row.id: row.group for row in table.full}
    known = {example.id: example for example in examples if example.id in groups}
    _check_ids(groups, known, examples)
    try:
        # Not every run says which contents it asked.
        same = digest is None or fingerprint([known[id] for id in groups]) == digest
    except GatescopeError as error:
        warnings.warn(f"The examples could not be compared with those the run asked: {error}", stacklevel=2)
        same = True
    if not same:
        raise GatescopeError(
            f"The {len(known)} examples given have the same ids as this run's, but other texts, prompts, options or "
            f"pictures; {_THOSE}"
        )
    return known


def _check_ids(groups: Mapping[str, str], known: Mapping[str, Example], examples: Sequence[Example]) -> None:
    """Refuse examples whose ids and groups are not those that were asked."""
    if not known:
        raise GatescopeError(
            f"None of the {len(examples)} examples given was asked in this run's sweep; give the ones it was run on "
            f"(study.evaluation)."
        )
    if foreign := [example.id for example in examples if example.id not in groups]:
        raise GatescopeError(
            f"{len(foreign)} of the {len(examples)} examples given are not part of this run's sweep, such as {foreign[0]!r}; "
            f"{_THOSE}"
        )
    for example in known.values():
        if example.group != groups[example.id]:
            raise GatescopeError(
                f"Example {example.id!r} is of group {example.group!r}, and the run asked it as one of {groups[example.id]!r}; "
                f"give the examples the run was made with."
            )
    if gone := [id for id in groups if id not in known]:
        raise GatescopeError(
            f"{len(gone)} of the {len(groups)} examples this run asked are not among those given, such as {gone[0]!r}; {_THOSE}"
        )


def _flipped(before: Row, after: Row) -> bool:
    return before.reading.predicted != after.reading.predicted and not after.reading.hole


def _others(row: Row, rows: Answered, first: str | None) -> str:
    """What the masks of the other groups do to an answer, in words."""
    # What its own mask does and the others' do not is what "specific" means.
    elsewhere = [answers[row.id] for (s, m), answers in rows.items() if s == first and m not in (row.group, ALL)]
    same = sum(not _flipped(row, other) for other in elsewhere)
    return f"{first} masks of other groups: {same} of {len(elsewhere)} leave the answer as it was." if elsewhere else ""


def _shown(row: Row, answers: tuple[Answer, ...], others: str, example: Example | None) -> Shown:
    if example is None:
        return Shown(row.id, row.group, "", (), "", "", "", answers, others)
    labels = [f"{label}. " for label in example.labels] or [""] * len(example.choices)
    choices = tuple(map("".join, zip(labels, example.choices, strict=True)))
    truth = choices[example.choices.index(example.answer)] if example.answer in example.choices else example.answer
    question = example.question or example.prompt or ""
    return Shown(row.id, row.group, question, choices, truth, *thumbnail(example), answers, others)


def _answer(who: str, row: Row) -> Answer:
    return Answer(who, row.text.strip(), row.reading.predicted, verdict(row.reading))


def verdict(reading: Reading) -> str:
    """Right, wrong, or the score; or that there is none.

    >>> verdict(Reading("boat", True, False)), verdict(Reading("3", False, False, 0.75))
    ('right', 'score 0.75')
    """
    if reading.hole:
        return "no answer: the model gave NaN"
    return ("right" if reading.correct else "wrong") if reading.score is None else f"score {number(reading.score, 2)}"


def thumbnail(example: Example) -> tuple[str, str]:
    """The example's picture, small, as a data URI, and why there is none; both are empty if it has no picture."""
    try:
        picture = example.picture()
    except GatescopeError as error:
        return "", str(error)
    if picture is None:
        return "", ""
    picture.thumbnail((THUMBNAIL, THUMBNAIL))  # in place: `picture()` gives a copy
    # JPEG would blur what is small already, and save little.
    kind = "PNG" if max(picture.size) <= THUMBNAIL // 2 else "JPEG"
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=82)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}", ""
