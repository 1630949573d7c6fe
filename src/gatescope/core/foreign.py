"""Bytes that somebody else wrote or that something damaged: read as what they should be, or refused in one sentence.

JSON is decoded by msgspec against a type, so that a field of another type is found where the file is read, not where its
value is used. A sentence names the file, the line where there are lines, and the field. JSON Lines are cut at line feeds
only: U+2028, U+2029 and U+0085 may stand in a JSON string as they are.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from gatescope.core.errors import GatescopeError

T = TypeVar("T")

Problem = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises; `problem` says it in words."""

UTF8_MARK = b"\xef\xbb\xbf"
"""What some editors put at the beginning of a UTF-8 file (BOM)."""

DEEPEST = 64
"""So many lists and objects may be nested; Python's own writer of JSON gives up at a thousand."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_FAULT: Any = re.compile(r"(.*?)(?: - at (`key` in )?`\$(.*)`)?", re.DOTALL)  # a message of msgspec
_AT_ONCE = 2**20  # bytes of lines that are decoded together
_TWO = re.compile(rb"\}[ \t\r]*\{")  # two objects on a line
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def regular(path: Path) -> Path:
    """The path of an ordinary file.

    Raises:
        OSError: if there is none, or it is a directory, a pipe or a device: opening those may wait for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the name
        raise OSError(f"its name cannot be a file's ({error})") from error
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise OSError(f"it is {name}, not a file")
    return path


def open_file(path: Path) -> BinaryIO:
    """An ordinary file, opened to be read; errors as for `regular`."""
    return open(regular(path), "rb")


def read_bytes(path: Path) -> bytes:
    """What is in an ordinary file; errors as for `regular`."""
    with open_file(path) as file:
        return file.read()


def read_json(path: Path, kind: type[T], where: str = "", advice: str = "", *, ours: bool = False) -> T:
    """The JSON in a file.

    Args:
        path: the file.
        kind: what it must hold: a type as msgspec takes it.
        where: what the message begins with; "PATH cannot be read" if empty.
        advice: what to do, for the message.
        ours: whether Python wrote it, which writes NaN as it stands.

    Raises:
        GatescopeError: if it cannot be read, is no JSON, or holds something else.
    """
    where = where or f"{path} cannot be read"
    return parse(content_of(path, where, advice), kind, where, advice, ours=ours)


def read_lines(path: Path, kind: type[T], advice: str = "", *, ours: bool = False) -> list[T]:
    """The JSON on each line of a file, blank lines left out; arguments and errors as for `read_json`."""
    return list(lines(path, kind, advice, ours=ours))


def lines(path: Path, kind: type[T], advice: str = "", *, ours: bool = False) -> Iterator[T]:
    """As `read_lines`, of which a part is held at a time."""
    where = f"{path} cannot be read"
    number = 1
    try:
        # In bytes, which are cut at line feeds only; some at a time, for a file may be larger than memory.
        with open_file(path) as file:
            while piece := file.readlines(_AT_ONCE):
                values = _together(piece, kind) or _one_by_one(piece, number, kind, where, advice, ours)
                yield from values
                number += len(piece)
    except OSError as error:
        raise GatescopeError(_sentence(where, str(error.strerror or error), advice)) from error


def _together(piece: list[bytes], kind: type[T]) -> list[T]:
    """The objects on some lines, in half of the time that they take one by one; nothing if there is not one on each line."""
    content = b"".join(piece)
    # The decoder would take two objects on a line, and one object on two; texts that look like that are read one by one.
    if _TWO.search(content):
        return []
    try:
        values: list[T] = _decoder(kind).decode_lines(content)
    except Problem:
        return []
    return values if len(values) == len(piece) else []


def _one_by_one(piece: list[bytes], first: int, kind: type[T], where: str, advice: str, ours: bool) -> Iterator[T]:
    for number, line in enumerate(piece, first):
        line = line.removeprefix(UTF8_MARK) if number == 1 else line
        if not line.isspace():
            yield parse(line.rstrip(b"\n"), kind, f"{where}: line {number}", advice, ours=ours)


def parse(content: bytes, kind: type[T], where: str, advice: str = "", *, ours: bool = False) -> T:
    """JSON that has been read.

    Args:
        content: the bytes.
        kind: what they must hold: a type as msgspec takes it.
        where: what the message begins with.
        advice: what it ends with.
        ours: whether Python wrote them, which writes NaN as it stands.

    Raises:
        GatescopeError: if they are no JSON, or hold something else.

    >>> parse(b'{"layer": 3}', dict[str, int], "x.json")
    {'layer': 3}
    """
    try:
        return _decoder(kind).decode(content.removeprefix(UTF8_MARK))
    except Problem as error:
        if ours and (value := _pythons(content)) is not None:
            return check(value, kind, where, advice)
        raise GatescopeError(_sentence(where, problem(content, error), advice)) from error


def _pythons(content: bytes) -> Any:
    """What Python's decoder makes of bytes that have NaN in them; None if that is nothing either."""
    if b"NaN" not in content and b"Infinity" not in content:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def check(value: object, kind: type[T], where: str, advice: str = "") -> T:
    """A value that came out of JSON, as the type it must have; arguments and errors as for `parse`."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError, UnicodeEncodeError) as error:
        raise GatescopeError(_sentence(where, in_words(error), advice)) from error


@functools.cache
def _decoder(kind: Any) -> Any:
    """What decodes JSON of a type; made once, for making it takes longer than decoding a line."""
    return msgspec.json.Decoder(kind)


def too_deep(value: object, most: int = DEEPEST) -> bool:
    """Whether lists and objects are nested deeper than a number of levels.

    >>> too_deep({"a": [1]}, 2), too_deep({"a": [[1]]}, 2)
    (False, True)
    """
    nested: list[Any] = [value] if isinstance(value, dict | list) else []
    # Level by level, of lists and objects alone: there may be a hundred thousand numbers in them.
    for _ in range(most):
        held = (item.values() if isinstance(item, dict) else item for item in nested)
        nested = [item for items in held for item in items if isinstance(item, dict | list)]
    return bool(nested)


def problem(content: bytes, error: Exception) -> str:
    """Why bytes are no JSON, or not the JSON that was expected."""
    if content.startswith(_UTF16_MARKS) or b"\0" in content:
        return "it is not UTF-8 (it has bytes of UTF-16, or of no text at all); save it as UTF-8"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as undecodable:
        return f"byte {undecodable.start + 1} of it, 0x{content[undecodable.start]:02x}, is not UTF-8"
    if isinstance(error, (msgspec.ValidationError, RecursionError)):
        return in_words(error)
    try:
        # Only after msgspec has refused it: Python's decoder says better where, and takes what is no JSON (NaN).
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as better:
        return f"not JSON ({better})"
    except (RecursionError, ValueError) as better:
        return in_words(better) if isinstance(better, RecursionError) else str(better)
    if surrogate := _lone_surrogate(value):
        return f"it has \\u{ord(surrogate):04x}, half of a pair of surrogates, which is no character"
    return f"not JSON ({error})"


def in_words(error: Exception) -> str:
    """What msgspec found, in words.

    >>> try:
    ...     msgspec.convert({"width": 2.5}, dict[str, int])
    ... except msgspec.ValidationError as error:
    ...     in_words(error)
    'a whole number is needed, and there is a number with a decimal point'
    """
    if isinstance(error, RecursionError):
        return f"lists or objects are nested in it deeper than {DEEPEST} levels"
    if isinstance(error, UnicodeEncodeError):
        return f"it has \\u{ord(error.object[error.start]):04x}, half of a pair of surrogates, which is no character"
    what, key, place = _FAULT.fullmatch(str(error)).groups()
    # "[...]" stands for a place that has no name of its own.
    field = (place or "").lstrip(".").replace("[...]", "")
    at = f"the field {field!r}: " if field else ""
    at += "a key: " if key else ""
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{at}the field {missing[1]!r} is missing"
    if expected := re.fullmatch(r"Expected `([^`]*)`(.*?)(?:, got `?([^`]*)`?)?", what):
        kinds, more, there = expected.groups()
        needed = " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | "))
        there = {**_WORDS, "float": "a number with a decimal point", None: "another"}.get(there, there)
        return f"{at}{needed}{more} is needed, and there is {there}"
    return at + (what[:1].lower() + what[1:]).replace("`", "'")


def encoded(value: object, where: str, *, indent: int | None = None) -> bytes:
    """A value as JSON in UTF-8.

    Args:
        value: what is written.
        where: what it is of, for the message: a file, an example.
        indent: as in `json.dumps`.

    Raises:
        GatescopeError: for a text that is none: half a pair of surrogates, as in a file's name that is not UTF-8.
    """
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 40) : error.end].rpartition('"')[2]
        raise GatescopeError(
            f"{where}: {near!r} has half of a pair of surrogates in it, which UTF-8 cannot hold. Correct the text; if it is a "
            f"file's name, rename the file."
        ) from error


def content_of(path: Path, where: str, advice: str) -> bytes:
    """What is in an ordinary file; arguments and errors as for `read_json`."""
    try:
        return read_bytes(path)
    except OSError as error:
        raise GatescopeError(_sentence(where, str(error.strerror or error), advice)) from error


def _sentence(where: str, what: str, advice: str) -> str:
    return f"{where}: {what}." + (f" {advice}" if advice else "")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it has {name}, which is no number in JSON; write null, or leave the field out")


def _lone_surrogate(value: object) -> str:
    """The first half of a pair of surrogates in a value's texts; empty if there is none."""
    found = re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False))
    return found[0] if found else ""
