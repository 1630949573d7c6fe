"""Servers."""

from __future__ import annotations

import typer

from gatescope.cli.common import AsJson, BatchSize, Data, Model, Readout, Seed, Site, Where, as_json, remote, size
from gatescope.cli.loading import Revision, Trust


@remote.command()
def estimate(
    model: Model,
    data: Data,
    path: Where = None,
    site: Site = "gate",
    readout: Readout = None,
    seed: Seed = None,
    batch_size: BatchSize = "16",
    shard_size: int = 256,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    json: AsJson = False,
) -> None:
    """Jobs and bytes of a recording on a server, before anything is sent.

    Example: gatescope remote estimate --model MODEL --data cvqa
    """
    from gatescope.data import registry
    from gatescope.steps.remote import estimate_record, load_client

    study = registry.load(data, path, seed=seed)
    options = {"site": site, "readout": readout or study.readout, "batch_size": size(batch_size), "shard_size": shard_size}
    # A client has no weights: the estimate needs the configuration alone.
    client = load_client(model, revision=revision, trust_remote_code=trust_remote_code)
    expected = estimate_record(client, study.identification, **options)
    typer.echo(as_json(vars(expected)) if json else str(expected))
