"""Run directories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatescope.cli.common import AsJson, as_json, runs
from gatescope.core.filenames import distinct

if TYPE_CHECKING:
    from gatescope.steps.run import Run
    from gatescope.steps.shards import Shards

SAID = ("site", "sites", "tokens", "readout", "reduce", "dtype")  # of a step
Directory = Annotated[Path, typer.Argument(help="A run directory.")]


@runs.command()
def show(run: Directory, json: AsJson = False) -> None:
    """Show what a run consists of, and how far it has got.

    Example: gatescope runs show runs/cvqa
    """
    from gatescope.steps.run import Run

    opened = Run.open(run)
    if json:
        typer.echo(as_json(_facts(opened)))
        return
    model = opened.manifest["model"]
    typer.echo(f"{run}\n  model      {model['id']} {model['revision']} {model['dtype']}")
    for step, shards in opened.steps.items():
        typer.echo(f"  {step:10} {_progress(shards)}")
    for name, selection in opened.selections.items():
        typer.echo(f"  selection  {name}: {', '.join(f'{g} {len(s)}' for g, s in selection.items())}")


def _facts(run: Run) -> dict[str, Any]:
    """The manifest, its steps apart and their shards as numbers."""
    manifest, steps = run.manifest, {}
    for step, shards in run.steps.items():
        # The plan has every example's id; its length is all that a reader needs.
        steps[step] = manifest.pop(step) | {"shards": len(shards), "missing": shards.missing}
    return manifest | {"steps": steps}


def _progress(shards: Shards) -> str:
    """How far a step is, how many examples it is of, and what it is."""
    left = len(shards.missing)
    state = f"{len(shards) - left} of {len(shards)} shards done" if left else "done"
    examples = sum(len(batch) for shard in shards.metadata["shards"] for batch in shard)
    said = [f"{name} {shards.metadata[name]}" for name in SAID if name in shards.metadata]
    return f"{state}: {examples} examples; {', '.join(said)}"


@runs.command()
def verify(run: Directory) -> None:
    """Check every file of a run; exit code 1 if one is missing, truncated, altered, another run's or not of the run at all.

    Example: gatescope runs verify runs/cvqa
    """
    from gatescope.steps.run import Run

    opened = Run.open(run)
    wrong = opened.verify()
    for line in wrong:
        typer.echo(line)
    if wrong:
        raise typer.Exit(1)
    if opened.files is None:
        typer.echo(f"{run}: every shard is there and whole; its other files cannot be checked, as the first release bound none")
    else:
        typer.echo(f"{run}: every file is there and whole")


@runs.command()
def merge(
    run: Directory,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the merged files; the run's own `merged` if not given.")
    ] = None,
) -> None:
    """Add up a run's shards, in order, and write the sums as files that can be opened on their own.

    Example: gatescope runs merge runs/cvqa
    """
    from gatescope.steps.run import Run

    opened = Run.open(run)
    where = out or run / "merged"
    merged: list[Path] = []
    for tokens in opened.manifest.get("record", {}).get("tokens", ()):
        merged.append(where / f"counters.{tokens}.safetensors")
        opened.counters_of(tokens).save(merged[-1])
        typer.echo(str(merged[-1]))
    for name, scores in opened.attributions.items():
        taken = [file.name.removeprefix("attributions.").removesuffix(".safetensors") for file in merged]
        merged.append(where / f"attributions{name and '.' + distinct(name, taken)}.safetensors")
        scores.save(merged[-1])
        typer.echo(str(merged[-1]))
    opened.bind_written(merged)
