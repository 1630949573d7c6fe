"""Each step of a study by itself, on one machine or on many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatescope.cli.common import (
    Actors,
    AsJson,
    BatchSize,
    Data,
    Executor,
    GpusPerActor,
    Groups,
    Model,
    NewTokens,
    Out,
    RayAddress,
    Readout,
    Seed,
    Site,
    Where,
    app,
    as_json,
    cluster_of,
    effects_of,
    questions,
    selections_of,
    size,
)
from gatescope.cli.loading import Allow, Loading, allowed, loads_a_model
from gatescope.core.environment import whole
from gatescope.core.errors import GatescopeError, one_of

if TYPE_CHECKING:  # for the command line's help, which loads no torch
    from nnsight import TransformersModel

    from gatescope.data.example import Example
    from gatescope.select.selection import Selection
    from gatescope.steps.cluster import Ray

Half = Annotated[str, typer.Option(help="Which half of the data: identification or evaluation.")]
Part = Annotated[str | None, typer.Option(help="K/N: do the K-th of N parts of the shards only, counted from 0.")]
ShardSize = Annotated[int, typer.Option(help="Examples a shard.")]
Workers = Annotated[int, typer.Option(help="Processes that prepare text and pictures ahead of the model.")]
Remote = Annotated[str | None, typer.Option(help="ndif, or a server's address: the model runs there.")]


@app.command()
@loads_a_model
def record(
    loading: Loading,
    model: Model,
    data: Data,
    run: Out,
    path: Where = None,
    half: Half = "identification",
    site: Site = "gate",
    tokens: Annotated[list[str] | None, typer.Option(help="all, text, image or generated; may be given again.")] = None,
    all_answers: Annotated[bool, typer.Option("--all-answers", help="Count wrongly answered examples too.")] = False,
    group: Groups = None,
    readout: Readout = None,
    seed: Seed = None,
    batch_size: BatchSize = "16",
    shard_size: ShardSize = 256,
    max_new_tokens: NewTokens = 20,
    workers: Workers = 0,
    part: Part = None,
    remote: Remote = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
) -> None:
    """Count what a site's neurons do; continue where an earlier run stopped.

    Example: accelerate launch -m gatescope record --model MODEL --data cvqa --run runs/cvqa
    """
    from gatescope.steps.record import record_classes

    cluster = _cluster(remote, executor, ray_address, actors, gpus_per_actor, loading.device_map)
    examples, own = _examples(data, path, half, group, seed)
    counters = record_classes(
        _model(model, loading, remote, cluster),
        examples,
        site=site,
        tokens=tokens or ["all"],
        run=run,
        only_correct=not all_answers,
        batch_size=size(batch_size),
        shard_size=shard_size,
        readout=readout or own,
        max_new_tokens=max_new_tokens,
        workers=workers,
        remote=_server(remote),
        executor=cluster,
        part=_part(part),
    )
    _done(run, "record", bool(counters))


@app.command()
@loads_a_model
def attribute(
    loading: Loading,
    model: Model,
    data: Data,
    run: Out,
    path: Where = None,
    half: Half = "identification",
    site: Annotated[list[str] | None, typer.Option(help="May be given again; gate_pre, q, k, v if not given.")] = None,
    reduce: Annotated[str, typer.Option(help="Over tokens: max, mean or norm.")] = "max",
    name: Annotated[str, typer.Option(help="Of these attributions in the run, such as culture.")] = "",
    control: Annotated[bool, typer.Option("--control", help="The same data without its questions; named control.")] = False,
    group: Groups = None,
    seed: Seed = None,
    batch_size: BatchSize = "8",
    shard_size: ShardSize = 256,
    workers: Workers = 0,
    remote: Remote = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
) -> None:
    """Score how much every neuron raises the probability of the right answer.

    Example: gatescope attribute --model MODEL --data blend --run runs/culnig --name culture
    """
    # Under another name, as the command has the function's.
    from gatescope.steps.attribute import attribute as score

    cluster = _cluster(remote, executor, ray_address, actors, gpus_per_actor, loading.device_map)
    examples, _ = _examples(data, path, half, group, seed, control)
    name = name or ("control" if control else "")
    score(
        _model(model, loading, remote, cluster),
        examples,
        sites=site or ("gate_pre", "q", "k", "v"),
        reduce=reduce,
        run=run,
        name=name,
        batch_size=size(batch_size),
        shard_size=shard_size,
        workers=workers,
        remote=_server(remote),
        executor=cluster,
    )
    _done(run, f"attribute of {name}" if name else "attribute", True)


@app.command()
@loads_a_model
def sweep(
    loading: Loading,
    model: Model,
    data: Data,
    run: Annotated[Path, typer.Option(help="A run with selections; the answers are kept in it.")],
    neurons: Annotated[
        Path | None, typer.Option(help="Another run, whose selections are used; they are kept in this one, too.")
    ] = None,
    allow: Allow = None,
    path: Where = None,
    half: Half = "evaluation",
    group: Groups = None,
    readout: Readout = None,
    seed: Seed = None,
    batch_size: BatchSize = "16",
    shard_size: ShardSize = 256,
    masks_per_batch: Annotated[
        int | None,
        typer.Option("--masks-per-batch", "--together", help="Masks side by side in one batch; as many as fit if not given."),
    ] = None,
    max_new_tokens: NewTokens = 20,
    workers: Workers = 0,
    remote: Remote = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    json: AsJson = False,
) -> None:
    """Answer questions with the full model and with each group's neurons switched off.

    Example: gatescope sweep --model MODEL --data cvqa --run runs/cvqa
    """
    from gatescope.interventions.intervention import ablate
    from gatescope.steps.sweep import sweep as ask

    cluster = _cluster(remote, executor, ray_address, actors, gpus_per_actor, loading.device_map)
    permitted = allowed(allow)
    if permitted and neurons is None:
        raise GatescopeError("--allow is for the neurons of another run: give that run as --neurons, or leave --allow out.")
    selections = selections_of(neurons or run)
    examples, own = _examples(data, path, half, group, seed)
    loaded = _model(model, loading, remote, cluster)
    if neurons is not None:
        selections = _kept(run, selections, loaded, permitted)
    table = ask(
        loaded,
        examples,
        ablate(selections),
        run=run,
        batch_size=size(batch_size),
        shard_size=shard_size,
        masks_per_batch=masks_per_batch,
        readout=readout or own,
        max_new_tokens=max_new_tokens,
        workers=workers,
        remote=_server(remote),
        executor=cluster,
    )
    typer.echo(as_json(effects_of(table)) if json else str(table.self_cross()))


def _kept(run: Path, found: Mapping[str, Selection], model: TransformersModel, allow: str | None) -> dict[str, Selection]:
    """Another run's selections, used on this model and kept in this run: answers must have their neurons beside them."""
    from gatescope.models.identity import identity
    from gatescope.steps.run import Run

    selections = {name: selection.used_on(model, allow=allow) for name, selection in found.items()}
    Run.at(run, identity(model)).add_selections(selections.values())
    return selections


def _examples(
    data: str, path: Path | None, half: str, groups: list[str] | None, seed: int | None, control: bool = False
) -> tuple[Sequence[Example], str]:
    """The half of the data that was asked for, and how its answers are best read."""
    from gatescope.data import registry

    one_of("half", half, ("identification", "evaluation"))
    if control:
        study = registry.load_control(data, path, seed=seed, groups=groups or None)
    else:
        study = questions(data, path, groups, seed)
    return getattr(study, half), study.readout


def _model(model: str, loading: Loading, remote: str | None, cluster: Ray | None) -> TransformersModel:
    """The model; without weights if it runs on a server."""
    if remote is None:
        return loading.placed(model, cluster)
    from gatescope.steps.remote import Server

    Server.of(_server(remote) or "")  # refused before the model is looked for
    return loading.client(model)


def _cluster(remote: str | None, executor: str | None, *options: Any) -> Ray | None:
    """The cluster that was asked for, before anything is read or loaded."""
    if remote is not None and executor is not None:
        raise GatescopeError("--remote and --executor both say who does the work: a server, or a cluster. Give one of them.")
    return cluster_of(executor, *options)


def _server(remote: str | None) -> bool | str | None:
    # "ndif" stands for the host in nnsight's configuration.
    return True if remote == "ndif" else remote


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    k, n = (whole(number) for number in text.partition("/")[::2])
    if k is None or n is None or k >= n:
        raise GatescopeError(f"--part is {text!r}; it must be K/N with K from 0 to N - 1, such as 0/4.")
    return k, n


def _done(run: Path, step: str, finished: bool) -> None:
    """Say how far a step is, once for all processes."""
    from gatescope.steps.run import Run
    from gatescope.steps.shards import Shards, first

    # Under accelerate every process gets here.
    if not first():
        return
    shards = Shards.of(Run.open(run), step)
    left = len(shards.missing)
    typer.echo(f"{run}: {len(shards) - left} of {len(shards)} shards done" + ("" if finished else "; the others are not"))
