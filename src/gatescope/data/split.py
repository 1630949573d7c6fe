"""Cutting examples into two halves, identification and evaluation; seeded orders; the groups to load."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from gatescope.core.errors import GatescopeError

T = TypeVar("T")


def halves(items: Sequence[T], stratum: Callable[[T], str], block: Callable[[T], str], seed: int) -> tuple[list[T], list[T]]:
    """Cut every stratum in half, floor(n / 2) to the first and the rest to the second, in a seeded random order.

    Items of one block stay together; where blocks are larger than one item the first half is filled block by block until
    it has at least floor(n / 2). Within a half the items keep their order.

    >>> first, second = halves(["a1", "a2", "a3", "b1"], lambda s: s[0], lambda s: s, seed=0)
    >>> len(first), len(second), "b1" in second
    (1, 3, True)
    """
    names, parts = list(map(stratum, items)), list(map(block, items))
    members: dict[str, list[str]] = {name: [] for name in names}
    for name, part in zip(names, parts, strict=True):
        members[name].append(part)
    chosen = {name: _first_half(Counter(blocks), random.Random(f"{seed}-{name}")) for name, blocks in members.items()}
    first: list[T] = []
    second: list[T] = []
    for item, name, part in zip(items, names, parts, strict=True):
        (first if part in chosen[name] else second).append(item)
    return first, second


def _first_half(blocks: Mapping[str, int], order: random.Random) -> set[str]:
    """Blocks in random order until they hold at least half of all members, rounded down."""
    half = sum(blocks.values()) // 2
    # Sorted before it is shuffled, and seeded by name: neither the file's order nor other strata change the cut.
    names = sorted(blocks)
    order.shuffle(names)
    chosen: set[str] = set()
    members = 0
    for name in names:
        if members >= half:
            break
        chosen.add(name)
        members += blocks[name]
    return chosen


def shuffled(items: Sequence[T], *key: object) -> list[T]:
    """The items in an order that depends on the key alone, on every machine and in every version.

    >>> shuffled("abcd", "question 1", 0), shuffled("abcd", "question 1", 1)
    (['d', 'c', 'b', 'a'], ['b', 'a', 'c', 'd'])
    """

    # A hash, not `random`: its shuffle is not promised to stay the same from one version of Python to the next.
    def rank(index: int) -> bytes:
        return hashlib.sha256("\x1f".join(map(str, (*key, index))).encode()).digest()

    return [items[index] for index in sorted(range(len(items)), key=rank)]


def chosen_groups(name: str, groups: Iterable[str] | None, known: Iterable[str]) -> frozenset[str]:
    """The groups to load: those given, or all.

    Raises:
        GatescopeError: for a group the dataset does not have, naming those it has.
    """
    available = list(known)
    chosen = available if groups is None else list(groups)
    unknown = [group for group in chosen if group not in available]
    if unknown:
        raise GatescopeError(f"{name} has no {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, available))}.")
    return frozenset(chosen)
