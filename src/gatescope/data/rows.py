"""A line of a JSONL file, and the example on it: what is right is decoded at once, what is not is looked at to say why."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gatescope.core import foreign
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example

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
SHAPE = "A row is {id, group, question, choices: [text, ...], answer: one of the choices, image: optional path}."
_KEY = re.compile(rb'"([^"\\]*)"\s*:')
_SHARED = 2**12  # values: looked up for every text of every row, and more are no longer in the processor's cache


class Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One line of the file as it should be; what is null is as if it were left out."""

    id: str | int
    group: str
    question: str
    choices: tuple[str, ...] | None = None
    answer: str | None = None
    image: str | None = None
    prompt: str | None = None
    prefix: str | None = None
    item: str | None = None
    system: str | None = None
    labels: tuple[str, ...] | None = None
    accepted: tuple[str, ...] | None = None
    chat: bool | None = None
    facts: dict[str, Any] | None = None
    split: Any = None


_ROW = msgspec.json.Decoder(Row)
_ANY = msgspec.json.Decoder(Any)
_VALUES = msgspec.json.Decoder(dict[str, msgspec.Raw])


def row_of(line: bytes, unused: set[str]) -> Row:
    """The row on a line; fields that an example does not have are added to `unused`.

    Raises:
        GatescopeError: for a line that is no row, saying which field is not as it should be.
    """
    try:
        row = _ROW.decode(line)
        if not row.accepted and (row.choices is None or row.answer is None):
            _check_needed(_fields(line))
    except foreign.Problem:
        # It is no row, which the decoder found in a fraction of the time that it takes to say why.
        row = _explained(_fields(line), unused)
    # A field that is there twice leaves more keys than fields. So does a text that looks like a key: only then is it looked at.
    fields = msgspec.structs.astuple(row)
    if line.count(b'":') != len(fields) - fields.count(None) + len(row.facts or ()):
        _check_once(line)
    return row


def _fields(line: bytes) -> dict[str, Any]:
    """The JSON object on a line."""
    try:
        fields = _ANY.decode(line)
    except foreign.Problem as error:
        raise GatescopeError(f"{_field_at_fault(line)}{foreign.problem(line, error)}.") from error
    if not isinstance(fields, dict):
        raise GatescopeError(f"a JSON object is needed, this is a {type(fields).__name__}. {SHAPE}")
    return fields


def _field_at_fault(line: bytes) -> str:
    """The name of the field whose value cannot be decoded, to begin a message with; empty if it is not one field's."""
    try:
        values = _VALUES.decode(line)
    except foreign.Problem:
        return ""
    for name, value in values.items():
        try:
            _ANY.decode(value)
        except foreign.Problem:
            return f"the field {name!r}: "
    return ""


def _explained(fields: dict[str, Any], unused: set[str]) -> Row:
    """The row of an object that has fields of its own.

    Raises:
        GatescopeError: for everything else that an object may have or lack.
    """
    _check_accepted(fields)
    _check_needed(fields)
    for name in _TEXTS:
        if not isinstance(fields.get(name) or "", str):
            raise GatescopeError(f"the field {name!r} is {fields[name]!r}; it must be text, or left out.")
    unknown = _unknown(fields)
    unused |= unknown
    known = {name: value for name, value in fields.items() if name not in unknown}
    try:
        return msgspec.convert(known, Row)
    except msgspec.ValidationError as error:
        raise GatescopeError(f"{foreign.in_words(error)}.") from error


def _check_once(line: bytes) -> None:
    keys = _KEY.findall(line)
    # A fact may be called like a field, so that Python's own decoder is asked.
    if len(set(keys)) < len(keys):
        json.loads(line, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise GatescopeError(f"the field {name!r} is there twice, and only one of the two could be used.")
        fields[name] = value
    return fields


def _check_accepted(fields: dict[str, Any]) -> None:
    references: Any = fields.get("accepted")
    if not references:
        return
    if not isinstance(references, list) or not all(isinstance(answer, str) for answer in references):
        raise GatescopeError(f"the field 'accepted' is {references!r}; it must be a list of answers, text.")


def _check_needed(fields: dict[str, Any]) -> None:
    optional = _IMPLIED_BY_ACCEPTED if fields.get("accepted") else ()
    for name, kind in _NEEDED.items():
        if name not in fields:
            if name in optional:
                continue
            raise GatescopeError(f"the field {name!r} is missing (found {sorted(fields)}). {SHAPE}")
        # True and False are ints to Python, but no ids.
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise GatescopeError(f"the field {name!r} is {fields[name]!r}. {SHAPE}")
    choices = fields.get("choices", [])
    if not all(isinstance(choice, str) for choice in choices):
        raise GatescopeError(f"every choice must be text, these are {choices!r}.")


def _unknown(fields: dict[str, Any]) -> set[str]:
    """The fields that an example does not have.

    Raises:
        GatescopeError: for one that looks like a misspelling: 'promt' where there is no 'prompt'.
    """
    unknown = fields.keys() - _KNOWN
    for name in sorted(unknown):
        similar = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.75)
        # 'question_id' beside 'question' is a field of the user's own.
        if similar and similar[0] not in fields.keys() | _NEEDED.keys():
            raise GatescopeError(f"there is no field {name!r}; {similar[0]!r} may be meant.")
    return unknown


class Shared:
    """Texts that many rows have (a group, a choice), each kept once; the first of them only, for there may be many."""

    def __init__(self) -> None:
        self._held: dict[Any, Any] = {}

    def one(self, value: Any) -> Any:
        """A text, or several in a tuple, as it was kept if it was there before."""
        if len(self._held) < _SHARED:
            return self._held.setdefault(value, value)
        return self._held.get(value, value)

    def each(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Several texts, each as `one` does."""
        held = self._held.setdefault if len(self._held) < _SHARED else self._held.get
        return tuple(map(held, texts, texts))


def example_of(id: str, row: Row, folder: Path, shared: Shared) -> Example:
    """The example on a line.

    Args:
        id: its id, as text.
        row: what is on the line.
        folder: what the paths of pictures are relative to.
        shared: values of the lines before.

    Raises:
        GatescopeError: as `Example` does; if its picture cannot be opened, or its facts are nested too deep.
    """
    choices = shared.each(row.choices or ())
    answer = row.answer
    if answer in choices:
        answer = choices[choices.index(answer)]  # the same text, not an equal one
    group = shared.one(row.group)
    if answer is not None and _is_plain(row):
        return Example.plain(id, group, row.question, choices, answer)
    optional = _optional(row, folder, shared)
    answer = answer if answer is not None else optional["references"][0]
    example = Example(id, group, row.question, choices, answer, **optional)
    example.picture()  # fails now if it will fail at all, rather than hours into a run
    return example


def _is_plain(row: Row) -> bool:
    """Whether it has nothing but what each row has, as most rows of large files."""
    optional = msgspec.structs.astuple(row)[len(_NEEDED) :]
    return optional.count(None) == len(optional)


def _optional(row: Row, folder: Path, shared: Shared) -> dict[str, Any]:
    """What a row has besides, by the names of an example's fields; those that are null or empty have their defaults."""
    references = row.accepted or ()
    if not all(map(str.strip, references)):
        raise GatescopeError(f"the field 'accepted' is {list(references)}; it must be a list of answers, text.")
    if row.facts and foreign.too_deep(row.facts):
        raise GatescopeError(f"the field 'facts' has lists or objects nested deeper than {foreign.DEEPEST} levels.")
    fields = {
        "image": folder / row.image if row.image else None,
        "labels": shared.one(shared.each(row.labels or ())),
        "prefix": row.prefix,
        "item": row.item,
        "system": shared.one(row.system),
        "references": references,
        "facts": row.facts,
    }
    given = {name: value for name, value in fields.items() if value}
    return given | {"prompt": row.prompt, "chat": row.chat is not False}
