"""Ablation examples: what the full model and each mask say to one question (VLM paper, Figure 1).

Of each group, the question that shows most: right without a mask, wrong when the group's own neurons are off, still right
when neurons drawn at random are off. A run holds answers and no questions; those, and pictures, come from the examples
that are given.
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
from gatescope.statistics.table import ALL, FULL, Row, Table

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


def ablations(
    table: Table, first: str | None, examples: Sequence[Example] = (), digest: str | None = None
) -> tuple[Shown, ...]:
    """The most telling question of each group, for at most a dozen groups.

    Args:
        table: the sweep.
        first: the selector whose masks must change the answer; any if None.
        examples: the questions, for their texts and pictures; all that were asked, or none.
        digest: `fingerprint` of what was asked, where it is known.

    Raises:
        GatescopeError: if examples are given and they are not those that were asked.
    """
    by_id = asked_of(table, examples, digest) if examples else {}
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


def asked_of(table: Table, examples: Sequence[Example], digest: str | None) -> dict[str, Example]:
    """The examples by id, if they are those the sweep asked: the same ids, groups and contents.

    Args:
        table: the sweep.
        examples: what is said to have been asked.
        digest: `fingerprint` of what was asked; contents are not compared if None.

    Raises:
        GatescopeError: if one of them was not asked, one that was asked is not there, or they are others of the same ids.

    Warns:
        UserWarning: if contents cannot be compared, for a picture cannot be read any more.
    """
    asked = {row.id: row.group for row in table.rows}
    known = {example.id: example for example in examples if example.id in asked}
    if not known:
        raise GatescopeError(
            f"None of the {len(examples)} examples given was asked in this run's sweep; give the ones it was run on "
            f"(study.evaluation)."
        )
    if foreign := [example.id for example in examples if example.id not in asked]:
        raise GatescopeError(
            f"{len(foreign)} of the {len(examples)} examples given were not asked in this run's sweep, such as {foreign[0]!r}; "
            f"{_THOSE}"
        )
    for example in known.values():
        if example.group != asked[example.id]:
            raise GatescopeError(
                f"Example {example.id!r} is of group {example.group!r}, and the run asked it as one of {asked[example.id]!r}; "
                f"give the examples the run was made with."
            )
    if len(known) < len(asked):
        gone = next(id for id in asked if id not in known)
        raise GatescopeError(
            f"{len(asked) - len(known)} of the {len(asked)} examples this run asked are not among those given, such as "
            f"{gone!r}; {_THOSE}"
        )
    try:
        same = digest is None or fingerprint([known[id] for id in asked]) == digest
    except OSError as error:
        warnings.warn(f"The examples could not be compared with those the run asked: {error}.", stacklevel=2)
        same = True
    if not same:
        raise GatescopeError(
            f"The {len(known)} examples given have the ids of those this run asked, and other texts, prompts, options or "
            f"pictures; {_THOSE}"
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
