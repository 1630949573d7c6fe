"""Finished runs of any size, made up and written by the real writers: no model, no data."""

from __future__ import annotations

import random
from pathlib import Path

import torch

import gatescope as gs
from gatescope.core.answers import Reading
from gatescope.core.counters import Counters
from gatescope.core.layout import Layout
from gatescope.data import Example
from gatescope.select.selection import Selection
from gatescope.statistics.table import FULL, Row, Table
from gatescope.steps.batches import Plan
from gatescope.steps.plan import cut
from gatescope.steps.questions import keeping
from gatescope.steps.shards import Shards

MODEL = {"id": "made/up", "revision": "", "class": "LlamaForCausalLM", "dtype": "float32", "digest": "0" * 64}
LAYOUT = Layout.single("gate", layers=12, width=1024)
CHOICES = ("kite", "boat", "drum", "lamp")
RATE = 0.01


def examples(count: int, groups: int) -> list[Example]:
    """Questions of so many groups, in turn."""
    return [Example(f"q{i}", f"group {i % groups}", f"Which of these is {i}?", CHOICES, CHOICES[i % 4]) for i in range(count)]


def recorded(path: Path, asked: list[Example], shard_size: int = 256) -> gs.Run:
    """A run whose counters were recorded."""
    run = gs.Run.at(path, MODEL)
    groups = tuple(dict.fromkeys(example.group for example in asked))
    facts = {"site": "gate", "groups": list(groups), "tokens": ["all"], "layout": LAYOUT.plain(), "fingerprint": "f" * 64}
    with keeping(run, "record", facts["fingerprint"], asked):
        ids = [example.id for example in asked]
        planned = Plan([cut(shard, 16) for shard in cut(range(len(asked)), shard_size)])
        shards, planned = Shards.start(run, "record", facts, ids, lambda: planned)
    draw = torch.Generator().manual_seed(0)
    sums = Counters.zeros(groups, LAYOUT, MODEL)
    sums.T.fill_(1000)
    sums.K.copy_(torch.randint(0, 1000, sums.K.shape, generator=draw))
    sums.S.copy_(sums.K * 0.5)
    packed = {f"all/{letter}": getattr(sums, letter) for letter in ("K", "S", "T", "seen", "counted")}
    for index in range(len(shards)):
        rows = [_row(asked[place], *FULL, True).plain() for place in planned.positions(index)]
        shards.save(index, packed, {"rows": rows, "model": MODEL})
    return run


def swept(run: gs.Run, asked: list[Example], selectors: int) -> gs.Run:
    """The run with so many selectors' neurons, and the answers under each of their masks."""
    groups = list(dict.fromkeys(example.group for example in asked))
    names = [f"CAS{number or ''}" for number in range(selectors)]
    for number, name in enumerate(names):
        run.add_selection(_selection(name, groups, number))
    draw = random.Random(0)
    keys = [FULL, *((name, group) for name in names for group in groups)]
    rows = (_row(e, *key, draw.random() > (0.7 if e.group == key[1] else 0.1)) for key in keys for e in asked)
    run.add_answers(Table(rows))
    return run


def _selection(name: str, groups: list[str], seed: int) -> Selection:
    scores = torch.rand((len(groups), 12, 1024), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    wanted = round(RATE * LAYOUT.size)
    best = scores.flatten(1).topk(wanted).indices
    sets = {group: gs.NeuronSet(LAYOUT, flat, MODEL) for group, flat in zip(groups, best, strict=True)}
    return Selection(name, sets, wanted, scores)


def _row(example: Example, selector: str, mask: str, right: bool) -> Row:
    said = example.answer if right else CHOICES[(CHOICES.index(example.answer) + 1) % 4]
    return Row(example.id, example.group, selector, mask, said, Reading(said, right, False))
