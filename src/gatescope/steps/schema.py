"""What the files of a run must hold, for the layer that reads them (`gatescope.core.foreign`): types by field.

Fields that are not named here may be there, and hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from gatescope.core import foreign

MEND = "Restore the file from a copy, or start the run again in another directory."


class Begun(msgspec.Struct):
    """A step in the manifest: what it is of, and its batches of examples by shard."""

    fingerprint: str
    shards: list[list[list[str]]]


class Summed(Begun):
    """A step that adds up."""

    groups: list[str]
    layout: list[tuple[str, int, int]]


class Recorded(Summed):
    """A recording in the manifest."""

    tokens: list[str]


class Attributed(Summed):
    """Attributions in the manifest."""

    items: int


class Swept(Begun):
    """A sweep in the manifest: digests of its masks by name."""

    masks: dict[str, str]


class Answer(TypedDict):
    """A line of answers; those of the full model to the identification examples have no selector and no mask."""

    id: str
    group: str
    selector: NotRequired[str]
    mask: NotRequired[str]
    text: str
    predicted: str
    correct: bool
    fallback: bool
    score: NotRequired[float | None]


class Question(TypedDict):
    """A line of questions, an example's fields; what there is of a picture in the last."""

    id: str
    group: str
    question: str
    choices: list[str]
    answer: str
    labels: NotRequired[list[str]]
    prompt: NotRequired[str | None]
    prefix: NotRequired[str]
    item: NotRequired[str]
    system: NotRequired[str]
    references: NotRequired[list[str]]
    accepted: NotRequired[list[str]]
    chat: NotRequired[bool]
    facts: NotRequired[dict[str, Any]]
    image: NotRequired[dict[str, str]]


_STEPS = {"record": Recorded, "attribute": Attributed, "sweep": Swept}


def manifest(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A manifest, its steps checked.

    Raises:
        GatescopeError: naming the file, the step and the field that is missing or of another type.
    """
    where = f"{file} cannot be read"
    if "model" in content:
        foreign.check(content["model"], dict[str, str], f"{where}: 'model'", MEND)
    for name, facts in content.items():
        kind = _STEPS.get(name.split(" of ")[0])
        if kind is not None:
            foreign.check(facts, kind, f"{where}: {name!r}", MEND)
    return dict(content)
