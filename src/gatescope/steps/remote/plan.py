"""What all jobs have in common: the plain data that a task's places, batches, masks and answers become."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example, fingerprint
from gatescope.models.load import identity
from gatescope.models.sites import Site
from gatescope.statistics.table import Row
from gatescope.steps.remote.jobs import Server
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import Batch, collate
from gatescope.traces.forced import force
from gatescope.traces.generate import GENERATED, GREEDY, LABELLED, _read, next_token, readable
from gatescope.traces.labels import label_tokens, single_tokens, text_tokens
from gatescope.traces.readouts import options

Place = tuple[str, str, Any]  # path, "input" or "output", columns


def columns(site: Site) -> tuple[int, int] | list[int] | None:
    """Which columns of its module's tensor a site's neurons are, as plain data."""
    if site.columns is None:
        return None
    return (site.columns.start, site.columns.stop) if isinstance(site.columns, range) else list(site.columns)


def places(site: Site) -> list[Place]:
    """Where a site's neurons are, a layer each."""
    return [(path, site.io, columns(site)) for path in site.paths]


def generation(model, max_new_tokens: int) -> dict[str, Any]:
    """How answers are generated."""
    return GREEDY | {"max_new_tokens": max_new_tokens, "pad_token_id": model.tokenizer.pad_token_id}


def batch(model, encoded: Batch, readout: str) -> dict[str, Any]:
    """A batch of questions and what is needed to read its answers.

    Raises:
        GatescopeError: for an unknown read-out, or an example it cannot read.
    """
    readable(model, encoded.examples, readout)
    examples = encoded.examples
    made: dict[str, Any] = {"inputs": dict(encoded.inputs)}
    if readout in GENERATED:
        words = {"choices": [list(e.choices) for e in examples], "answer": [e.answer for e in examples]}
        return made | {"way": "generate"} | words
    made |= {"way": "none", "options": forward_options(model, encoded.inputs, keep=1)}
    if readout == "none":
        return made
    if readout == "argmax":
        rows = zip(examples, single_tokens(model, examples), strict=True)
        return made | {"way": "argmax", "right": torch.tensor([labels[e.choices.index(e.answer)] for e, labels in rows])}
    tokens = label_tokens(model, examples) if readout in LABELLED else text_tokens(model, examples)
    made |= {"tokens": tokens, "how": "label" if readout in LABELLED else readout}
    made["right"] = [[_option(e, i, readout)[1].correct for i in range(len(e.choices))] for e in examples]
    if readout in LABELLED and all(len(ids) == 1 for each in tokens for ids in each):
        return made | {"way": "next"}
    return made | {"way": "options", "chunks": list(_chunks(model, examples, tokens))}


def _chunks(model, examples: Sequence[Example], tokens: Sequence[list[list[int]]]) -> Iterable[dict[str, Any]]:
    """Every option of every example, forced; as many at once as the batch has examples, as in a local run."""
    rows = [(e, ids) for e, each in zip(examples, tokens, strict=True) for ids in each]
    for start in range(0, len(rows), len(examples)):
        some, forced = zip(*rows[start : start + len(examples)], strict=True)
        inputs = force(model, collate(model, some), forced)
        settings = forward_options(model, inputs, max(map(len, forced)))
        yield {"inputs": inputs, "forced": list(forced), "options": settings}


def read(model, batches: Iterable[Sequence[Example]], answers: Iterable[Any], readout: str) -> list[Row]:
    """Answers read here, by the same rules as in a local run: one row for each example of the batches."""
    return [
        Row(example.id, example.group, "", "", *found)
        for examples, answer in zip(batches, answers, strict=True)
        for example, found in zip(examples, _read_batch(model, examples, answer, readout), strict=True)
    ]


def _read_batch(model, examples: Sequence[Example], answer: Any, readout: str) -> list[tuple[str, Reading]]:
    if readout == "none":
        return [("", Reading("", False, False))] * len(examples)
    if readout in GENERATED:
        texts = model.tokenizer.batch_decode(answer, skip_special_tokens=True)
        return [(text, _read(text, e, readout)) for text, e in zip(texts, examples, strict=True)]
    if readout == "argmax":
        rows = zip(examples, answer.tolist(), single_tokens(model, examples), strict=True)
        return [next_token(model, example, token, labels) for example, token, labels in rows]
    tokens = label_tokens(model, examples) if readout in LABELLED else text_tokens(model, examples)
    how = "label" if readout in LABELLED else readout
    rows = zip(examples, answer, tokens, strict=True)
    return [_option(example, options.best(logs, each, how), readout) for example, logs, each in rows]


def _option(example: Example, which: int, readout: str) -> tuple[str, Reading]:
    """What it means that an option was the most probable."""
    choice = example.choices[which]
    text = example.labels[which] if readout in LABELLED else choice
    if readout == "likert_label":
        return text, _read(choice, example, "likert")
    return text, Reading(choice, choice == example.answer, fallback=False)


def total(pieces: Sequence[dict[str, Any]], part: str) -> Tensor:
    """One of a shard's sums, its pieces' added in order."""
    return reduce(add, (piece[part] for piece in pieces))


def same_dtype(server: Server, before: str | None, pieces: Sequence[dict[str, Any]]) -> str:
    """The dtype a shard was computed in.

    Raises:
        GatescopeError: if it is not that of the shards before it, naming both.
    """
    for piece in pieces:
        if before is not None and piece["dtype"] != before:
            raise GatescopeError(
                f"{server.address} now computes in {piece['dtype']}; the shards before were computed in {before}, and the two "
                f"cannot be added up. Finish the run where it was begun, or begin another in a new directory."
            )
        before = piece["dtype"]
    return str(before)


def work(task: str, model, server: Server, settings: list) -> str:
    """A digest of what the jobs are of, so that a ledger of other work is not taken for this one's."""
    card = identity(model)
    return hashlib.sha256(json.dumps([task, card["id"], card["revision"], server.address, settings]).encode()).hexdigest()


def keys(shards: Mapping[int, Sequence[Sequence[Example]]]) -> Callable[[int], str]:
    """For a shard's number, a digest of its examples and how they are cut into batches."""

    def key(number: int) -> str:
        examples = [example for batch in shards[number] for example in batch]
        sizes = [len(batch) for batch in shards[number]]
        return hashlib.sha256(json.dumps([sizes, fingerprint(examples)]).encode()).hexdigest()

    return key


def digest_of(table: list[tuple]) -> str:
    """A digest of a mask's plain data."""
    plain = [(path, io, index.tolist(), kind, values.tolist()) for path, io, index, kind, values in table]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
