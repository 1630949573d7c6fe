"""What gatescope sees in a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from gatescope.cli.common import AsJson, Where, app, as_json
from gatescope.cli.loading import Loading, loads_a_model
from gatescope.core.errors import GatescopeError


@app.command()
@loads_a_model
def tokens(
    loading: Loading,
    model: Annotated[str, typer.Argument(help="A Hugging Face hub id, or a local directory.")],
    data: Annotated[str, typer.Argument(help="A dataset by name, or a .jsonl file.")],
    id: Annotated[str | None, typer.Option(help="Which example; the first if not given.")] = None,
    path: Where = None,
) -> None:
    """Show which tokens of an example count, and which do not.

    Example: gatescope tokens ./model questions.jsonl --id 17
    """
    from gatescope.data import registry
    from gatescope.traces.encoding import TOKEN_RULE, collate

    questions = registry.load(data, path)
    examples = [*questions.identification, *questions.evaluation]
    chosen = next((e for e in examples if id in (None, e.id)), None)
    if chosen is None:
        raise GatescopeError(f"{data} has no example {id!r}.")
    loaded = loading.loaded(model)
    batch = collate(loaded, [chosen])
    pieces = loaded.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
    typer.echo(f"{chosen.id}: {int(batch.token_mask.sum())} of {len(pieces)} tokens count ({TOKEN_RULE}).")
    for piece, counts in zip(pieces, batch.token_mask[0].tolist(), strict=True):
        typer.echo(f"  {'counts' if counts else '-':8}{piece}")


@app.command()
@loads_a_model
def doctor(
    loading: Loading,
    model: Annotated[str | None, typer.Argument(help="A Hugging Face hub id, or a local directory.")] = None,
    random_weights: Annotated[
        str | None, typer.Option(help="Instead: a config (hub id, directory or file) to check shrunk, without its weights.")
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Instead: what transformers offers, and what is known of each family.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check that gatescope reads and edits a model exactly as plain PyTorch hooks do; exit code 0 only if it does.

    Example: gatescope doctor Qwen/Qwen2.5-VL-7B-Instruct
    """
    from gatescope import doctor as ward

    if [model is not None, random_weights is not None, families].count(True) != 1:
        raise GatescopeError("Give a model, or --random-weights with a config, or --families, and only one of them.")
    if families:
        known = ward.families()
        typer.echo(as_json([asdict(family) for family in known]) if json else ward.table(known))
        return
    report = ward.examine(loading.placed(model) if model is not None else ward.random_model(str(random_weights)))
    typer.echo(as_json(asdict(report) | {"healthy": report.healthy}) if json else str(report))
    if not report.healthy:
        # For scripts: a model that fails must stop what comes after.
        raise typer.Exit(1)
