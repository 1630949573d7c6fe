"""What the files of a run must hold, for the layer that reads them (`gatescope.core.foreign`): types by field.

Fields that are not named here may be there, and hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from gatescope.core import foreign

MEND = "Restore the file from a copy, or start the run again in another directory."


class Step(TypedDict, total=False):
    """A step in the manifest: what it is of, and its batches of examples by shard. What it lacks is found where it is used."""

    fingerprint: str
    shards: list[list[list[str]]]
    groups: list[str]
    layout: list[tuple[str, int, int]]
    tokens: list[str]
    items: int
    masks: dict[str, str]


class Summed(TypedDict):
    """What a step in the manifest needs before its shards can be added up."""

    groups: list[str]
    layout: list[tuple[str, int, int]]


class Attributed(Summed):
    """The same, of an attribution."""

    items: int


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]  # and so not NaN


class Answer(TypedDict):
    """A line of answers."""

    id: str
    group: str
    selector: str
    mask: str
    text: str
    predicted: str
    correct: bool
    fallback: bool
    score: NotRequired[Share | None]
    hole: NotRequired[bool]


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


_KINDS = ("record", "attribute", "sweep")


def manifest(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A manifest, its steps checked.

    Raises:
        GatescopeError: naming the file, the step and the field that is of another type.
    """
    where = f"{file} cannot be read"
    if "model" in content:
        foreign.check(content["model"], dict[str, str], f"{where}: 'model'", MEND)
    if "files" in content:
        foreign.check(content["files"], dict[str, str], f"{where}: 'files'", MEND)
    for name, facts in content.items():
        if name.split(" of ")[0] in _KINDS:
            foreign.check(facts, Step, f"{where}: {name!r}", MEND)
    return dict(content)
