"""The shards that a process has to do which works on several at once, such as one that hands them to a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

from gatescope.steps.shards import Shards


class Claims:
    """Shards to do.

    Those of a run are locked from when they are taken until they are released. One that another process has is passed over,
    and asked about again.
    """

    def __init__(self, numbers: Iterable[int], stored: Shards | None) -> None:
        self._open = deque(numbers)
        self._stored = stored
        self._held: dict[int, Generator[int, None, None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def take(self) -> int | None:
        """A shard that nobody else works on; None if there is none at the moment."""
        for _ in range(len(self._open)):
            index = self._open.popleft()
            if self._stored is None:
                return index
            claim = self._stored.claimed(index, wait=False)
            if next(claim, None) is not None:
                self._held[index] = claim
                return index
            if not self._stored.file(index).is_file():  # whoever has it may die
                self._open.append(index)
        return None

    def release(self, index: int) -> None:
        """Let go of a shard: it is stored, or given up."""
        if index in self._held:
            self._held.pop(index).close()

    def give_back(self, index: int) -> None:
        """Let a shard be taken again, by whoever is first."""
        self.release(index)
        self._open.appendleft(index)
