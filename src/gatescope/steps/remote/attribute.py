"""Attribution on a server: one shard, one job. Only sums over each group come back.

A server must run the code of a job beside the model, as NDIF does for trusted keys and this package's loopback does:
where it runs it in a process of its own, gradients do not cross, and the job is refused with a sentence that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gatescope.core.attributions import Attributions
from gatescope.data.example import Example
from gatescope.models.identity import identity
from gatescope.models.projections import projection_path
from gatescope.models.sites import Site, embedding_path, layout_of
from gatescope.steps.remote import plan
from gatescope.steps.remote.jobs import Build, Server, run_jobs
from gatescope.steps.remote.ledger import Ledger
from gatescope.steps.remote.record import Shards
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import collate
from gatescope.traces.forced import force
from gatescope.traces.labels import answer_tokens


def attribute_shards(
    model,
    shards: Shards,
    sites: Sequence[Site],
    groups: Sequence[str],
    items: int,
    *,
    reduce: str = "max",
    pad_zero: bool = False,
    origin: Mapping[str, str] | None = None,
    remote: bool | str | Server = True,
    ledger: Path | None = None,
    dtype: str | None = None,
) -> Iterator[tuple[int, Attributions]]:
    """Attribute shards on a server, and yield each when it is there, in whatever order they finish.

    Args:
        model: from `load_client` (no weights) or `load_model`.
        shards: planned batches by shard number; those already stored are left out.
        sites: which neurons.
        groups: names, in the order of axis g.
        items: distinct items among all examples of all groups.
        reduce, pad_zero: as for `gatescope.attribute`.
        origin, remote, ledger, dtype: as for `record_shards`.

    Raises:
        GatescopeError: see `gatescope.steps.remote.jobs`; or if the server computes in another dtype than before.
    """
    server = Server.of(remote)
    build = builder(model, shards, sites, groups, reduce, pad_zero)
    settings = [[site.name for site in sites], list(groups), reduce, pad_zero]
    book = Ledger.at(ledger, plan.work("attribute", model, server, settings), plan.keys(shards))
    card, layout = identity(model), layout_of(list(sites))
    facts = dict(origin or {}) | {"server": server.address}
    numbers = [(number, len(batches)) for number, batches in shards.items()]
    for number, pieces in run_jobs(model, server, numbers, build, book):
        dtype = plan.same_dtype(server, dtype, pieces)
        parts = {part: plan.total(pieces, part) for part in ("sums", "clamped", "seen")}
        yield number, Attributions(tuple(groups), layout, **parts, items=items, model=card | {"dtype": dtype}, origin=facts)


def builder(
    model, shards: Shards, sites: Sequence[Site], groups: Sequence[str], reduce: str = "max", pad_zero: bool = False
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches."""
    places = [
        (place, _projection(model, site, place[0]) if reduce == "norm" else None)
        for site in sites
        for place in plan.places(site)
    ]
    reached = sorted({(layer, site.rank, path, site.io) for site in sites for layer, path in enumerate(site.paths)})
    common: dict[str, Any] = {
        "task": "attribute",
        "shape": (len(groups), layout_of(list(sites)).size),
        "places": places,
        "order": [(path, io) for _, _, path, io in reached],
        "embedding": (embedding_path(model), "output", None),
        "reduce": reduce,
        "pad_zero": pad_zero,
    }

    def batch_of(examples: Sequence[Example]) -> dict[str, Any]:
        answers = [answer_tokens(model, example) for example in examples]
        inputs = force(model, collate(model, examples), answers)
        return {
            "inputs": inputs,
            "real": inputs["attention_mask"].bool(),
            "answers": answers,
            "group": torch.tensor([groups.index(example.group) for example in examples]),
            "options": forward_options(model, inputs, max(map(len, answers))),
        }

    def build(number: int) -> Build:
        return lambda start, stop, _: common | {"batches": [batch_of(b) for b in shards[number][start:stop]]}

    return build


def _projection(model, site: Site, path: str) -> tuple[str, int, Any] | None:
    """The projection whose raw output a site is, if it has a bias: its path, its inputs, and the site's columns."""
    columns: Any = (0, site.width) if site.name == "gate_pre" else plan.columns(site)
    path = projection_path(model, site, path)
    projection = model._module.get_submodule(path)
    if projection.bias is None:
        return None
    inputs = projection.in_features if hasattr(projection, "in_features") else projection.weight.shape[0]
    return path, inputs, columns
