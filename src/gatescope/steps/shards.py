"""The shards of one step of a run: the unit of work, of saving, of resuming, of distribution and of a remote job.

    SHARDS/NNNNN.safetensors    tensors and answers of one shard, whole or not there, with a checksum of everything in it
    SHARDS/NNNNN.lock           held by the process that works on it; the system lets go of it when that process dies

What is to be done (model, data, options, batches) is written in the manifest before the first shard; whoever comes to
the same run afterwards must mean the same, and runs the same batches. Any number of processes may work on a run at
once: each takes the shards that are its own by index first, then those that nobody has taken, and waits for the rest.
So a process that dies costs its current shard, and another number of processes finishes what is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError
from gatescope.steps.batches import Plan
from gatescope.steps.manifest import Manifest

FORMAT = "gatescope.shard/1"
_MAY_DIFFER = {"versions", "shards", "kernel"}  # not refused: they change no more than the last bit
_DIFFERENCES = {
    "fingerprint": "examples: their texts, prompts, options, groups or pictures differ",
    "masks": "interventions: their neurons, rate or kind differ",
}


class Shards:
    """The shards of a step; `Shards.start` begins or continues it, `Shards.of` reads it.

    Attributes:
        path: their directory.
        metadata: what the manifest says of the step.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        # What a shard says it is part of; versions and kernel may change in the middle of a run, the plan may not.
        fixed = {name: value for name, value in self.metadata.items() if name not in _MAY_DIFFER - {"shards"}}
        self.key = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, run: Manifest, step: str) -> Shards:
        """The shards of a step that was started.

        Raises:
            GatescopeError: if it was not.
        """
        metadata = run.manifest.get(step)
        if not metadata or "shards" not in metadata:
            raise GatescopeError(f"{run.path} holds no {step}.")
        return cls(run.path / directory(step), metadata)

    @classmethod
    def start(
        cls, run: Manifest, step: str, metadata: Mapping[str, Any], ids: Sequence[str], planned: Callable[[], Plan]
    ) -> tuple[Shards, Plan]:
        """Begin a step, or continue it where it was left.

        Args:
            run: the run.
            step: "record", "attribute", or "sweep".
            metadata: everything that decides the result, the batches excepted.
            ids: of the examples.
            planned: makes the batches, if they are not in the manifest yet.

        Returns:
            The shards, and the plan.

        Raises:
            GatescopeError: if ids are not unique, or the step was started with other facts; the message names both.
        """
        # The plan is stored by id: two examples with the same id could not be told apart when it is read again.
        _refuse_twice(ids)
        with run.locked():
            before = run.manifest.get(step)
            if before is None:
                before = {**metadata, "shards": planned().named(ids)}
                run.note({step: before})
        # Through JSON, as what was read from the manifest has been.
        _same(run.path, step, before, json.loads(json.dumps(dict(metadata))))
        return cls(run.path / directory(step), before), Plan.of(before["shards"], ids)

    def __len__(self) -> int:
        return len(self.metadata["shards"])

    def file(self, index: int) -> Path:
        """Where a shard is, or will be."""
        return self.path / f"{index:05d}.safetensors"

    @property
    def missing(self) -> list[int]:
        """Shards that are not done."""
        return [index for index in range(len(self)) if not self.file(index).is_file()]

    def save(self, index: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Store a shard.

        Raises:
            GatescopeError: if it cannot be written: a full disk, a read-only directory.
        """
        artefacts.write(self.file(index), FORMAT, tensors, dict(metadata) | {"of": self.key, "index": index})

    def load(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A shard's tensors and facts.

        Raises:
            GatescopeError: if it is truncated, altered, or a shard of something else; it is never merged then.
        """
        tensors, metadata = artefacts.read(self.file(index), FORMAT)
        if (metadata["of"], metadata["index"]) != (self.key, index):
            raise GatescopeError(
                f"{self.file(index)} is shard {metadata['index']} of {metadata['of']}; "
                f"shard {index} of {self.key} belongs here. "
                f"It came from another run: delete it, and run the same command again."
            )
        return tensors, metadata

    @property
    def dtype(self) -> str | None:
        """What the shards that are done were computed in; None before the first."""
        # Any shard will do: one in another dtype would have been refused.
        done = next((index for index in range(len(self)) if self.file(index).is_file()), None)
        return None if done is None else self.load(done)[1].get("model", {}).get("dtype")

    def all(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Every shard in order; errors as for `load`.

        Raises:
            GatescopeError: if some are not done.
        """
        if missing := self.missing:
            done = len(self) - len(missing)
            raise GatescopeError(f"{self.path} has {done} of {len(self)} shards; run the same command again to finish it.")
        # Lazily: shards of a large model are gigabytes together.
        yield from (self.load(index) for index in range(len(self)))

    def open(self, part: tuple[int, int] | None = None) -> Iterator[int]:
        """The shards to do, one at a time, each locked while it is being worked on.

        Args:
            part: (k, n) for the k-th of n parts and nothing else; None for all, one's own by index first.
        """
        todo = self.todo(part)
        for index in todo:
            yield from self.claimed(index, wait=False)
        for index in todo:  # those another process had taken: done by now, or left behind by it
            yield from self.claimed(index, wait=True)

    def todo(self, part: tuple[int, int] | None = None) -> list[int]:
        """The shards to do, in the order in which this process takes them; arguments as for `open`."""
        rank, world = part or (int(os.environ.get("RANK", 0)), max(1, int(os.environ.get("WORLD_SIZE", 1))))
        order = sorted(self.missing, key=lambda index: (index % world != rank % world, index))
        return [index for index in order if part is None or index % world == rank % world]

    def claimed(self, index: int, wait: bool) -> Generator[int, None, None]:
        """The shard, locked until the next is asked for; nothing if it is done, or another process has it.

        Args:
            index: of the shard.
            wait: for another process to finish it or die, in place of passing it over.
        """
        if self.file(index).is_file():
            return
        lock = _lock(self.path / f"{index:05d}.lock")
        try:
            # The first time round another process's shard is passed over, the second time waited for.
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return
        try:
            if not self.file(index).is_file():
                yield index
        finally:
            lock.release()


def directory(step: str) -> str:
    """The directory of a step's shards.

    >>> directory("record"), directory("sweep of qnli")
    ('shards', 'shards.sweep-of-qnli')
    """
    return "shards" if step == "record" else f"shards.{step.replace(' ', '-')}"


def first() -> bool:
    """Whether this process is the one that shows progress."""
    return os.environ.get("RANK", "0") == "0"


def _refuse_twice(ids: Sequence[str]) -> None:
    known: set[str] = set()
    for name in ids:
        if name in known:
            raise GatescopeError(f"Two examples have the id {name!r}; a run needs ids that are unique.")
        known.add(name)


def _lock(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
    except OSError as error:
        raise GatescopeError(f"{path.parent} cannot be written to: {error.strerror}.") from error


def _same(path: Path, step: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [name for name in now if name not in _MAY_DIFFER and before.get(name) != now[name]]
    if changed:
        raise GatescopeError(_changed(path, step, changed[0], _short(before.get(changed[0])), _short(now[changed[0]])))
    if before.get("versions") != now.get("versions"):
        warnings.warn(
            f"{path} was started with {before.get('versions')} and is continued with {now.get('versions')}: sums may differ in "
            f"their last bit from those of one version.",
            stacklevel=4,
        )


def _changed(path: Path, step: str, name: str, was: str, now: str) -> str:
    if name in _DIFFERENCES:
        return (
            f"{path} was started ({step}) with other {_DIFFERENCES[name]}. Continue it with the same, or choose "
            f"another directory. ({name}: {was}, and this is {now}.)"
        )
    return (
        f"{path} was started ({step}) with {name} {was}, and this is {name} {now}. Continue it with the same, or "
        f"choose another directory."
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]} ... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"
