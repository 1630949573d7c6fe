"""Where a step keeps its files in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatescope.core.filenames import distinct, encoded


def directory(step: str, manifest: Mapping[str, Any]) -> str:
    """The directory of a step's shards.

    >>> directory("record", {}), directory("sweep of qnli", {}), directory("sweep of a/b", {})
    ('shards', 'shards.sweep-of-qnli', 'shards.sweep-of-a%2Fb')
    """
    return "shards" if step == "record" else f"shards.{stem(step, manifest)}"


def stem(step: str, manifest: Mapping[str, Any]) -> str:
    """A step in the name of a file; of two steps whose names differ in capitals alone, the later one's is marked."""
    kind, _, name = step.partition(" of ")
    if not name:
        return kind
    if "dtype" not in manifest.get(step, {"dtype"}) and encoded(name) == name:
        name = name.replace(" ", "-")  # as the first release did, to which "a b" and "a-b" were one
    steps = [*manifest, step]
    earlier = steps[: steps.index(step)]
    taken = [encoded(other.removeprefix(f"{kind} of ")) for other in earlier if other.startswith(f"{kind} of ")]
    return f"{kind}-of-{distinct(name, taken)}"
