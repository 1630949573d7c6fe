"""The questions of a run: the examples of its steps, so that it can be read without the data they came from.

    questions/FINGERPRINT.jsonl     one list of examples, in order, an example a line

A step's fingerprint in the manifest names its list, so steps that ask the same share a file, and a file is written once
and never changed. A picture is kept as the path of its file and the SHA-256 of its bytes, not as the bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatescope.core import foreign
from gatescope.core.errors import GatescopeError
from gatescope.core.garbage import uncollected
from gatescope.data.example import Encoded, Example, Picture
from gatescope.steps.manifest import Manifest
from gatescope.steps.schema import Question

Line = dict[str, Any]  # an example as JSON holds it
_SEVERAL = ("choices", "labels", "references", "accepted")  # its fields that are several texts


@contextlib.contextmanager
def keeping(run: Manifest, step: str, digest: str, examples: Sequence[Example]) -> Iterator[None]:
    """Keep a step's examples once it has begun; if it is refused, say which of them is not the one it was started with.

    Args:
        run, step: which.
        digest: `fingerprint` of the examples.
        examples: what is asked.
    """
    before = run.manifest.get(step, {}).get("fingerprint", digest)
    try:
        yield
    except GatescopeError as error:
        if before != digest and (stored := _lines(run, before)):
            raise GatescopeError(f"{error} {first_difference(stored, list(map(_line, examples)))}") from error
        raise
    with run.locked():  # one process reads the pictures, and the others find the file
        if not (run.path / _file(digest)).is_file() or _file(digest) not in (run.files or {}):
            lines = (foreign.encoded(_line(example), f"example {example.id!r}") for example in examples)
            run.store(_file(digest), b"".join(line + b"\n" for line in lines))


def questions_of(run: Manifest, step: str) -> tuple[Example, ...]:
    """The examples of a step, in order; none if the run does not hold them.

    A picture is read from its file when it is used, and cannot be opened if the file is gone or has changed.

    Raises:
        GatescopeError: if the file of questions cannot be read.
    """
    with uncollected():
        return tuple(map(_example, _lines(run, run.manifest.get(step, {}).get("fingerprint", ""))))


def first_difference(before: Sequence[Line], now: Sequence[Line]) -> str:
    """Which of two lists' examples is the first that differs, in a sentence.

    >>> first_difference([{"id": "1", "question": "Where?"}], [{"id": "1", "question": "When?"}])
    "The first that differs is example '1': its question was 'Where?', and is 'When?'."
    """
    for number, (was, example) in enumerate(zip(map(_comparable, before), map(_comparable, now), strict=False), 1):
        if was["id"] != example["id"]:
            return f"The first that differs is number {number}: it was example {was['id']!r}, and is {example['id']!r}."
        for field in was:
            if was[field] != example.get(field):
                how = f"its {field} was {was[field]!r}, and is {example.get(field)!r}"
                how = "it has another picture" if field == "image" else how
                return f"The first that differs is example {was['id']!r}: {how}."
    return f"It was started with {len(before)} examples, and these are {len(now)}; as far as both go they are the same."


def _file(digest: str) -> str:
    return f"questions/{digest[:16]}.jsonl"


def _lines(run: Manifest, digest: str) -> list[Line]:
    file = run.path / _file(digest)
    if not file.is_file() and _file(digest) not in (run.files or {}):
        return []
    advice = "Delete it; the next command that asks these questions writes it again."
    lines = [dict(line) for line in foreign.read_lines(file, Question, advice, ours=True)]
    run.refuse_altered(_file(digest))
    return lines


def _line(example: Example) -> Line:
    fields = {field.name: getattr(example, field.name) for field in dataclasses.fields(example)}
    image = fields.pop("image")
    fields["facts"] = dict(example.facts)
    # Through JSON and back, so that a line compares equal to the same line read from the file.
    return json.loads(json.dumps(fields)) | ({} if image is None else {"image": _described(image)})


def _described(image: Picture) -> dict[str, str]:
    """What is kept of a picture; one in memory has no path."""
    if isinstance(image, Path):
        return {"path": str(image.resolve()), "sha256": _sha256(foreign.read_bytes(image))}
    if isinstance(image, Encoded):
        return {"name": image.name, "sha256": _sha256(image.read())}
    return {"sha256": _sha256(repr((image.size, image.mode)).encode() + image.tobytes())}


def _example(line: Mapping[str, Any]) -> Example:
    # JSON has no tuples, and an example has no lists.
    fields = {**line, **{name: tuple(line[name]) for name in _SEVERAL if name in line}}
    if "image" in line:
        fields["image"] = _picture(**{name: line["image"].get(name, "") for name in ("sha256", "path", "name")})
    return Example(**fields)


def _picture(sha256: str, path: str = "", name: str = "") -> Encoded:
    """A picture that is read when it is used, and only if it is the one that was asked about."""

    def read() -> bytes:
        if not path:
            raise OSError("it was in memory when it was asked about, and a run keeps no pictures")
        content = foreign.read_bytes(Path(path))
        if _sha256(content) != sha256:
            raise OSError("the file has changed since it was asked about")
        return content

    return Encoded(path or name or "in memory", read)


def _comparable(line: Line) -> Line:
    """Pictures by their bytes alone: where a file lies makes no difference."""
    return line | {"image": line.get("image", {}).get("sha256")}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
