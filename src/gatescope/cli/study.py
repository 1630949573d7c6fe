"""A whole study in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from gatescope.errors import GatescopeError


@app.command()
def study(
    model: Model,
    data: Data,
    out: Out,
    path: Where = None,
    rate: Rate = 0.01,
    selector: Annotated[
        list[str] | None, typer.Option(help="RND, LAP, LAPE, MAD, CAS or ATT; may be given again. RND, LAP, MAD, CAS if not.")
    ] = None,
    rho: Annotated[float | None, typer.Option(help="LAPE: percentage of lowest entropy to choose from.")] = None,
    control: Annotated[
        bool, typer.Option("--control", help="CULNIG: attribution, less that of the same data without questions.")
    ] = False,
    exclude: Annotated[
        str | None, typer.Option(help="CULNIG: data whose top neurons are superficial; NAME, NAME=PATH or a .jsonl file.")
    ] = None,
    neutral: Annotated[
        list[str] | None, typer.Option(help="CULNIG: data without culture to evaluate on as well; may be given again.")
    ] = None,
    group: Groups = None,
    site: Site = "gate",
    readout: Readout = None,
    skip_broken_pictures: Annotated[bool, typer.Option("--skip-broken-pictures", help="Decode every picture first.")] = False,
    seed: Seed = 0,
    batch_size: BatchSize = "16",
    max_new_tokens: NewTokens = 20,
    as_json: AsJson = False,
) -> None:
    """Find and switch off neurons in your model, on your questions or on a benchmark by name.

    Example: gatescope study --model Qwen/Qwen2.5-VL-7B-Instruct --data questions.jsonl --rate 0.01 --out runs/mine

    Example: gatescope study --model google/gemma-3-12b-it --data blend --control --exclude countryrc --out runs/culnig
    """
    from gatescope.data import registry, without_broken_pictures
    from gatescope.models import load_model
    from gatescope.study import run_study

    chosen = {"groups": group} if group else {}
    questions = registry.load(data, path, seed=seed, **chosen)
    if skip_broken_pictures:
        questions = without_broken_pictures(questions)
    if control:
        if rho is not None or selector:
            raise GatescopeError("--control runs CULNIG, which has its own selectors; leave --selector and --rho out.")
        tasks = {"culture": questions, "control": registry.load_control(data, path, **chosen)}
        tasks |= {"reading": registry.load(*registry.named(exclude))} if exclude else {}
        for text in neutral or ():
            name, where = registry.named(text)
            tasks[Path(name).stem] = registry.load(name, where)
        _culnig(load_model(model), tasks, out, size(batch_size), readout)
        return
    if exclude or neutral:
        raise GatescopeError("--exclude and --neutral are for attribution; add --control.")
    result = run_study(
        load_model(model),
        questions,
        rate=rate,
        out=out,
        selectors=selector or ["RND", "LAP", *(["LAPE"] if rho is not None else []), "MAD", "CAS"],
        options={"LAPE": {"rho": rho}} if rho is not None else {},
        site=site,
        readout=readout,
        batch_size=size(batch_size),
        max_new_tokens=max_new_tokens,
    )
    if as_json:
        typer.echo(effects_as_json(result.table, result.intervals))
    else:
        describe(model, questions, result, out)


def _culnig(model, tasks, out: Path, batch_size: int | str, readout: str | None) -> None:
    from gatescope.culnig import run_culnig

    result = run_culnig(model, tasks, out=out, batch_size=batch_size, readout=readout)
    typer.echo(f"\nmodel  {model._module.config._name_or_path}\nrun    {out}\n\n{result}\n")


def describe(model: object, questions, result, out: Path | None) -> None:
    """Print what a study found."""
    site = result.counters.layout
    accuracy = result.table.accuracy()
    typer.echo(f"\nmodel       {model}")
    typer.echo(f"neurons     {site}; {next(iter(result.selections.values())).wanted} switched off for each group")
    typer.echo(f"examples    {len(questions.identification)} to identify on, {len(questions.evaluation)} to evaluate on")
    typer.echo(f"accuracy    {float(accuracy.mean()):.1f}% unmasked, mean of {len(accuracy)} groups")
    if out is not None:
        typer.echo(f"run         {out}")
    typer.echo(f"\n{result}\n")
