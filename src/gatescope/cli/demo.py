"""What there is to see without a model of one's own."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated

import typer

from gatescope.cli.common import app
from gatescope.cli.study import describe


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Run directory to keep; a temporary one if not given.")] = None,
) -> None:
    """Find and switch off the culture neurons of a tiny model in which they are known.

    Example: gatescope demo
    """
    import tempfile

    from gatescope import organism
    from gatescope.models import load_model
    from gatescope.study import run_study

    ours = organism.load()
    with tempfile.TemporaryDirectory() as scratch:
        where = out or Path(scratch) / "demo"
        result = run_study(load_model(ours.path), ours.study, rate=0.01, out=where, known=ours.known)
        describe(ours.path, ours.study, result, out)


@app.command()
def culnig(
    mlp_rate: Annotated[float, typer.Option(help="Share of the MLP's gate neurons to take as culture-general.")] = 0.01,
    attention_rate: Annotated[float, typer.Option(help="Share of the attention's q, k, v neurons to take.")] = 0.002,
    exclude_rate: Annotated[float, typer.Option(help="Share that counts as superficial, by the reading set.")] = 0.01,
) -> None:
    """Run CULNIG on a tiny language model in which culture neurons are known: four tasks, ten random sets.

    Example: gatescope culnig --mlp-rate 0.1 --exclude-rate 0.1
    """
    from gatescope.culnig import run_culnig
    from gatescope.models import load_model
    from gatescope.organism import text

    ours = text.load()
    known = reduce(or_, ours.specific.values(), ours.general)
    result = run_culnig(
        load_model(ours.path),
        ours.tasks,
        mlp_rate=mlp_rate,
        attention_rate=attention_rate,
        exclude_rate=exclude_rate,
        known=known,
    )
    typer.echo(f"\nmodel  {ours.path}\n\n{result}\n")
