"""Every dataset by name; and a name or a file as the command line gives it, loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.benchmarks.blend import CARD as BLEND
from gatescope.data.benchmarks.blend import CONTROL_CARD as BLEND_CONTROL
from gatescope.data.benchmarks.blend_short import CARD as BLEND_SHORT
from gatescope.data.benchmarks.commonsenseqa import CARD as COMMONSENSEQA
from gatescope.data.benchmarks.countryrc import CARD as COUNTRYRC
from gatescope.data.benchmarks.culturalbench import CARD as CULTURALBENCH
from gatescope.data.benchmarks.cvqa import CARD as CVQA
from gatescope.data.benchmarks.glue import MRPC_CARD as MRPC
from gatescope.data.benchmarks.glue import QNLI_CARD as QNLI
from gatescope.data.benchmarks.murel import CARD as MUREL
from gatescope.data.benchmarks.normad import CARD as NORMAD
from gatescope.data.benchmarks.wikipedia import CARD as WIKIPEDIA
from gatescope.data.benchmarks.worldvaluesbench import CARD as WORLDVALUESBENCH
from gatescope.data.card import Card
from gatescope.data.control import control
from gatescope.data.example import Study
from gatescope.data.jsonl import jsonl

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        *(CVQA, BLEND, BLEND_CONTROL, BLEND_SHORT, CULTURALBENCH, NORMAD, WORLDVALUESBENCH),
        *(COUNTRYRC, COMMONSENSEQA, QNLI, MRPC, MUREL, WIKIPEDIA),
    )
}


def card(name: str) -> Card:
    """The card of a dataset.

    Raises:
        GatescopeError: if there is none of that name; it says which there are.
    """
    if name not in CARDS:
        raise GatescopeError(f"There is no dataset {name!r}; there are {', '.join(CARDS)}. Your own questions: a .jsonl file.")
    return CARDS[name]


def load(name: str, path: str | Path | None = None, *, seed: int | None = None, **options) -> Study:
    """A dataset by name, or a .jsonl file.

    Args:
        name: as in `gatescope data list`, or the file.
        path: a local copy of a dataset.
        seed: of what a loader draws, such as the halves of a dataset without a split; its own default if None.
        options: as the dataset's own loader takes them; None is as if it was not given.

    Raises:
        GatescopeError: as the loaders do, if there is neither dataset nor file of that name, or for an option (a seed
            where nothing is drawn) that its loader does not take.
    """
    given = {option: value for option, value in (options | {"seed": seed}).items() if value is not None}
    if name.endswith(".jsonl") or (name not in CARDS and Path(name).is_file()):
        if path is not None:
            raise GatescopeError(f"path={str(path)!r} is for datasets by name; {name} is a file already.")
        return jsonl(name, **_taken(name, jsonl, given))
    loader = card(name).load
    return loader(path, **_taken(name, loader, given))


def load_control(name: str, path: str | Path | None = None, **options) -> Study:
    """The control of a dataset: its published form, or its questions removed; arguments and errors as for `load`."""
    published = f"{name}_control"
    return load(published, path, **options) if published in CARDS else control(load(name, path, **options))


def named(text: str) -> tuple[str, str | None]:
    """A dataset and its local copy from NAME or NAME=PATH.

    >>> named("countryrc=data/crc.json"), named("countryrc")
    (('countryrc', 'data/crc.json'), ('countryrc', None))
    """
    name, _, path = text.partition("=")
    return name, path or None


def _taken(name: str, loader: Callable, given: dict) -> dict:
    takes = [option for option in inspect.signature(loader).parameters if option != "path"]
    for option, value in given.items():
        if option not in takes:
            raise GatescopeError(f"{name} takes no {option} ({value!r} was given); it takes {', '.join(takes) or 'none'}.")
    return given
