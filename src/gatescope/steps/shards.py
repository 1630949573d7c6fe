"""The shards of one step of a run: the unit of work, of saving, of resuming, of distribution and of a remote job.

    SHARDS/NNNNN.safetensors    tensors and answers of one shard, whole or not there, with a checksum of everything in it
    SHARDS/NNNNN.lock           held by the process that works on it; the system lets go of it when that process dies

What is to be done (model, data, options, batches) is written in the manifest before the first shard; whoever comes to
the same run afterwards must mean the same, and runs the same batches. Any number of processes may work on a run at
once: each takes the shards that are its own by index first, then those that nobody has taken, and waits for the rest.
So a process that dies costs its current shard, and another number of processes finishes what is left.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from gatescope.core import artefacts
from gatescope.core.environment import number
from gatescope.core.errors import GatescopeError
from gatescope.core.relatives import check_same_model
from gatescope.steps.batches import Plan
from gatescope.steps.continuing import MAY_DIFFER, refuse_others, warn_of_versions
from gatescope.steps.manifest import Manifest, digest_of
from gatescope.steps.places import directory

FORMAT = "gatescope.shard/1"
# What a step was computed by, and None or "" where nobody knows: on a server, before its first shard is here.
_COMPUTED_BY = ("dtype", "weights")


class Shards:
    """The shards of a step; `Shards.start` begins or continues it, `Shards.of` reads it.

    Attributes:
        run, step: whose they are.
        path: their directory.
        metadata: what the manifest says of the step.
        written: the SHA-256 of those that were stored by this object, by their path in the run.
    """

    def __init__(self, run: Manifest, step: str, manifest: Mapping[str, Any]) -> None:
        self.run, self.step = run, step
        self.path = run.path / directory(step, manifest)
        self.metadata: dict[str, Any] = dict(manifest[step])
        self.model: Mapping[str, str] = manifest.get("model", {})
        self.written: dict[str, str] = {}

    @functools.cached_property
    def key(self) -> str:
        """What a shard says it is part of; versions and kernel may change in the middle of a run, the plan may not."""
        fixed = {name: value for name, value in self.metadata.items() if name not in MAY_DIFFER - {"shards"}}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, run: Manifest, step: str) -> Shards:
        """The shards of a step that was started.

        Raises:
            GatescopeError: if it was not.
        """
        manifest = run.manifest
        if "shards" not in manifest.get(step, {}):
            raise GatescopeError(f"{run.path} holds no {step}.")
        return cls(run, step, manifest)

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
            if step not in run.manifest:
                run.note({step: {**metadata, "shards": planned().named(ids)}})
            shards = cls(run, step, run.manifest)
            # Through JSON, as what was read from the manifest has been.
            now = json.loads(json.dumps(dict(metadata)))
            before = shards.metadata | shards.computed_by(now)
            refuse_others(run.path, step, before, now)
            shards.fix({name: now[name] for name in _COMPUTED_BY if now.get(name)})
        warn_of_versions(run.path, before, now)
        return shards, Plan.of(before["shards"], ids)

    def computed_by(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """What the step is computed by, as far as that is known; what it is computed by `now`, as far as it is not."""
        known = {"dtype": self.dtype, "weights": self.metadata.get("weights")}
        if "dtype" not in self.metadata:
            # The first release did not say it of a step, but of the shards of some, and of the run.
            known = {"dtype": self.dtype or self.model.get("dtype"), "weights": self.model.get("digest")}
        return {name: (known[name] and now[name] and known[name]) or now[name] for name in _COMPUTED_BY if name in now}

    def fix(self, now: Mapping[str, str]) -> None:
        """Write down what the step is computed by, where that was not known until now.

        Raises:
            GatescopeError: if it was, and was something else.
        """
        with self.run.locked():
            held = self.run.manifest[self.step]
            new = {name: value for name, value in now.items() if held.get(name, value) in (None, "")}
            # Once there are shards, what they are part of has been settled.
            if new and len(self.missing) == len(self):
                self.run.note({self.step: held | new})
                held = held | new
        self.metadata = held
        vars(self).pop("key", None)
        refuse_others(self.run.path, self.step, held | self.computed_by(now), now)

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
            GatescopeError: if it was computed in another dtype than those before it, or cannot be written: a full disk, a
                read-only directory.
        """
        dtype = metadata.get("model", {}).get("dtype")
        # Of a step on a server the first shard says it.
        if dtype and self.metadata.get("dtype", dtype) != dtype:
            self.fix({"dtype": dtype})
        content = artefacts.packed(FORMAT, tensors, dict(metadata) | {"of": self.key, "index": index})
        artefacts.write_bytes(self.file(index), content)
        self.written[self.name(index)] = hashlib.sha256(content).hexdigest()

    def bind(self) -> None:
        """Make the manifest answer for the shards stored here; once all are done, for those of other processes too."""
        digests = self.written
        if not self.missing:
            known = (self.run.files or {}) | digests
            digests = {
                name: known.get(name) or digest_of(self.file(i)) for i, name in enumerate(map(self.name, range(len(self))))
            }
        # All at once: with every shard a manifest of many examples would be written anew.
        self.run.bind(digests)

    def name(self, index: int) -> str:
        """A shard's path in the run."""
        return self.file(index).relative_to(self.run.path).as_posix()

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
        # In a run of the first release the key says nothing of the model.
        if metadata.get("model", {}).get("digest"):
            check_same_model(self.model, metadata["model"], f"use {self.file(index)}")
        return tensors, metadata

    @property
    def dtype(self) -> str | None:
        """What the step is computed in; None where that is not known before the first shard is done."""
        if self.metadata.get("dtype"):
            return self.metadata["dtype"]
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
        rank, world = part or (number("RANK", 0), max(1, number("WORLD_SIZE", 1)))
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
