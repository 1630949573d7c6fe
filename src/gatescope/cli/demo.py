"""What there is to see without a model of one's own."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import typer

from gatescope.cli.common import AsJson, app, as_json, culnig_of, effects_of, page_of
from gatescope.cli.study import culnig_told, describe


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Run directory to keep, with a report; none is kept if not given.")] = None,
    selector: Annotated[
        list[str] | None, typer.Option(help="RND, LAP, MAD, CAS or ATT; may be given again. RND and CAS if not.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Find and switch off the culture neurons of a tiny model in which they are known.

    Example: gatescope demo --out runs/demo
    """
    import tempfile

    from gatescope import organism
    from gatescope.models.load import load_model
    from gatescope.studies.vlm import run_study

    ours = organism.load()
    # A study needs a run directory even where nobody wants to keep it.
    with tempfile.TemporaryDirectory() as scratch:
        where = out or Path(scratch) / "demo"
        chosen: dict[str, Any] = {"selectors": [name.upper() for name in selector]} if selector else {}
        result = run_study(load_model(ours.path), ours.study, rate=0.01, out=where, known=ours.known, **chosen)
        page = page_of(out) if out is not None else None
        if json:
            typer.echo(as_json(effects_of(result.table, result.intervals) | {"precision": result.precision}))
        else:
            describe(ours.path, ours.study, result, out, page)


@app.command()
def culnig(
    mlp_rate: Annotated[float, typer.Option(help="Share of the MLP's gate neurons to take as culture-general.")] = 0.01,
    attention_rate: Annotated[float, typer.Option(help="Share of the attention's q, k, v neurons to take.")] = 0.002,
    exclude_rate: Annotated[float, typer.Option(help="Share that counts as superficial, by the reading set.")] = 0.01,
    out: Annotated[Path | None, typer.Option(help="Run directory to keep, with a report; none if not given.")] = None,
    json: AsJson = False,
) -> None:
    """Run CULNIG on a tiny language model in which culture neurons are known: four tasks, ten random sets.

    Example: gatescope culnig --mlp-rate 0.1 --exclude-rate 0.1
    """
    from gatescope.models.load import load_model
    from gatescope.organism import text
    from gatescope.studies.culnig import run_culnig

    ours = text.load()
    # The organism knows its general neurons and each country's: all carry culture.
    known = reduce(or_, ours.specific.values(), ours.general)
    result = run_culnig(
        load_model(ours.path),
        ours.tasks,
        mlp_rate=mlp_rate,
        attention_rate=attention_rate,
        exclude_rate=exclude_rate,
        known=known,
        out=out,
    )
    page = page_of(out) if out is not None else None
    typer.echo(as_json(culnig_of(result)) if json else culnig_told(ours.path, result, out, page))
