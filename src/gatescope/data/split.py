"""Cutting examples in two halves: identification and evaluation."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
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
    members: dict[str, dict[str, list[int]]] = {}
    for index, item in enumerate(items):
        members.setdefault(stratum(item), {}).setdefault(block(item), []).append(index)
    chosen: set[int] = set()
    for name, blocks in members.items():
        order = sorted(blocks)
        random.Random(f"{seed}-{name}").shuffle(order)
        want, have = sum(map(len, blocks.values())) // 2, 0
        for key in order:
            if have >= want:
                break
            chosen.update(blocks[key])
            have += len(blocks[key])
    return [x for i, x in enumerate(items) if i in chosen], [x for i, x in enumerate(items) if i not in chosen]


def shuffled(items: Sequence[T], *key: object) -> list[T]:
    """The items in an order that depends on the key alone, on every machine and in every version.

    >>> shuffled("abcd", "question 1", 0), shuffled("abcd", "question 1", 1)
    (['d', 'c', 'b', 'a'], ['b', 'a', 'c', 'd'])
    """

    def rank(index: int) -> bytes:
        return hashlib.sha256("\x1f".join(map(str, (*key, index))).encode()).digest()

    return [items[index] for index in sorted(range(len(items)), key=rank)]


def chosen_groups(name: str, groups: Iterable[str] | None, known: Iterable[str]) -> frozenset[str]:
    """The groups to load: those asked for, or all.

    Raises:
        GatescopeError: for a group the dataset does not have, naming those it has.
    """
    every = list(known)
    asked = every if groups is None else list(groups)
    unknown = [group for group in asked if group not in every]
    if unknown:
        raise GatescopeError(f"{name} has no {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, every))}.")
    return frozenset(asked)
