"""Run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatescope.cli.common import AsJson, as_json, runs

Directory = Annotated[Path, typer.Argument(help="A run directory.")]


@runs.command()
def show(run: Directory, json: AsJson = False) -> None:
    """What a run is of, and how far it is.

    Example: gatescope runs show runs/cvqa
    """
    from gatescope.steps.run import Run
    from gatescope.steps.shards import Shards

    opened = Run.open(run)
    model = opened.manifest["model"]
    if json:
        facts = {k: v for k, v in opened.manifest.items() if not isinstance(v, dict) or "shards" not in v}
        steps = {}
        for step in opened.manifest.keys() - facts.keys():
            shards = Shards.of(opened, step)
            rest = {name: value for name, value in shards.facts.items() if name != "shards"}
            steps[step] = rest | {"shards": len(shards), "missing": shards.missing}
        typer.echo(as_json(facts | {"steps": steps}))
        return
    typer.echo(f"{run}\n  model      {model['id']} {model['revision']} {model['dtype']}")
    for step, facts in opened.manifest.items():
        if not isinstance(facts, dict) or "shards" not in facts:
            continue
        shards = Shards.of(opened, step)
        left = len(shards.missing)
        size = sum(len(batch) for shard in facts["shards"] for batch in shard)
        state = "done" if not left else f"{len(shards) - left} of {len(shards)} shards done"
        told = ", ".join(f"{k} {facts[k]}" for k in ("site", "sites", "tokens", "readout", "reduce") if k in facts)
        typer.echo(f"  {step:10} {state}: {size} examples; {told}")
    for name, selection in opened.selections.items():
        typer.echo(f"  selection  {name}: {', '.join(f'{g} {len(s)}' for g, s in selection.items())}")


@runs.command()
def verify(run: Directory) -> None:
    """Check every file of a run; exit code 1 if one is missing, truncated, altered or another run's.

    Example: gatescope runs verify runs/cvqa
    """
    from gatescope.steps.run import Run

    wrong = Run.open(run).verify()
    for line in wrong:
        typer.echo(line)
    if wrong:
        raise typer.Exit(1)
    typer.echo(f"{run}: every shard is there and whole")


@runs.command()
def merge(
    run: Directory,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the merged files; the run's own `merged` if not given.")
    ] = None,
) -> None:
    """Add a run's shards up, in order, and write the sums as files that open by themselves.

    Example: gatescope runs merge runs/cvqa
    """
    from gatescope.steps.run import Run

    opened = Run.open(run)
    where = out or run / "merged"
    for tokens in opened.manifest.get("record", {}).get("tokens", ()):
        opened.counters_of(tokens).save(where / f"counters.{tokens}.safetensors")
        typer.echo(str(where / f"counters.{tokens}.safetensors"))
    for name, scores in opened.attributions.items():
        scores.save(where / f"attributions{name and '.'}{name}.safetensors")
        typer.echo(str(where / f"attributions{name and '.'}{name}.safetensors"))
