"""What a run found, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatescope.cli.common import Groups, Seed, Where, app, questions
from gatescope.cli.loading import allowed
from gatescope.core.errors import GatescopeError

if TYPE_CHECKING:
    from gatescope.data.example import Example


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="A run directory; several to compare them.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; RUN/report.html if not given.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="The run's data, for what the run does not hold: pictures that are not files of their own."),
    ] = None,
    path: Where = None,
    group: Groups = None,
    seed: Seed = None,
    allow: Annotated[
        str | None, typer.Option(help="same-layout: in a comparison, how far the neurons of different models overlap, too.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Write the figures as PNG and SVG files too.")] = True,
) -> None:
    """Write what a run found as one HTML page, with figures and CSV beside it; or several runs side by side.

    Example: gatescope report runs/mine

    Example: gatescope report runs/qwen runs/llava --out comparison.html
    """
    # Under another name: `report` is this command.
    from gatescope.reports import report as write
    from gatescope.steps.run import Run

    if data is None and (path is not None or group or seed is not None):
        raise GatescopeError(
            "--path, --group and --seed go with --data, which was not given: add it, or leave them out to see the questions "
            "that the run holds."
        )
    if len(runs) > 1:
        typer.echo(str(_comparison(runs, out, data, figures, allow)))
        return
    if allow is not None:
        raise GatescopeError("--allow is for a comparison of several runs, and one was given: leave it out, or add the others.")
    examples: Sequence[Example] = ()
    if data is not None:
        # Examples left out by the study must be left out again, or the two lists would differ.
        skip_broken = "broken pictures" in Run.open(runs[0]).manifest.get("study", {})
        examples = questions(data, path, group, seed, skip_broken).evaluation
    typer.echo(str(write(runs[0], out, examples=examples, figures=figures)))


def _comparison(runs: list[Path], out: Path | None, data: str | None, figures: bool, allow: str | None) -> Path:
    from gatescope.reports import compare

    if out is None:
        raise GatescopeError("A comparison of several runs needs --out, the page to write.")
    if data is not None or not figures:
        raise GatescopeError(
            "A comparison of several runs shows no questions and writes no figure files: leave --data and --no-figures out."
        )
    return compare(runs, out, allow=allowed(allow))
