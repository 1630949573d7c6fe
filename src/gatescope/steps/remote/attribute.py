"""Attribution on a server: one shard, one job. Only sums over each group come back.

A server must run the code of a job beside the model, as NDIF does for trusted keys and this package's loopback does:
where it runs in a separate process, gradients do not cross, and the job is refused with a sentence that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.attributions import Attributions
from gatescope.core.layout import Layout
from gatescope.data.example import Example
from gatescope.models.identity import identity
from gatescope.models.sites import Site, layout_of
from gatescope.steps.batches import Batches
from gatescope.steps.remote import plan
from gatescope.steps.remote.jobs import builder_of, run_jobs
from gatescope.steps.remote.line import Build
from gatescope.steps.remote.server import Server
from gatescope.traces.encoding import collate
from gatescope.traces.forced import forced_batch
from gatescope.traces.jobs import Scored, scoring
from gatescope.traces.labels import answer_tokens


def attribute_shards(
    model: TransformersModel,
    shards: Batches,
    sites: Sequence[Site],
    groups: Sequence[str],
    items: int,
    *,
    reduce: str = "max",
    pad_zero: bool = False,
    provenance: Mapping[str, str] | None = None,
    remote: bool | str | Server = True,
    ledger: Path | None = None,
    dtype: str | None = None,
) -> Iterator[tuple[int, Attributions]]:
    """Attribute shards on a server, and yield each as soon as it is finished, in any order.

    Args:
        model: from `load_client` (no weights) or `load_model`.
        shards: planned batches by shard number; those already stored are left out.
        sites: which neurons.
        groups: names, in the order of axis g.
        items: distinct items among all examples of all groups.
        reduce, pad_zero: as for `gatescope.attribute`.
        provenance, remote, ledger, dtype: as for `record_shards`.

    Raises:
        GatescopeError: see `gatescope.steps.remote.jobs`; or if the server computes in another dtype than before.
    """
    server = Server.of(remote)
    build = builder(model, shards, sites, groups, reduce, pad_zero)
    # All that changes a result: a ledger of jobs with other settings is refused.
    settings = [[site.name for site in sites], list(groups), reduce, pad_zero]
    # The dtype is added later: only the server knows in which one it computes.
    card, layout = identity(model), layout_of(list(sites))
    metadata = {**(provenance or {}), "server": server.address}
    for number, parts in run_jobs("attribute", model, server, shards, build, settings, ledger):
        results = [part.result for part in parts]
        dtype = plan.same_dtype(server, dtype, results)
        _finite(number, plan.total(results, "sums"), layout, server, dtype)
        yield (
            number,
            Attributions(
                tuple(groups),
                layout,
                sums=plan.total(results, "sums"),
                clamped=plan.total(results, "clamped"),
                seen=plan.total(results, "seen"),
                items=items,
                model=card | {"dtype": dtype},
                provenance=metadata,
            ),
        )


def _finite(number: int, sums: Tensor, layout: Layout, server: Server, dtype: str) -> None:
    # On a server no example can be named: only sums come back.
    where = (~sums.isfinite()).nonzero()
    if len(where):
        site, layer, _ = layout.locate(int(where[0, 1]))
        raise plan.not_finite(server, f"at layer {layer} ({site}) in shard {number}", dtype)


def builder(
    model: TransformersModel,
    shards: Batches,
    sites: Sequence[Site],
    groups: Sequence[str],
    reduce: str = "max",
    pad_zero: bool = False,
) -> Callable[[int], Build]:
    """For a shard's number, what makes the job of a range of its batches."""
    common = {
        **scoring(model, sites, reduce, pad_zero),
        "task": "attribute",
        "groups": len(groups),
        "width": layout_of(list(sites)).size,
    }

    # Forced here: a server's process may have no tokenizer.
    def batch_of(examples: Sequence[Example]) -> Scored:
        answers = [answer_tokens(model, example) for example in examples]
        forced = forced_batch(model, collate(model, examples), answers)
        return {**forced, "group": [groups.index(example.group) for example in examples]}

    return builder_of(shards, common, batch_of)
