"""What the commands share: the application, and the options that mean the same everywhere."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatescope.core.environment import whole
from gatescope.core.errors import GatescopeError, one_of

if TYPE_CHECKING:  # for the command line's help, which loads no torch
    from gatescope.data.example import Example, Study
    from gatescope.select.selection import Selection
    from gatescope.statistics.metrics import SelfCross
    from gatescope.statistics.table import Effect, Effects, Table
    from gatescope.steps.cluster import Ray
    from gatescope.studies.culnig_result import CulnigResult

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the neurons of a (vision-)language model that matter for a group of inputs, and switch them off.",
)
datasets = typer.Typer(no_args_is_help=True, help="The benchmarks of both papers.")
app.add_typer(datasets, name="data")
runs = typer.Typer(no_args_is_help=True, help="Run directories: what they hold, and whether it is intact.")
app.add_typer(runs, name="runs")
remote = typer.Typer(no_args_is_help=True, help="Work on a server that has the weights, such as NDIF.")
app.add_typer(remote, name="remote")

Model = Annotated[str, typer.Option(help="A Hugging Face hub id, or a local directory.")]
Data = Annotated[str, typer.Option(help="A dataset by name (`gatescope data list`), or a .jsonl file of your own questions.")]
Where = Annotated[Path | None, typer.Option("--path", help="A local copy of the dataset; the hub if not given.")]
Rate = Annotated[
    float | None,
    typer.Option(
        help="Share of all neurons to select for each group, in (0, 1]; 0.01 if not given, 0.003 for CULNIG-specific."
    ),
]
Rho = Annotated[float | None, typer.Option(help="LAPE: percentage of lowest entropy to choose from.")]
MlpRate = Annotated[float | None, typer.Option(help="CULNIG-general: share of the MLP's gate neurons; 0.01 if not given.")]
AttentionRate = Annotated[
    float | None, typer.Option(help="CULNIG-general: share of the attention's q, k, v neurons; 0.002 if not given.")
]
ExcludeRate = Annotated[
    float | None, typer.Option(help="CULNIG: share that counts as superficial, by the reading set; 0.01 if not given.")
]
ZScore = Annotated[
    float | None, typer.Option("--z", help="CULNIG-specific: least z-score over all countries; 0.5 if not given.")
]
Out = Annotated[Path, typer.Option(help="Run directory; started, or continued where it stopped.")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="Only this group of a dataset; may be given again.")]
Site = Annotated[str, typer.Option(help="Which neurons: gate, gate_pre, up, hidden, q, k or v.")]
Readout = Annotated[str | None, typer.Option(help="How answers are read; the dataset's own way if not given.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the 50/50 split, where the data has none; 0 if not given.")]
BatchSize = Annotated[str, typer.Option(help="Examples a batch, or auto.")]
NewTokens = Annotated[int, typer.Option(help="At most this many tokens an answer.")]
Executor = Annotated[
    str | None, typer.Option(help="ray: the work is done by a Ray cluster (pip install 'gatescope[ray]'); here if not given.")
]
RayAddress = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster; one is started on this machine for the command if not given.")
]
Actors = Annotated[int | None, typer.Option(help="Ray: processes that compute, each with a copy of the model; 2 if not given.")]
GpusPerActor = Annotated[
    float | None, typer.Option(help="Ray: 0 for the CPU, 0.5 to share a GPU; 1 if not given where there is a GPU, else 0.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        for name in ("gatescope", "nnsight", "torch", "transformers"):
            typer.echo(f"{name:14}{version(name)}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Versions of gatescope and what it stands on.")
    ] = False,
) -> None:
    pass


def cluster_of(
    executor: str | None, address: str | None, actors: int | None, gpus: float | None, device_map: str | None = None
) -> Ray | None:
    """The cluster that was asked for; refuses options that would change nothing.

    Args:
        executor, address, actors, gpus, device_map: as they were given.
    """
    options = given(ray_address=address, actors=actors, gpus_per_actor=gpus)
    if executor is None:
        if options:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise GatescopeError(f"{names}: only a Ray cluster uses this. Add --executor ray, or leave it out.")
        return None
    one_of("--executor", executor, ("ray",))
    if device_map is not None:
        raise GatescopeError(
            "--device-map places the model of this process, and Ray's actors have their own: leave it out, and give the GPUs "
            "of each with --gpus-per-actor; with more than one the model is spread over them."
        )
    from gatescope.steps.cluster import Ray

    return Ray(address, gpus=gpus, **given(actors=actors))


def questions(data: str, path: Path | None, groups: list[str] | None, seed: int | None, skip_broken: bool = False) -> Study:
    """The data asked for; its notes say what was asked for, for a reader of the run.

    Args:
        data, path, groups, seed: as they were given.
        skip_broken: leave out, counted, examples whose picture cannot be decoded.
    """
    # Inside the function: --help and completion must not load torch.
    from gatescope.data import registry, without_broken_pictures

    study = registry.load(data, path, seed=seed, groups=groups or None)
    study = without_broken_pictures(study) if skip_broken else study
    # Absolute: a run may be opened from another directory.
    name = str(Path(data).resolve()) if os.path.isfile(data) else data
    notes = given(data=name, path=path and str(path.resolve()), seed=seed, groups=groups or None)
    if skip_broken:
        notes["broken pictures"] = "skipped"
    return replace(study, notes=study.notes | notes)


def selections_of(run: Path) -> dict[str, Selection]:
    """A run's selections.

    Raises:
        GatescopeError: if it has none yet.
    """
    from gatescope.steps.run import Run

    selections = Run.open(run).selections
    if not selections:
        raise GatescopeError(f"{run} has no selections yet; make some with `gatescope select {run}`.")
    return selections


def page_of(out: Path, examples: Sequence[Example] = ()) -> Path:
    """The run's report, without figure files: those need matplotlib, and `gatescope report` writes them.

    Args:
        out: the run.
        examples: what it was asked, where pictures may be in memory, of which a run keeps no path.
    """
    from gatescope.reports import report

    return report(out, examples=examples, figures=False)


def as_json(value: Any) -> str:
    """JSON for scripts; a NaN, where there is no such number, is null."""
    return json.dumps(_no_nan(value), ensure_ascii=False, indent=1, default=str)


def effects_of(table: Table, intervals: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Self, cross and gap of every selector, and the full model's accuracy, to be written as JSON."""
    accuracy = dict(zip(table.groups, table.accuracy().tolist(), strict=True))
    plain = {"accuracy": accuracy, "effects": _plain(table.self_cross())}
    return plain | {"intervals": dict(intervals)} if intervals else plain


def culnig_of(result: CulnigResult) -> dict[str, Any]:
    """What CULNIG found, to be written as JSON."""
    sizes: dict[str, Any] = {"general": len(result.general), "without exclusion": len(result.unfiltered)}
    sizes["specific"] = {group: len(neurons) for group, neurons in result.specific.items()}
    return {
        "accuracy": result.accuracy,
        "neurons": sizes,
        "p": {task: {"mean": test.mean, "single": test.single} for task, test in result.against_random.items()},
        "effects": _plain(result.effects),
        "precision": result.precision,
    }


def _plain(effects: Effects) -> dict[str, Any]:
    def values(means: SelfCross) -> dict[str, float]:
        return {"self": means.self_, "cross": means.cross, "gap": means.gap}

    def plain(effect: Effect) -> dict[str, Any]:
        both = {"accuracy": values(effect.accuracy), "flips": values(effect.flips)}
        return both | {"holes": effect.holes} if effect.holes else both

    return {effect.selector: plain(effect) for effect in effects.effects}


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def given(**options: Any) -> dict[str, Any]:
    """Those options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def check_culnig(rates: Mapping[str, Any], runs: bool, reads: bool, how: str) -> None:
    """Refuse CULNIG's rates where they would change nothing.

    Args:
        rates: those that were given, by the function's names.
        runs: whether CULNIG is run.
        reads: whether it has a reading set to exclude by.
        how: what makes it run, and what gives it a reading set.
    """
    if rates and not runs:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in rates)
        raise GatescopeError(f"{names}: only CULNIG uses this, and it is not run here. Leave it out, or {how}.")
    # An option that changes nothing is a misunderstanding, better cleared up before hours of work.
    if "exclude_rate" in rates and not reads:
        raise GatescopeError(f"--exclude-rate needs a reading set, and there is none: leave it out, or {how}.")


def check_rho(rho: float | None, selectors: Collection[str]) -> None:
    """Refuse LAPE's option where LAPE is not run."""
    if rho is not None and "LAPE" not in selectors:
        raise GatescopeError("--rho belongs to LAPE, which is not among the selectors: leave it out, or add --selector LAPE.")


def new_tokens(requested: int | None, readouts: Collection[str]) -> int:
    """At most how many tokens an answer.

    Raises:
        GatescopeError: if a number was asked for where no answer is generated.
    """
    from gatescope.traces.batch import GENERATED

    if requested is not None and not set(readouts) & set(GENERATED):
        raise GatescopeError(
            f"--max-new-tokens applies to generated answers, and these are read by {', '.join(sorted(set(readouts)))}: "
            f"leave it out, or choose a --readout that generates ({', '.join(GENERATED)})."
        )
    return 20 if requested is None else requested


def size(text: str) -> int | str:
    """A batch size as the functions take it, which refuse other words than "auto"."""
    value = whole(text)
    return text if value is None else value
