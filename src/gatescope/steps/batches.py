"""Which examples run together, as a value: shards of batches of positions in the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatescope.data.example import Example

Batches = Mapping[int, Sequence[Sequence[Example]]]  # a shard's number -> its batches of examples


@dataclass(frozen=True)
class Plan:
    """Shards of batches of positions in the examples.

    A manifest holds the same with the examples' ids in place of their positions, so that a run can be continued by whoever
    has the same examples.

    Attributes:
        shards: each a list of batches, each a list of positions.

    >>> plan = Plan([[[0, 2], [1]], [[3]]])
    >>> plan.order, plan.positions(0)
    ([0, 2, 1, 3], [0, 2, 1])
    >>> plan.named("abcd")
    [[['a', 'c'], ['b']], [['d']]]
    >>> Plan.of(plan.named("abcd"), "abcd") == plan
    True
    """

    shards: list[list[list[int]]]

    @classmethod
    def of(cls, named: Sequence[Sequence[Sequence[str]]], ids: Sequence[str]) -> Plan:
        """The plan that a manifest holds, for examples of these ids."""
        position = {name: i for i, name in enumerate(ids)}
        # The manifest decides: a run is continued in the batches it was begun with, whatever the batch size is now.
        return cls([[[position[name] for name in batch] for batch in shard] for shard in named])

    def named(self, ids: Sequence[str]) -> list[list[list[str]]]:
        """The plan as a manifest holds it."""
        return [[[ids[position] for position in batch] for batch in shard] for shard in self.shards]

    @property
    def order(self) -> list[int]:
        """Every example's position, in the order in which they are run."""
        return [position for number in range(len(self.shards)) for position in self.positions(number)]

    def positions(self, number: int) -> list[int]:
        """The positions of one shard's examples, in the order in which they are run."""
        return [position for batch in self.shards[number] for position in batch]

    def batches(self, number: int, examples: Sequence[Example]) -> list[list[Example]]:
        """One shard's batches, with the examples themselves."""
        return [[examples[position] for position in batch] for batch in self.shards[number]]
