"""A whole study in one command."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatescope.cli.common import (
    Actors,
    AsJson,
    AttentionRate,
    BatchSize,
    Data,
    ExcludeRate,
    Executor,
    GpusPerActor,
    Groups,
    MlpRate,
    Model,
    Out,
    Rate,
    RayAddress,
    Readout,
    Rho,
    Seed,
    Where,
    ZScore,
    app,
    as_json,
    check_culnig,
    check_rho,
    cluster_of,
    culnig_of,
    effects_of,
    given,
    new_tokens,
    page_of,
    questions,
    size,
)
from gatescope.cli.loading import Loading, loads_a_model
from gatescope.core.errors import GatescopeError

if TYPE_CHECKING:  # for the command line's help, which loads no torch
    from nnsight import TransformersModel

    from gatescope.data.example import Study
    from gatescope.studies.culnig_result import CulnigResult
    from gatescope.studies.vlm import Result

MEANING = "self: a group's neurons are off, its own questions are asked; cross: those of other groups; gap: the difference"


@app.command("study")
@loads_a_model
def study_command(
    loading: Loading,
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
    executor: Executor = None,
    ray_address: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    report: Annotated[bool, typer.Option(help="Write OUT/report.html.")] = True,
    json: AsJson = False,
) -> None:
    """Find and switch off neurons in your model, on your questions or on a benchmark by name.

    Example: gatescope study --model Qwen/Qwen2.5-VL-7B-Instruct --data questions.jsonl --rate 0.01 --out runs/mine

    Example: gatescope study --model google/gemma-3-12b-it --data blend --control --exclude countryrc --out runs/culnig
    """
    rates = given(mlp_rate=mlp_rate, attention_rate=attention_rate, exclude_rate=exclude_rate, z=z)
    check_culnig(rates, control, exclude is not None, "add --exclude" if control else "add --control")
    selectors = [name.upper() for name in selector or ()]
    _check_selectors(selectors, control, site, rho)
    if (exclude or neutral) and not control:
        raise GatescopeError("--exclude and --neutral are for attribution; add --control.")
    cluster = cluster_of(executor, ray_address, actors, gpus_per_actor, loading.device_map)
    # All that can be refused without the data has been by now: reading it may take minutes.
    study = questions(data, path, group, seed, skip_broken_pictures)
    shared = {"out": out, "readout": readout, "batch_size": size(batch_size), "executor": cluster}
    job = Job(model, loading, shared, max_new_tokens, report, json)
    with cluster or contextlib.nullcontext():  # a cluster's actors stay for all steps of the study
        if control:
            tasks = _culnig_tasks(study, data, path, seed, group, exclude, neutral or ())
            _run_culnig(job, tasks, rates | given(rate=rate))
        else:
            options = {"LAPE": {"rho": rho}} if rho is not None else {}
            chosen = {"selectors": selectors or _usual_selectors(rho), "options": options}
            _run_study(job, study, **({"rate": 0.01, "site": "gate"} | given(rate=rate, site=site) | chosen))


@dataclass(frozen=True)
class Job:
    """What both kinds of study are run with.

    Attributes:
        model, loading: which model, and how it is loaded.
        options: keyword arguments of both.
        max_new_tokens: as it was given.
        report, json: what is written, and printed.
    """

    model: str
    loading: Loading
    options: dict[str, Any]
    max_new_tokens: int | None
    report: bool
    json: bool

    def loaded(self) -> TransformersModel:
        """The model where it will run."""
        return self.loading.placed(self.model, self.options["executor"])

    def page(self, study: Study) -> Path | None:
        """The report, where one is wanted."""
        # With the examples, for pictures of a benchmark lie in its tables, and a run keeps the paths of files.
        return page_of(self.options["out"], study.evaluation) if self.report else None


def _check_selectors(selectors: list[str], control: bool, site: str | None, rho: float | None) -> None:
    """Refuse what does not go together."""
    if control and (rho is not None or selectors):
        raise GatescopeError("--control runs CULNIG, which has its own selectors; leave --selector and --rho out.")
    if control and site is not None:
        raise GatescopeError(f"--site is {site!r}, and CULNIG (--control) always uses gate_pre, q, k and v; leave it out.")
    # `gatescope select` has it among its selectors, so users try it here.
    if "CULNIG" in selectors:
        raise GatescopeError("CULNIG compares data with its control: give --control in place of --selector CULNIG.")
    if selectors:
        check_rho(rho, selectors)


def _usual_selectors(rho: float | None) -> list[str]:
    """Those of the VLM paper; LAPE where its rho is given."""
    lape = ["LAPE"] if rho is not None else []
    return ["RND", "LAP", *lape, "MAD", "CAS"]


def _culnig_tasks(
    study: Study,
    data: str,
    path: Path | None,
    seed: int | None,
    group: list[str] | None,
    exclude: str | None,
    neutral: Sequence[str],
) -> dict[str, Study]:
    """The questions, their control, and what else CULNIG is run on."""
    from gatescope.data import registry

    tasks = {"culture": study, "control": registry.load_control(data, path, seed=seed, groups=group or None)}
    if exclude:
        tasks["reading"] = registry.load(*registry.named(exclude), groups=group or None)
    for text in neutral:
        name, where = registry.named(text)
        task = Path(name).stem
        if task in tasks:
            raise GatescopeError(f"--neutral {text}: there is a task {task!r} already; call the file something else.")
        tasks[task] = registry.load(name, where)
    return tasks


def _run_culnig(job: Job, tasks: dict[str, Study], rates: dict[str, Any]) -> None:
    from gatescope.studies.culnig import published_readout, run_culnig

    read_by = {
        job.options["readout"] or published_readout(task_study) for task, task_study in tasks.items() if task != "control"
    }
    most = new_tokens(job.max_new_tokens, read_by)
    result = run_culnig(job.loaded(), tasks, max_new_tokens=most, **job.options, **rates)
    page = job.page(tasks["culture"])
    typer.echo(as_json(culnig_of(result)) if job.json else culnig_told(job.model, result, job.options["out"], page))


def _run_study(job: Job, study: Study, **options: Any) -> None:
    from gatescope.studies.vlm import run_study

    most = new_tokens(job.max_new_tokens, [job.options["readout"] or study.readout])
    result = run_study(job.loaded(), study, max_new_tokens=most, **job.options, **options)
    page = job.page(study)
    if job.json:
        typer.echo(as_json(effects_of(result.table, result.intervals)))
    else:
        describe(job.model, study, result, job.options["out"], page)


def culnig_told(model: object, result: CulnigResult, out: Path | None, page: Path | None) -> str:
    """What CULNIG found, as it is printed."""
    from gatescope.studies.culnig import UNFILTERED

    note = "\nnote: no --exclude, so neurons that reading comprehension needs are kept\n"
    warning = "" if UNFILTERED in result.accuracy else note
    lines = [f"\nmodel  {model}", *([f"run    {out}"] if out else []), *([f"report {page}"] if page else [])]
    return "\n".join([*lines, f"\n{result}\n{warning}"])


def describe(model: object, study: Study, result: Result, out: Path | None, page: Path | None = None) -> None:
    """Print what a study found."""
    site = result.counters.layout
    accuracy = result.table.accuracy()
    typer.echo(f"\nmodel       {model}")
    typer.echo(f"site        {site}; {next(iter(result.selections.values())).wanted} switched off for each group")
    typer.echo(f"examples    {len(study.identification)} to identify on, {len(study.evaluation)} to evaluate on")
    if shared := study.notes.get("shared"):
        typer.echo(f"            {shared}")
    typer.echo(f"read-out    {result.counters.provenance['readout']}: how answers were read (--readout)")
    typer.echo(f"accuracy    {float(accuracy.mean()):.1f}% unmasked, mean of {len(accuracy)} groups")
    if out is not None:
        typer.echo(f"run         {out}")
        typer.echo(f"report      {page}" if page else f"report      none yet: gatescope report {out}")
        typer.echo(f"neurons     gatescope neurons {out} --out DIR writes them as files")
    typer.echo(f"\n{result}\n\n{MEANING}\n")
