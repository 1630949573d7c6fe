"""Record: run examples, count what a site's neurons do in the prompts the model answers correctly.

One pass does both. The counts are taken in the prefill of the generation that decides whether the answer is right;
when it is known, the rows of wrong answers are dropped (VLM paper, section 3.1). Reductions run where the activation
is, so memory holds examples x layers x neurons of one batch and never a token.

Examples are cut into shards and batches once, in the order given. Sums are float32 within an example, float64 across
examples, and shards are added in order, so scheduling cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

import torch

from gatescope.batches import TOKEN_RULE, Batch, collate
from gatescope.counters import Counters
from gatescope.data.example import Example, fingerprint
from gatescope.errors import GatescopeError
from gatescope.evaluate.table import Row
from gatescope.generate import ask
from gatescope.kernels import count
from gatescope.models import identity, versions
from gatescope.progress import bar
from gatescope.runs import Run
from gatescope.sites import Site, by_token, read, site_of


def record(
    model,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    run: str | Path | Run | None = None,
    only_correct: bool = True,
    batch_size: int = 16,
    shard_size: int = 256,
    readout: str = "generate",
    max_new_tokens: int = 20,
    progress: bool = True,
) -> Counters:
    """Count firing, positive activation and tokens of every neuron on every group.

    Args:
        model: from `load_model`.
        examples: identification examples.
        site: which neurons (see `sites_of`).
        run: directory to write shards, answers and manifest to.
        only_correct: count only the examples the model answers correctly, as the paper does.
        batch_size: examples a batch.
        shard_size: examples a shard.
        readout: how an answer is read: generated text, or the most probable label.
        max_new_tokens: at most this many tokens an answer (the paper: 20).
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        Counters over all groups, including those in which nothing was counted (`counters.empty`).

    Raises:
        GatescopeError: without examples, for an unknown site, or if `run` holds a recording already.
    """
    if not examples:
        raise GatescopeError("Recording needs examples; there are none.")
    where = site_of(model, site)
    groups = tuple(dict.fromkeys(example.group for example in examples))
    shards = [_cut(shard, batch_size) for shard in _cut(examples, shard_size)]
    origin = {"site": site, "token_rule": TOKEN_RULE, "fingerprint": fingerprint(examples), "only_correct": str(only_correct)}
    empty = Counters.zeros(groups, where.layout, identity(model), origin | {"versions": versions()})
    directory = None if run is None else _start(run, empty, shards, max_new_tokens)
    merged, rows = [], []
    with bar(len(examples), "recording", "examples", show=progress) as shown:
        for index, batches in enumerate(shards):
            counters = Counters.zeros(groups, where.layout, empty.model, empty.origin)
            for batch in batches:
                rows += _record_batch(model, where, collate(model, batch), counters, only_correct, readout, max_new_tokens)
                shown.update(len(batch))
            if directory is not None:
                counters.save(directory.shard(index))
            merged.append(counters)
    if directory is not None:
        directory.write_rows("identification.jsonl", (row.plain() for row in rows))
    return reduce(add, merged)


def _cut(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _record_batch(
    model, site: Site, batch: Batch, sums: Counters, only_correct: bool, readout: str, max_new_tokens: int
) -> list[Row]:
    """Run one batch, add what it counted to `sums` in place, return its answers."""

    def read_prefill():
        gates = (site.part(read(model, path, site.io)) for path in site.paths)
        return [count(by_token(gate, batch.valid), batch.valid.to(gate.device)) for gate in gates]

    answered, layers = ask(model, batch, read_prefill, readout=readout, max_new_tokens=max_new_tokens)
    counts = torch.tensor([reading.correct or not only_correct for _, reading in answered])
    tokens = batch.valid.sum(1).cpu()
    for g, group in enumerate(sums.groups):
        mine = torch.tensor([example.group == group for example in batch.examples])
        use = mine & counts
        sums.seen[g] += mine.sum()
        sums.counted[g] += use.sum()
        sums.T[g] += tokens[use].sum()
        if not use.any():
            continue
        for layer, (fired, summed) in enumerate(layers):
            kept = use.to(fired.device)
            sums.K[g, layer] += fired[kept].sum(0).cpu()
            sums.S[g, layer] += summed[kept].sum(0, dtype=torch.float64).cpu()
    return [Row(e.id, e.group, "", "", *answer) for e, answer in zip(batch.examples, answered, strict=True)]


def _start(run: str | Path | Run, empty: Counters, shards: list[list[Sequence[Example]]], max_new_tokens: int) -> Run:
    directory = Run.at(run, empty.model)
    if "record" in directory.manifest:
        raise GatescopeError(
            f"{directory.path} holds a recording already. Open it with gatescope.open_run, or choose another run."
        )
    plan = [[[example.id for example in batch] for batch in batches] for batches in shards]
    facts = dict(empty.origin) | {"groups": list(empty.groups), "max_new_tokens": max_new_tokens, "shards": plan}
    directory.note({"record": facts})
    return directory
