"""Every dataset by name; and a name or a file as the command line gives it, loaded."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.data.benchmarks import (
    blend,
    blend_short,
    commonsenseqa,
    countryrc,
    culturalbench,
    cvqa,
    glue,
    murel,
    normad,
    wikipedia,
    worldvaluesbench,
)
from gatescope.data.card import Card
from gatescope.data.control import control
from gatescope.data.example import Study
from gatescope.data.jsonl import jsonl

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        *(cvqa.CARD, blend.CARD, blend.CONTROL_CARD, blend_short.CARD, culturalbench.CARD, normad.CARD, worldvaluesbench.CARD),
        *(countryrc.CARD, commonsenseqa.CARD, glue.QNLI_CARD, glue.MRPC_CARD, murel.CARD, wikipedia.CARD),
    )
}


def card(name: str) -> Card:
    """The card of a dataset.

    Raises:
        GatescopeError: if there is none of that name, listing those there are.
    """
    if name not in CARDS:
        raise GatescopeError(f"There is no dataset {name!r}; there are {', '.join(CARDS)}. Your own questions: a .jsonl file.")
    return CARDS[name]


def load(name: str, path: str | Path | None = None, *, seed: int | None = None, **options: Any) -> Study:
    """A dataset by name, or a .jsonl file.

    Args:
        name: as in `gatescope data list`, or the file.
        path: a local copy of a dataset.
        seed: of what a loader draws, such as the halves of a dataset without a split; its own default if None.
        options: those of the dataset's own loader; None is the same as leaving one out.

    Raises:
        GatescopeError: as the loaders do; if there is neither a dataset nor a file of that name; for an option (a seed
            where nothing is drawn) that its loader does not take.
    """
    # Checked like any option: a loader that draws nothing must refuse a seed.
    options["seed"] = seed
    given = {option: value for option, value in options.items() if value is not None}
    # The name of a dataset wins over a file of that name, unless the file ends in .jsonl.
    if name.endswith(".jsonl") or (name not in CARDS and os.path.isfile(name)):
        if path is not None:
            raise GatescopeError(f"path={str(path)!r} is for datasets by name; {name} is a file already.")
        return jsonl(name, **_taken(name, jsonl, given))
    loader = card(name).load
    return loader(path, **_taken(name, loader, given))


def load_control(name: str, path: str | Path | None = None, **options: Any) -> Study:
    """The control of a dataset: its published form, or its questions removed; arguments and errors as for `load`."""
    # CULNIG publishes a prompt for the control of BLEnD; the others are made.
    published = f"{name}_control"
    return load(published, path, **options) if published in CARDS else control(load(name, path, **options))


def named(text: str) -> tuple[str, str | None]:
    """A dataset and its local copy from NAME or NAME=PATH.

    >>> named("countryrc=data/crc.json"), named("countryrc")
    (('countryrc', 'data/crc.json'), ('countryrc', None))
    """
    name, _, path = text.partition("=")
    return name, path or None


def _taken(name: str, loader: Callable[..., Study], given: dict[str, Any]) -> dict[str, Any]:
    """The options given, if the loader takes all of them: each loader has its own, and the command line offers all."""
    takes = [option for option in inspect.signature(loader).parameters if option != "path"]
    for option, value in given.items():
        if option not in takes:
            raise GatescopeError(f"{name} takes no {option} ({value!r} was given); it takes {', '.join(takes) or 'none'}.")
    return given
