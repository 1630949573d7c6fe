"""Record: run examples, count what a site's neurons do in the prompts the model answers correctly.

One pass does both. The counts are taken in the prefill of the generation that decides whether the answer is right;
when it is known, the rows of wrong answers are dropped (VLM paper, section 3.1). Reductions run where the activation
is, so memory holds examples x layers x neurons of one batch and never a token.

Examples are cut into shards and batches once, in the order given. Sums are float32 within an example, float64 across
examples, and shards are added in order, so scheduling cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from nnsight.intervention.interleaver import Mediator
from torch import Tensor

from gatescope.batches import CLASSES, TOKEN_RULE, Batch, collate, marker_ids, token_classes
from gatescope.counters import Counters
from gatescope.data.example import Example, fingerprint
from gatescope.errors import GatescopeError, one_of
from gatescope.evaluate.table import Row
from gatescope.generate import ask
from gatescope.kernels import count
from gatescope.models import identity, versions
from gatescope.progress import bar
from gatescope.runs import Run
from gatescope.sites import Site, by_token, embedding_path, read, site_of
from gatescope.workers import beside, every_step


def record(
    model,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: str = "all",
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
        tokens: which tokens: "all" that count in the prompt, its "text" or its "image" tokens, or the "generated" ones.
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
        GatescopeError: without examples, for an unknown site or class of tokens, or if `run` holds a recording already.
    """
    options = {"run": run, "only_correct": only_correct, "batch_size": batch_size, "shard_size": shard_size}
    options |= {"readout": readout, "max_new_tokens": max_new_tokens, "progress": progress}
    return record_classes(model, examples, site=site, tokens=(tokens,), **options)[tokens]


def record_classes(
    model,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: Sequence[str] = ("text", "image"),
    run: str | Path | Run | None = None,
    only_correct: bool = True,
    batch_size: int = 16,
    shard_size: int = 256,
    readout: str = "generate",
    max_new_tokens: int = 20,
    progress: bool = True,
) -> dict[str, Counters]:
    """Count several classes of tokens apart, in one pass; arguments and errors as for `record`."""
    if not examples:
        raise GatescopeError("Recording needs examples; there are none.")
    for name in tokens:
        one_of("tokens", name, CLASSES)
    if "generated" in tokens and readout != "generate":
        raise GatescopeError("tokens='generated' needs answers that are generated; readout is 'label'.")
    where = site_of(model, site)
    groups = tuple(dict.fromkeys(example.group for example in examples))
    shards = [_cut(shard, batch_size) for shard in _cut(examples, shard_size)]
    origin = {"site": site, "token_rule": TOKEN_RULE, "fingerprint": fingerprint(examples), "only_correct": str(only_correct)}
    origin |= {"readout": readout, "versions": versions()}
    card = identity(model)
    directory = None if run is None else _start(run, card, origin, groups, tokens, shards, max_new_tokens)

    def nothing() -> dict[str, Counters]:
        return {name: Counters.zeros(groups, where.layout, card, origin | {"tokens": name}) for name in tokens}

    merged, rows = nothing(), []
    with bar(len(examples), "recording", "examples", show=progress) as shown:
        for index, batches in enumerate(shards):
            counters = nothing()
            for batch in batches:
                rows += _record_batch(model, where, collate(model, batch), counters, only_correct, readout, max_new_tokens)
                shown.update(len(batch))
            for name in tokens:
                if directory is not None:
                    counters[name].save(directory.shard(index, name))
                merged[name] = merged[name] + counters[name]
    if directory is not None:
        directory.write_rows("identification.jsonl", (row.plain() for row in rows))
    return merged


def _cut(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _record_batch(
    model,
    site: Site,
    batch: Batch,
    sums: Mapping[str, Counters],
    only_correct: bool,
    readout: str,
    max_new_tokens: int,
) -> list[Row]:
    """Run one batch, add what it counted to `sums` in place, return its answers."""
    classes = {name: mask for name, mask in token_classes(model, batch).items() if name in sums}
    counted = {name: [] for name in sums}  # a layer: K, S [b, n]
    seen = {name: mask.sum(1).cpu() for name, mask in classes.items()}

    def inside() -> None:
        if "generated" in sums:
            seen["generated"] = torch.zeros(len(batch.examples), dtype=torch.int64)
            beside(Mediator.current("record"), _count_generated(model, site, batch, counted["generated"], seen["generated"]))
        for path in site.paths if classes else ():
            gate = by_token(site.part(read(model, path, site.io)), batch.valid)
            for name, mask in classes.items():
                counted[name].append(count(gate, mask.to(gate.device)))

    answered, _ = ask(model, batch, inside, readout=readout, max_new_tokens=max_new_tokens)
    counts = torch.tensor([reading.correct or not only_correct for _, reading in answered])
    for name, total in sums.items():
        for g, group in enumerate(total.groups):
            mine = torch.tensor([example.group == group for example in batch.examples])
            use = mine & counts
            total.seen[g] += mine.sum()
            total.counted[g] += use.sum()
            total.T[g] += seen[name][use].sum()
            if not use.any():
                continue
            for layer, (fired, summed) in enumerate(counted[name]):
                kept = use.to(fired.device)
                total.K[g, layer] += fired[kept].sum(0).cpu()
                total.S[g, layer] += summed[kept].sum(0, dtype=torch.float64).cpu()
    return [Row(e.id, e.group, "", "", *answer) for e, answer in zip(batch.examples, answered, strict=True)]


def _count_generated(model, site: Site, batch: Batch, layers: list, tokens: Tensor) -> Callable[[], None]:
    """Counting at every step after the prefill, for the rows whose last token is content: not an end, not padding.

    The token generated last of all is never fed to the model, so it is not counted.
    """
    markers = torch.tensor(sorted(marker_ids(model)))
    embedding = embedding_path(model)

    def step() -> None:
        ids = read(model, embedding, "input")
        fed = ~torch.isin(ids, markers.to(ids.device))
        tokens.add_(fed.sum(1).cpu())
        found = [count(by_token(site.part(read(model, path, site.io)), fed), fed) for path in site.paths]
        layers[:] = [(k + k0, s + s0) for (k, s), (k0, s0) in zip(found, layers, strict=True)] if layers else found

    return lambda: every_step(step, start=1)


def _start(
    run: str | Path | Run,
    card: dict[str, str],
    origin: dict[str, str],
    groups: Sequence[str],
    tokens: Sequence[str],
    shards: list[list[Sequence[Example]]],
    max_new_tokens: int,
) -> Run:
    directory = Run.at(run, card)
    if "record" in directory.manifest:
        raise GatescopeError(
            f"{directory.path} holds a recording already. Open it with gatescope.open_run, or choose another run."
        )
    plan = [[[example.id for example in batch] for batch in batches] for batches in shards]
    facts = origin | {"groups": list(groups), "tokens": list(tokens), "max_new_tokens": max_new_tokens, "shards": plan}
    directory.note({"record": facts})
    return directory
