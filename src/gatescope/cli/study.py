"""A whole study in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatescope.cli.common import (
    AsJson,
    AttentionRate,
    BatchSize,
    Data,
    Dtype,
    ExcludeRate,
    Groups,
    Map,
    MlpRate,
    Model,
    Out,
    Rate,
    Readout,
    Rho,
    Seed,
    Where,
    ZScore,
    app,
    as_json,
    check_culnig,
    check_rho,
    culnig_of,
    effects_of,
    given,
    new_tokens,
    page_of,
    placed,
    questions,
    size,
)
from gatescope.core.errors import GatescopeError

MEANING = "self: a group's neurons are off, its own questions are asked; cross: those of other groups; gap: the difference"


@app.command("study")
def whole(
    model: Model,
    data: Data,
    out: Out,
    path: Where = None,
    rate: Rate = None,
    selector: Annotated[
        list[str] | None, typer.Option(help="RND, LAP, LAPE, MAD, CAS or ATT; may be given again. RND, LAP, MAD, CAS if not.")
    ] = None,
    rho: Rho = None,
    control: Annotated[
        bool, typer.Option("--control", help="CULNIG: attribution, less that of the same data without questions.")
    ] = False,
    exclude: Annotated[
        str | None, typer.Option(help="CULNIG: data whose top neurons are superficial; NAME, NAME=PATH or a .jsonl file.")
    ] = None,
    neutral: Annotated[
        list[str] | None, typer.Option(help="CULNIG: data without culture to evaluate on as well; may be given again.")
    ] = None,
    mlp_rate: MlpRate = None,
    attention_rate: AttentionRate = None,
    exclude_rate: ExcludeRate = None,
    z: ZScore = None,
    group: Groups = None,
    site: Annotated[
        str | None, typer.Option(help="Which neurons: gate, gate_pre, up, hidden, q, k or v; gate if not given.")
    ] = None,
    readout: Readout = None,
    skip_broken_pictures: Annotated[bool, typer.Option("--skip-broken-pictures", help="Decode every picture first.")] = False,
    seed: Seed = None,
    batch_size: BatchSize = "16",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="At most this many tokens an answer, where answers are generated; 20 if not given.")
    ] = None,
    dtype: Dtype = "auto",
    device_map: Map = None,
    report: Annotated[bool, typer.Option(help="Write OUT/report.html.")] = True,
    json: AsJson = False,
) -> None:
    """Find and switch off neurons in your model, on your questions or on a benchmark by name.

    Example: gatescope study --model Qwen/Qwen2.5-VL-7B-Instruct --data questions.jsonl --rate 0.01 --out runs/mine

    Example: gatescope study --model google/gemma-3-12b-it --data blend --control --exclude countryrc --out runs/culnig
    """
    from gatescope.data import registry
    from gatescope.studies.culnig import published_readout, run_culnig
    from gatescope.studies.vlm import run_study

    rates = given(mlp_rate=mlp_rate, attention_rate=attention_rate, exclude_rate=exclude_rate, z=z)
    check_culnig(rates, control, exclude is not None, "add --exclude" if control else "add --control")
    if control and (rho is not None or selector):
        raise GatescopeError("--control runs CULNIG, which has its own selectors; leave --selector and --rho out.")
    if control and site is not None:
        raise GatescopeError(f"--site is {site!r}, and CULNIG (--control) is of gate_pre, q, k and v together; leave it out.")
    selector = [name.upper() for name in selector or ()]
    if "CULNIG" in selector:
        raise GatescopeError("CULNIG compares data with its control: give --control in place of --selector CULNIG.")
    if (exclude or neutral) and not control:
        raise GatescopeError("--exclude and --neutral are for attribution; add --control.")
    if selector:
        check_rho(rho, selector)
    study = questions(data, path, group, seed, skip_broken_pictures)
    if control:
        tasks = {"culture": study, "control": registry.load_control(data, path, seed=seed, groups=group or None)}
        tasks |= {"reading": registry.load(*registry.named(exclude), groups=group or None)} if exclude else {}
        for text in neutral or ():
            name, where = registry.named(text)
            if (task := Path(name).stem) in tasks:
                raise GatescopeError(f"--neutral {text}: there is a task {task!r} already; call the file something else.")
            tasks[task] = registry.load(name, where)
        read_by = {readout or published_readout(of) for task, of in tasks.items() if task != "control"}
        most = new_tokens(max_new_tokens, read_by)
        loaded, how = placed(model, dtype, device_map), rates | given(rate=rate)
        found = run_culnig(loaded, tasks, out=out, batch_size=size(batch_size), readout=readout, max_new_tokens=most, **how)
        page = page_of(out, study.evaluation) if report else None
        typer.echo(as_json(culnig_of(found)) if json else culnig_told(model, found, out, page))
        return
    most = new_tokens(max_new_tokens, [readout or study.readout])
    result = run_study(
        placed(model, dtype, device_map),
        study,
        rate=0.01 if rate is None else rate,
        out=out,
        selectors=list(selector) or ["RND", "LAP", *(["LAPE"] if rho is not None else []), "MAD", "CAS"],
        options={"LAPE": {"rho": rho}} if rho is not None else {},
        site=site or "gate",
        readout=readout,
        batch_size=size(batch_size),
        max_new_tokens=most,
    )
    page = page_of(out, study.evaluation) if report else None
    if json:
        typer.echo(as_json(effects_of(result.table, result.intervals)))
    else:
        describe(model, study, result, out, page)


def culnig_told(model: object, result, out: Path | None, page: Path | None) -> str:
    """What CULNIG found, as it is printed."""
    from gatescope.studies.culnig import UNFILTERED

    note = "\nnote: no --exclude, so neurons that reading comprehension needs are kept\n"
    kept = "" if UNFILTERED in result.accuracy else note
    lines = [f"\nmodel  {model}", *([f"run    {out}"] if out else []), *([f"report {page}"] if page else [])]
    return "\n".join([*lines, f"\n{result}\n{kept}"])


def describe(model: object, study, result, out: Path | None, page: Path | None = None) -> None:
    """Print what a study found."""
    site = result.counters.layout
    accuracy = result.table.accuracy()
    typer.echo(f"\nmodel       {model}")
    typer.echo(f"site        {site}; {next(iter(result.selections.values())).wanted} switched off for each group")
    typer.echo(f"examples    {len(study.identification)} to identify on, {len(study.evaluation)} to evaluate on")
    if shared := study.notes.get("shared"):
        typer.echo(f"            {shared}")
    typer.echo(f"read-out    {result.counters.origin['readout']}: how answers were read (--readout)")
    typer.echo(f"accuracy    {float(accuracy.mean()):.1f}% unmasked, mean of {len(accuracy)} groups")
    if out is not None:
        typer.echo(f"run         {out}")
        typer.echo(f"report      {page}" if page else f"report      none yet: gatescope report {out}")
        typer.echo(f"neurons     gatescope neurons {out} --out DIR writes them as files")
    typer.echo(f"\n{result}\n\n{MEANING}\n")
