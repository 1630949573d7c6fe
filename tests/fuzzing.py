"""Hostile input: valid files as damage leaves them, and JSON with values that nobody expects.

`CASES` examples a target by default; `GATESCOPE_FUZZ=5000 pytest tests/test_fuzz.py` looks longer. What it finds is kept in
tests/corpus/, where every later run tries it again.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import gatescope as gs

CORPUS = Path(__file__).parent / "corpus"
CASES = int(os.environ.get("GATESCOPE_FUZZ", "12"))
# Derandomized for the suite, which must not fail by luck; by hand, every run tries something else.
fuzzed = settings(
    max_examples=CASES,
    derandomize="GATESCOPE_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# As JSON has them, not as Python does: some of these no encoder would write.
VALUES = [
    *("null", "true", "0", "-1", "1.5", "1e999", "NaN", "-Infinity", '""', '"x"', '"*"', '"../../x"', '"\\u0000"', '"\\ud800"'),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"a": 1}',
        '"a\u2028b\u0085c"',
        "9" * 5000,
        "18446744073709551616",
        "[" * 3000 + "]" * 3000,
    ),
    *('"' + "n" * 300 + '"', '"<script>alert(1)</script>"', '["a", 1, null]', "-0.0", '"float12"', '"<image>"'),
]
PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"\n",
    b"\r\n",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
]
_MARK = "\ue000"


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's bytes after one to three changes: of a byte, its end, a piece of it, its encoding."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = draw(st.integers(start, min(len(content), start + 200)))
        how = draw(st.sampled_from(["change", "cut", "insert", "lose", "repeat", "encode"]))
        if how == "change":
            content = content[:start] + bytes([draw(st.integers(0, 255))]) + content[start + 1 :]
        elif how == "cut":
            content = content[:start]
        elif how == "insert":
            content = content[:start] + draw(st.sampled_from(PIECES)) + content[start:]
        elif how == "lose":
            content = content[:start] + content[stop:]
        elif how == "repeat":
            content = content[:stop] + content[start:]
        else:
            content = content.decode("latin-1").encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-32"])))
    return content


@st.composite
def altered(draw: st.DrawFn, value: Any) -> str:
    """JSON of which one place holds another value, is gone, or has one more."""
    places = list(_places(value))
    place = draw(st.sampled_from(places))
    value = json.loads(json.dumps(value))  # a copy
    text = draw(st.sampled_from(VALUES))
    if not place:
        return text
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    how = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
    if how == "drop":
        del parent[place[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent[draw(st.sampled_from(["", "x", "shards", "format", "\u2028"]))] = _MARK
    elif how == "add":
        parent.insert(place[-1], _MARK)
    else:
        parent[place[-1]] = _MARK
    return json.dumps(value, ensure_ascii=False).replace(json.dumps(_MARK, ensure_ascii=False), text)


def _places(value: Any, place: tuple = ()):
    """Every place in a JSON value, as the keys that lead to it; of long lists the first few."""
    yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:4]):
            yield from _places(item, (*place, index))


def ends_in_a_sentence(call: Callable[[], Any]) -> None:
    """Runs a call, which has to end in a result or in an error that is a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except gs.GatescopeError as error:
            text = str(error)
            # Long enough to say what was given and what to do, and nobody's traceback.
            assert len(text) > 20 and "Traceback" not in text and "\x00" not in text, text


def kept(target: str) -> list[Path]:
    """What was found before for a target."""
    return sorted((CORPUS / target).iterdir())
