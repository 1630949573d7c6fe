"""One row, several prompts: an example for each wording asked for; and the order its options were published in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from gatescope.core.errors import GatescopeError
from gatescope.data.prompts import WORDINGS, Wording


def chosen_wordings(name: str, which: Sequence[int | Wording] | None) -> list[tuple[int, Wording]]:
    """The wordings of a benchmark that were asked for, each with its number; all of the published ones if None.

    Args:
        name: of the benchmark.
        which: numbers of published wordings, or your own, which are numbered after those.

    Raises:
        GatescopeError: for a number it does not have, or none, or a wording that does not fit the benchmark's rows.
    """
    published = WORDINGS[name]
    if which is None:
        return list(enumerate(published))
    own = [wording for wording in which if isinstance(wording, Wording)]
    numbers = [number for number in which if not isinstance(number, Wording)]
    unknown = set(numbers) - set(range(len(published)))
    if unknown or not which:
        raise GatescopeError(f"{name} has the wordings 0 to {len(published) - 1}; {numbers} were asked for.")
    for wording in own:
        _check(name, wording)
    chosen = [(number, published[number]) for number in numbers]
    # Numbered after the published ones, so that ids made from both never meet.
    return chosen + list(enumerate(own, len(published)))


def _check(name: str, own: Wording) -> None:
    """Refuse a user's wording that asks for a field the benchmark's rows lack, or does not label all of their options."""
    published = WORDINGS[name]
    known = {"options"}.union(*(wording.asks_for() for wording in published))
    unknown = own.asks_for() - known
    if unknown:
        raise GatescopeError(
            f"A wording of {name} asks for {_braced(unknown)}; its rows have {_braced(known)}. "
            f"A literal brace is written twice."
        )
    needed = published[0].labels
    if len(own.labels) != len(needed):
        raise GatescopeError(
            f"A wording of {name} has the labels {list(own.labels)}; {len(needed)} are needed, such as {list(needed)}."
        )


def _braced(fields: set[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in sorted(fields))


def numbered(chosen: Sequence[tuple[int, Wording]]) -> str:
    """Which wordings were asked for, for a study's notes."""
    published = {wording for wordings in WORDINGS.values() for wording in wordings}
    return ", ".join(f"{number}" if wording in published else f"{number} (one's own)" for number, wording in chosen)


def variant(item: str, number: int) -> str:
    """The id of an item under one wording.

    >>> variant("17", 2)
    '17/2'
    """
    return f"{item}/{number}"


def drawn(*key: object) -> random.Random:
    """What CULNIG's published code draws from for one row under one wording: seeded by an MD5 of the key.

    The key is the row's and the whole text of the wording, so that options have the published order under the published
    wordings, and another one under others.

    >>> drawn(11, "Pick one.").sample("abcd", 4)
    ['b', 'c', 'd', 'a']
    """
    digest = hashlib.md5("_".join(map(str, key)).encode(), usedforsecurity=False)
    # The first 32 bits, as CULNIG's code takes them.
    return random.Random(int(digest.hexdigest()[:8], 16))
