"""Record: run examples, count what a site's neurons do in the prompts the model answers correctly.

One pass does both. The counts are taken in the prefill of the generation that decides whether the answer is right;
when it is known, the rows of wrong answers are dropped (VLM paper, section 3.1). Reductions run where the activation
is, so memory holds examples x layers x neurons of one batch and never a token.

Examples are cut into shards and batches once (see `gatescope.steps.plan`). Sums are float32 within an example, float64
across examples, and shards are added in order, so scheduling cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnsight.intervention.interleaver import Mediator
from torch import Tensor

from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.example import Example, fingerprint, listed, readout_of
from gatescope.kernels import compiled
from gatescope.kernels import eager as kernels
from gatescope.models.identity import identity, versions
from gatescope.models.sites import Site, site_of
from gatescope.statistics.table import Row
from gatescope.steps.remote.record import record_shards
from gatescope.steps.run import Run
from gatescope.steps.runner import run_step
from gatescope.steps.step import Options, Step
from gatescope.traces.access import by_token, read
from gatescope.traces.ask import GENERATED, ask
from gatescope.traces.encoding import CLASSES, TOKEN_RULE, Batch, token_classes, uncounted_ids
from gatescope.traces.workers import beside, every_step

PARTS = ("K", "S", "T", "seen", "counted")


def record(
    model,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: str = "all",
    run: str | Path | Run | None = None,
    only_correct: bool = True,
    batch_size: int | str = 16,
    shard_size: int = 256,
    readout: str | None = None,
    max_new_tokens: int = 20,
    workers: int = 0,
    remote: Any = None,
    progress: bool = True,
) -> Counters:
    """Count firing, positive activation and tokens of every neuron on every group.

    Args:
        model: from `load_model`; without weights if the work is done remotely.
        examples: identification examples.
        site: which neurons (see `sites_of`).
        tokens: which tokens: "all" that count in the prompt, its "text" or its "image" tokens, or the "generated" ones.
        run: directory for shards, answers and manifest. What is done there already is not done again.
        only_correct: count only the examples the model answers correctly, as the paper does.
        batch_size: examples a batch; "auto" sorts a shard by length and fills batches with tokens (see
            `gatescope.steps.plan`).
        shard_size: examples a shard.
        readout: how an answer is read (see `gatescope.traces.readouts`): "generate", "label", "loglik", "short", ...; "none"
            for passages, with `only_correct=False`. None takes what fits the examples: "label" where all have labels,
            "short" where all have accepted answers, "none" where all are passages, else "generate".
        max_new_tokens: at most this many tokens an answer (the paper: 20).
        workers: processes that prepare text and pictures ahead of the model.
        remote: True for NDIF, or a server's address; a shard is a job there (see `gatescope.remote`).
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        Counters over all groups, including those in which nothing was counted (`counters.empty`).

    Raises:
        GatescopeError: without examples, for an unknown site or class of tokens, if `run` was begun with something else or
            holds a damaged shard, or if the model gives NaN.
    """
    options = {"run": run, "only_correct": only_correct, "batch_size": batch_size, "shard_size": shard_size}
    options |= {
        "readout": readout,
        "max_new_tokens": max_new_tokens,
        "workers": workers,
        "remote": remote,
        "progress": progress,
    }
    return record_classes(model, examples, site=site, tokens=(tokens,), **options)[tokens]


def record_classes(
    model,
    examples: Sequence[Example],
    *,
    site: str = "gate",
    tokens: Sequence[str] = ("text", "image"),
    run: str | Path | Run | None = None,
    only_correct: bool = True,
    batch_size: int | str = 16,
    shard_size: int = 256,
    readout: str | None = None,
    max_new_tokens: int = 20,
    workers: int = 0,
    remote: Any = None,
    part: tuple[int, int] | None = None,
    progress: bool = True,
) -> dict[str, Counters]:
    """Count several classes of tokens apart, in one pass; arguments and errors as for `record`.

    Args:
        part: (k, n): do the k-th of n parts of the shards and no other, and return what is there once all is done;
            nothing ({}) before.
    """
    readout = readout or readout_of(listed(examples))
    step = Recording(model, examples, site, tokens, only_correct, readout, max_new_tokens)
    outcome = run_step(step, Options(run, batch_size, shard_size, workers, remote, part, progress))
    if outcome.total is not None:
        return {name: outcome.total.counters[name] for name in tokens}
    if outcome.directory is None or outcome.stored is None or not outcome.complete:
        return {}
    rows = (row for _, facts in outcome.stored.all() for row in facts["rows"])
    outcome.directory.write_rows("identification.jsonl", rows)
    return {name: outcome.directory.counters_of(name) for name in tokens}


@dataclass
class Counted:
    """A shard: its counters by class of tokens, and its answers by place in the examples."""

    counters: dict[str, Counters]
    rows: dict[int, Row]


class Recording(Step[Counted]):
    """Recording as a step; arguments as for `record_classes`."""

    name, doing = "record", "recording"

    def __init__(
        self,
        model,
        examples: Sequence[Example],
        site: str,
        tokens: Sequence[str],
        only_correct: bool,
        readout: str,
        max_new_tokens: int,
    ) -> None:
        super().__init__(model, examples)
        self.site, self.facts = _facts(model, examples, site, tokens, only_correct, readout, max_new_tokens)
        self.card = identity(model)
        self.tokens = tokens
        self.settings = {"only_correct": only_correct, "readout": readout, "max_new_tokens": max_new_tokens}

    @property
    def origin(self) -> dict[str, str]:
        """Where the counters come from."""
        return {name: value for name, value in self.facts.items() if isinstance(value, str)}

    def begin(self) -> Counted:
        """Counters of nothing."""
        groups, layout = tuple(self.facts["groups"]), self.site.layout
        return Counted(
            {name: Counters.zeros(groups, layout, self.card, self.origin | {"tokens": name}) for name in self.tokens}, {}
        )

    def work(self, shard: Counted, places: Sequence[int], batch: Batch) -> None:
        """Count a batch and keep its answers."""
        rows = _record_batch(self.model, self.site, batch, shard.counters, **self.settings)
        shard.rows.update(zip(places, rows, strict=True))

    def there(self, batches, places, remote, ledger, dtype) -> Iterator[tuple[int, Counted]]:
        """The same on a server."""
        how = self.settings | {"tokens": self.tokens, "origin": self.origin, "remote": remote, "ledger": ledger, "dtype": dtype}
        for number, counters, rows in record_shards(self.model, batches, self.site, self.facts["groups"], **how):
            yield number, Counted(counters, dict(zip(places[number], rows, strict=True)))

    def add(self, total: Counted, shard: Counted) -> Counted:
        """Counters are sums."""
        return Counted({name: total.counters[name] + shard.counters[name] for name in self.tokens}, {})

    def pack(self, shard: Counted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Every sum under its class and letter, and the answers in the order of the examples."""
        sums = {f"{name}/{part}": getattr(c, part) for name, c in shard.counters.items() for part in PARTS}
        rows = [shard.rows[place].plain() for place in sorted(shard.rows)]
        return sums, {"rows": rows, "model": dict(next(iter(shard.counters.values())).model)}


def _facts(
    model, examples: Sequence[Example], site: str, tokens: Sequence[str], only_correct: bool, readout: str, max_new_tokens: int
) -> tuple[Site, dict[str, Any]]:
    """The site, and everything that decides the result; refuses what does not go together."""
    if not examples:
        raise GatescopeError("Recording needs examples; there are none.")
    for name in tokens:
        one_of("tokens", name, CLASSES)
    if "generated" in tokens and readout not in GENERATED:
        raise GatescopeError(f"tokens='generated' needs answers that are generated; readout is {readout!r}.")
    if readout == "none" and only_correct:
        raise GatescopeError("readout='none' reads no answer, so none can be correct; say only_correct=False.")
    where = site_of(model, site)
    facts: dict[str, Any] = {"site": site, "token_rule": TOKEN_RULE, "fingerprint": fingerprint(examples)}
    facts |= {"only_correct": str(only_correct), "readout": readout, "versions": versions(), "kernel": compiled.mode()}
    facts |= {"groups": list(dict.fromkeys(example.group for example in examples)), "tokens": list(tokens)}
    return where, facts | {"max_new_tokens": max_new_tokens, "layout": where.layout.plain()}


def _record_batch(
    model,
    site: Site,
    batch: Batch,
    sums: Mapping[str, Counters],
    only_correct: bool,
    readout: str,
    max_new_tokens: int,
) -> list[Row]:
    """Run one batch, add what it counted to `sums` in place once all of it is known, return its answers."""
    classes = {name: mask for name, mask in token_classes(model, batch).items() if name in sums}
    masks = torch.stack(list(classes.values())) if classes else torch.empty(0)
    there: dict[torch.device, Tensor] = {}
    prompted: list[tuple[Tensor, Tensor]] = []  # a layer: K, S [c, b, n]
    written: list[tuple[Tensor, Tensor]] = []  # a layer: K, S [b, n]
    seen = {name: mask.sum(1).cpu() for name, mask in classes.items()}

    def inside() -> None:
        if "generated" in sums:
            seen["generated"] = torch.zeros(len(batch.examples), dtype=torch.int64)
            beside(Mediator.current("record"), _count_generated(model, site, batch, written, seen["generated"]))
        for path in site.paths if classes else ():
            gate = by_token(site.part(read(model, path, site.io)), batch.valid)
            if gate.device not in there:
                there[gate.device] = masks.to(gate.device)
            prompted.append(compiled.count_classes(gate, there[gate.device]))

    answered, _ = ask(model, batch, inside=inside, readout=readout, max_new_tokens=max_new_tokens)
    counts = torch.tensor([reading.correct or not only_correct for _, reading in answered])
    nothing = torch.zeros(len(batch.examples), site.width)  # of a run that ended with its first token
    later = written or [(nothing.long(), nothing)] * len(site.paths)
    counted = {name: [(k[c], s[c]) for k, s in prompted] for c, name in enumerate(classes)} | {"generated": later}
    ready = []  # so that a batch that runs out of memory here has added nothing
    for name, total in sums.items():
        for g, group in enumerate(total.groups):
            mine = torch.tensor([example.group == group for example in batch.examples])
            use = mine & counts
            if mine.any():
                ready.append((total, g, mine.sum(), use.sum(), seen[name][use].sum(), _sums(counted[name], use, batch)))
    for total, g, asked, right, tokens, (fired, summed) in ready:
        total.seen[g] += asked
        total.counted[g] += right
        total.T[g] += tokens
        total.K[g] += fired
        total.S[g] += summed
    return [Row.full(e.id, e.group, *answer) for e, answer in zip(batch.examples, answered, strict=True)]


def _sums(layers: Sequence[tuple[Tensor, Tensor]], use: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """K and S [l, n] of the rows in use, summed where they are.

    Raises:
        GatescopeError: if the model gave NaN, naming layer and example.
    """
    rows = use.nonzero().squeeze(1)
    there = {device: rows.to(device) for device in {fired.device for fired, _ in layers}}
    fired = torch.stack([k.index_select(0, there[k.device]).sum(0).cpu() for k, _ in layers])
    summed = torch.stack([s.index_select(0, there[s.device]).sum(0, dtype=torch.float64).cpu() for _, s in layers])
    if summed.isnan().any():
        layer, row = kernels.first_nan([s.index_select(0, there[s.device]).cpu() for _, s in layers]) or (0, 0)
        name = batch.examples[int(rows[row])].id
        raise GatescopeError(
            f"The model gave NaN at layer {layer} in example {name!r}. Load it in a wider dtype, such as dtype='float32', or "
            f"leave the example out."
        )
    return fired, summed


def _count_generated(model, site: Site, batch: Batch, layers: list, tokens: Tensor) -> Callable[[], None]:
    """Counting at every step after the prefill, for the rows whose last token is content: not an end, not padding, not a
    placeholder for a picture that is not there.

    The token generated last of all is never fed to the model, so it is not counted.
    """
    markers = torch.tensor(sorted(uncounted_ids(model)))

    def step() -> None:
        ids = model.inputs[1]["input_ids"]  # not the embedding's, which Chameleon also gives its pictures' tokens
        fed = ~torch.isin(ids, markers.to(ids.device))
        tokens.add_(fed.sum(1).cpu())
        found = [kernels.count(by_token(site.part(read(model, path, site.io)), fed), fed) for path in site.paths]
        layers[:] = [(k + k0, s + s0) for (k, s), (k0, s0) in zip(found, layers, strict=True)] if layers else found

    return lambda: every_step(step, start=1)
