"""Each step of a study by itself, on one machine or on many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gatescope.cli.common import (
    AsJson,
    BatchSize,
    Data,
    Groups,
    Model,
    NewTokens,
    Out,
    Rate,
    Readout,
    Seed,
    Site,
    Where,
    app,
    effects_as_json,
    size,
)
from gatescope.errors import GatescopeError, one_of

Half = Annotated[str, typer.Option(help="Which half of the data: identification or evaluation.")]
Part = Annotated[str | None, typer.Option(help="K/N: do the K-th of N parts of the shards only, counted from 0.")]
ShardSize = Annotated[int, typer.Option(help="Examples a shard.")]
Workers = Annotated[int, typer.Option(help="Processes that prepare text and pictures ahead of the model.")]
Remote = Annotated[str | None, typer.Option(help="ndif, or a server's address: the model runs there.")]
Dtype = Annotated[str, typer.Option(help="Of the weights: float32, bfloat16, ...; auto takes the checkpoint's.")]
Map = Annotated[str | None, typer.Option(help="auto spreads the model over the devices there are.")]


@app.command()
def record(
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
    seed: Seed = 0,
    batch_size: BatchSize = "16",
    shard_size: ShardSize = 256,
    max_new_tokens: NewTokens = 20,
    workers: Workers = 0,
    part: Part = None,
    remote: Remote = None,
    dtype: Dtype = "auto",
    device_map: Map = None,
) -> None:
    """Count what a site's neurons do; continue where an earlier run stopped.

    Example: accelerate launch -m gatescope record --model MODEL --data cvqa --run runs/cvqa
    """
    from gatescope.record import record_classes

    examples, own = _examples(data, path, half, group, seed)
    found = record_classes(
        _model(model, remote, dtype, device_map),
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
        part=_part(part),
    )
    _done(run, "record", bool(found))


@app.command()
def attribute(
    model: Model,
    data: Data,
    run: Out,
    path: Where = None,
    half: Half = "identification",
    site: Annotated[list[str] | None, typer.Option(help="May be given again; gate_pre, q, k, v if not given.")] = None,
    reduce: Annotated[str, typer.Option(help="Over tokens: max, mean or norm.")] = "max",
    name: Annotated[str, typer.Option(help="Of these attributions in the run, such as control.")] = "",
    group: Groups = None,
    seed: Seed = 0,
    batch_size: BatchSize = "8",
    shard_size: ShardSize = 256,
    workers: Workers = 0,
    remote: Remote = None,
    dtype: Dtype = "auto",
    device_map: Map = None,
) -> None:
    """Score how much every neuron raises the probability of the right answer.

    Example: gatescope attribute --model MODEL --data blend --run runs/culnig --name culture
    """
    from gatescope.attribute import attribute as score

    examples, _ = _examples(data, path, half, group, seed)
    score(
        _model(model, remote, dtype, device_map),
        examples,
        sites=site or ("gate_pre", "q", "k", "v"),
        reduce=reduce,
        run=run,
        name=name,
        batch_size=size(batch_size),
        shard_size=shard_size,
        workers=workers,
        remote=_server(remote),
    )
    _done(run, f"attribute of {name}" if name else "attribute", True)


@app.command()
def select(
    run: Annotated[Path, typer.Argument(help="A run with a recording.")],
    selector: Annotated[list[str] | None, typer.Option(help="RND, LAP, LAPE, MAD or CAS; may be given again.")] = None,
    rate: Rate = 0.01,
    rho: Annotated[float | None, typer.Option(help="LAPE: percentage of lowest entropy to choose from.")] = None,
) -> None:
    """Choose neurons for each group from a run's counters, and keep them in it.

    Example: gatescope select runs/cvqa --selector CAS --selector MAD --rate 0.01
    """
    from gatescope.runs import Run
    from gatescope.study import COUNTED

    opened = Run.open(run)
    counters = opened.counters.with_tokens()
    for name in selector or ["CAS"]:
        one_of("selector", name, tuple(COUNTED))
        chosen = COUNTED[name](counters, rate, **({"rho": rho} if name == "LAPE" else {}))
        opened.add_selection(chosen)
        typer.echo(chosen.report())


@app.command()
def sweep(
    model: Model,
    data: Data,
    run: Annotated[Path, typer.Option(help="A run with selections; the answers are kept in it.")],
    path: Where = None,
    half: Half = "evaluation",
    group: Groups = None,
    readout: Readout = None,
    seed: Seed = 0,
    batch_size: BatchSize = "16",
    shard_size: ShardSize = 256,
    together: Annotated[int | None, typer.Option(help="Masks side by side in one batch; as many as fit if not given.")] = None,
    max_new_tokens: NewTokens = 20,
    workers: Workers = 0,
    remote: Remote = None,
    dtype: Dtype = "auto",
    device_map: Map = None,
    as_json: AsJson = False,
) -> None:
    """Answer questions with the full model and with each group's neurons switched off.

    Example: gatescope sweep --model MODEL --data cvqa --run runs/cvqa
    """
    from gatescope.evaluate.sweep import sweep as ask
    from gatescope.intervene import ablate
    from gatescope.runs import Run

    chosen = Run.open(run).selections
    if not chosen:
        raise GatescopeError(f"{run} has no selections yet; make some with `gatescope select {run}`.")
    masks = {name: {g: ablate(neurons) for g, neurons in selection.items()} for name, selection in chosen.items()}
    examples, own = _examples(data, path, half, group, seed)
    table = ask(
        _model(model, remote, dtype, device_map),
        examples,
        masks,
        run=run,
        batch_size=size(batch_size),
        shard_size=shard_size,
        together=together,
        readout=readout or own,
        max_new_tokens=max_new_tokens,
        workers=workers,
        remote=_server(remote),
    )
    typer.echo(effects_as_json(table) if as_json else str(table.self_cross()))


def _examples(data: str, path: Path | None, half: str, groups: list[str] | None, seed: int) -> tuple[Any, str]:
    from gatescope.data import registry

    one_of("half", half, ("identification", "evaluation"))
    study = registry.load(data, path, seed=seed, **({"groups": groups} if groups else {}))
    return getattr(study, half), study.readout


def _model(model: str, remote: str | None, dtype: str, device_map: str | None):
    """The model; without weights if it runs elsewhere, on its own device if there are several processes."""
    import torch

    from gatescope.models import load_model
    from gatescope.remote import load_client

    if remote is not None:
        return load_client(model)
    placed: Any = device_map
    if device_map is None and torch.cuda.is_available():
        placed = {"": int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()}
    return load_model(model, dtype=dtype, device_map=placed)


def _server(remote: str | None) -> bool | str | None:
    return True if remote == "ndif" else remote


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and int(k) < int(n)):
        raise GatescopeError(f"--part is {text!r}; it must be K/N with K from 0 to N - 1, such as 0/4.")
    return int(k), int(n)


def _done(run: Path, step: str, finished: bool) -> None:
    from gatescope.runs import Run
    from gatescope.shards import Shards, first

    if not first():
        return
    shards = Shards.of(Run.open(run), step)
    left = len(shards.missing)
    typer.echo(f"{run}: {len(shards) - left} of {len(shards)} shards done" + ("" if finished else "; the others are not"))
