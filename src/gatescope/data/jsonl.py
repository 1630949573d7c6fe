"""Your own questions: a JSONL file, one example a line.

    {"id": "1", "group": "Arveni", "image": "1.png", "question": "...", "choices": ["a", "b"], "answer": "a"}

`image` is optional, a path relative to the file; so are `labels`, `prompt`, `prefix`, `item`, `system` and `facts` (see
Example). A question with short answers has `accepted`, a list of them, in place of `choices` and `answer`.
`split` is optional, "identification" or "evaluation", for every row or for none; without it each group is cut in half
(the odd one to evaluation) after a seeded shuffle; rows of one `item`, or with one question and no picture, stay together.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.data.example import Example, Study, readout_of
from gatescope.data.split import halves

SPLITS = ("identification", "evaluation")
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "id": (str, int),
    "group": str,
    "question": str,
    "choices": list,
    "answer": str,
}
_IMPLIED_BY_ACCEPTED = ("choices", "answer")
_TEXTS = ("image", "prompt", "prefix", "item", "system")
_KNOWN = {*_NEEDED, *_TEXTS, "labels", "accepted", "chat", "facts", "split"}
_SHAPE = "A row is {id, group, question, choices: [text, ...], answer: one of the choices, image: optional path}."


@dataclass(frozen=True)
class _Row:
    """One line of the file as read: its number, counted from 1, the example on it, and the half it asks to be in."""

    number: int
    example: Example
    split: str | None


def jsonl(path: str | Path, *, seed: int = 0, groups: Iterable[str] | None = None) -> Study:
    """Read a study from a JSONL file; every row and every picture is checked before anything is run.

    Args:
        path: the file.
        seed: of the halves, where the rows have no `split`.
        groups: only these; all of the file's if None.

    Raises:
        GatescopeError: naming file and line, for a file that cannot be read, a line that is not JSON, a missing or
            ill-typed field, an answer that is not among the choices, an id used twice, an image that cannot be
            opened, a `split` that is unknown or given for some rows only; for a group that the file does not have.

    Warns:
        UserWarning: for fields that an example does not have.
    """
    path = Path(path)
    rows = _checked_rows(path)
    _check_labels(path, rows)
    rows = _in_groups(path, rows, groups)
    _check_splits(path, rows)
    examples = [row.example for row in rows]
    # Either all rows have a split now, or none has.
    halved = any(row.split is None for row in rows)
    identification, evaluation, notes = _halved(examples, seed) if halved else _by_split(rows)
    return Study(path.stem, identification, evaluation, notes, readout_of(examples))


def _checked_rows(path: Path) -> list[_Row]:
    """Every row of the file, each of them checked, with one warning for all fields that are not used."""
    lines = _lines(path)
    rows: list[_Row] = []
    first_lines: dict[str, int] = {}  # by id
    unused: set[str] = set()
    with bar(len(lines), f"checking {path.name}", "rows") as progress:
        for number, line in lines:
            progress.update()
            where = f"{path}, line {number}"
            fields = _fields(where, line)
            unused |= _unknown(where, fields)
            first_line = first_lines.setdefault(str(fields["id"]), number)
            if first_line != number:
                raise GatescopeError(f"{where}: id {fields['id']!r} was used before, on line {first_line}. Ids must be unique.")
            rows.append(_Row(number, _example(where, fields, path.parent), fields.get("split")))
    if unused:
        names = ", ".join(map(repr, sorted(unused)))
        warnings.warn(
            f"{path}: {names} are not fields of an example and are ignored; put what a reader may want to know into 'facts'.",
            stacklevel=3,
        )
    return rows


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GatescopeError(f"{path} cannot be read as a JSONL file: {error}.") from error
    # Not splitlines: it also cuts at U+2028, U+0085 and others, which may stand in a JSON string as they are.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise GatescopeError(f"{path} holds no examples. {_SHAPE}")
    if lines[0][1].lstrip().startswith("["):
        raise GatescopeError(f"{path} holds a JSON array; one JSON object a line is needed, without brackets. {_SHAPE}")
    return lines


def _fields(where: str, line: str) -> dict[str, Any]:
    """The JSON object on a line; those of its fields that an Example does not check itself have their types."""
    try:
        fields: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise GatescopeError(f"{where}: not JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise GatescopeError(f"{where}: a JSON object is needed, this is a {type(fields).__name__}. {_SHAPE}")
    _check_accepted(where, fields)
    _check_needed(where, fields)
    for name in _TEXTS:
        if not isinstance(fields.get(name) or "", str):
            raise GatescopeError(f"{where}: the field {name!r} is {fields[name]!r}; it must be text, or left out.")
    return fields


def _check_accepted(where: str, fields: dict[str, Any]) -> None:
    references: Any = fields.get("accepted")
    if not references:
        return
    if not isinstance(references, list) or not all(isinstance(answer, str) and answer.strip() for answer in references):
        raise GatescopeError(f"{where}: the field 'accepted' is {references!r}; it must be a list of answers, text.")


def _check_needed(where: str, fields: dict[str, Any]) -> None:
    optional = _IMPLIED_BY_ACCEPTED if fields.get("accepted") else ()
    for name, kind in _NEEDED.items():
        if name not in fields:
            if name in optional:
                continue
            raise GatescopeError(f"{where}: the field {name!r} is missing (found {sorted(fields)}). {_SHAPE}")
        # True and False are ints to Python, but no ids.
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise GatescopeError(f"{where}: the field {name!r} is {fields[name]!r}. {_SHAPE}")
    choices = fields.get("choices", [])
    if not all(isinstance(choice, str) for choice in choices):
        raise GatescopeError(f"{where}: every choice must be text, these are {choices!r}.")


def _unknown(where: str, fields: dict[str, Any]) -> set[str]:
    """The fields that an example does not have.

    Raises:
        GatescopeError: for one that looks like a misspelling: 'promt' where there is no 'prompt'.
    """
    unknown = fields.keys() - _KNOWN
    for name in sorted(unknown):
        similar = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.75)
        # 'question_id' beside 'question' is a field of the user's own.
        if similar and similar[0] not in fields.keys() | _NEEDED.keys():
            raise GatescopeError(f"{where}: there is no field {name!r}; {similar[0]!r} may be meant.")
    return unknown


def _example(where: str, fields: dict[str, Any], folder: Path) -> Example:
    references: list[str] = fields.get("accepted") or []
    # Those that are null or empty have Example's defaults.
    optional = {name: fields[name] for name in ("prefix", "item", "system", "facts") if fields.get(name)}
    try:
        example = Example(
            id=str(fields["id"]),
            group=fields["group"],
            question=fields["question"],
            choices=tuple(fields.get("choices", ())),
            answer=fields["answer"] if "answer" in fields else references[0],
            image=folder / fields["image"] if fields.get("image") else None,
            labels=tuple(fields.get("labels") or ()),
            prompt=fields.get("prompt"),
            references=tuple(references),
            chat=fields.get("chat") is not False,
            **optional,
        )
        example.picture()  # fails now if it will fail at all, rather than hours into a run
    except GatescopeError as error:
        raise GatescopeError(f"{where}: {error}") from error
    return example


def _check_labels(path: Path, rows: Sequence[_Row]) -> None:
    if not any(row.example.labels for row in rows):
        return
    for row in rows:
        if row.example.choices and not row.example.labels:
            raise GatescopeError(
                f"{path}, line {row.number}: no 'labels', though other rows have them. Give them to all rows or to none."
            )


def _in_groups(path: Path, rows: list[_Row], groups: Iterable[str] | None) -> list[_Row]:
    if groups is None:
        return rows
    chosen = set(groups)
    present = {row.example.group for row in rows}
    if unknown := sorted(chosen - present):
        raise GatescopeError(f"{path} has no group {unknown[0]!r}; it has {', '.join(map(repr, sorted(present)))}.")
    return [row for row in rows if row.example.group in chosen]


def _check_splits(path: Path, rows: Sequence[_Row]) -> None:
    for row in rows:
        if row.split is not None and row.split not in SPLITS:
            raise GatescopeError(
                f"{path}, line {row.number}: split is {row.split!r}; it must be one of {', '.join(map(repr, SPLITS))}."
            )
    without = [row.number for row in rows if row.split is None]
    if 0 < len(without) < len(rows):
        raise GatescopeError(
            f"{path}, line {without[0]}: no 'split', though other rows have one. Give it to all rows or to none."
        )


def _by_split(rows: Sequence[_Row]) -> tuple[list[Example], list[Example], dict[str, str]]:
    """The halves the file asks for; a question that is in both is counted in the notes."""
    identification, evaluation = ([row.example for row in rows if row.split == split] for split in SPLITS)
    notes = {"split": "as the file says"}
    known = {_item(example) for example in identification}
    shared = sum(_item(example) in known for example in evaluation)
    if shared:
        notes["shared"] = f"{shared} of {len(evaluation)} evaluation examples ask what an identification example asks"
    return identification, evaluation, notes


def _halved(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example], dict[str, str]]:
    """Each group cut in half, variants of one question in one of the halves."""
    items: dict[str, set[str]] = {}  # by group
    for example in examples:
        items.setdefault(example.group, set()).add(_item(example))

    def block(example: Example) -> str:
        # A group that asks one thing only (an instruction, the question being in the prompt) cannot be kept together.
        return _item(example) if len(items[example.group]) > 1 else example.id

    identification, evaluation = halves(examples, lambda example: example.group, block, seed)
    notes = {"split": f"half of each group at random, variants of one question together, seed {seed}"}
    return identification, evaluation, notes


def _item(example: Example) -> str:
    """What examples that ask the same share: their item, or, where there is no picture, the question."""
    if example.item or example.image is not None:
        return example.item or example.id
    return f"{example.group}: {example.question}"
