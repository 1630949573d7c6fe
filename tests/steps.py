"""The steps of a run as the tests of runs do them; a module of its own, so that a process of its own can."""

from __future__ import annotations

import dataclasses
import os

import torch

import gatescope as gs
from tiny import text_examples

LETTERS = ("A", "B", "C", "D")


def questions() -> list[gs.data.Example]:
    """Thirty of them, in three groups."""
    return [dataclasses.replace(e, labels=LETTERS) for e in text_examples(("north", "south", "east"), each=10)]


def masks(model):
    layout = gs.sites_of(model)["gate"].layout
    sets = {g: gs.NeuronSet(layout, torch.arange(i, layout.size, 7), {}) for i, g in enumerate(("north", "south", "east"))}
    return {"three": gs.ablate(sets)}


def do(step: str, model, questions, run):
    """One step, in shards of two: many short ones, so that a kill falls between and inside them."""
    options = {"run": run, "batch_size": 2, "shard_size": 2, "progress": False}
    generated = {"readout": "generate", **options}
    if step == "record":
        return gs.record(model, questions, only_correct=False, max_new_tokens=6, **generated)
    if step == "attribute":
        return gs.attribute(model, questions, **options)
    return gs.sweep(model, questions, masks(model), max_new_tokens=4, **generated)


def child(step: str, path, run, loaded) -> None:
    """The step in a process of its own; `loaded` is set when it begins."""
    torch.set_num_threads(1)
    model = gs.load_model(path)
    loaded.set()
    do(step, model, questions(), run)
    os._exit(0)
