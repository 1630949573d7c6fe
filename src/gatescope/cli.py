"""The command line. A mistake ends in one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
import warnings
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated

import typer

from gatescope.errors import GatescopeError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the neurons of a (vision-)language model that matter for a group of inputs, and switch them off.",
)

Model = Annotated[str, typer.Option(help="A Hugging Face hub id, or a local directory.")]
Data = Annotated[Path, typer.Option(help="JSONL: id, group, question, choices, answer; optional image, split.")]
Rate = Annotated[float, typer.Option(help="Share of all neurons to select for each group, in (0, 1].")]
Out = Annotated[Path, typer.Option(help="Run directory; new or empty.")]


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
        _describe(ours.path, ours.study, result, out)


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


@app.command()
def study(
    model: Model,
    data: Data,
    out: Out,
    rate: Rate = 0.01,
    seed: Annotated[int, typer.Option(help="Of the 50/50 split, where the data has none.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples a batch.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="At most this many tokens an answer.")] = 20,
) -> None:
    """Find and switch off neurons in your model, on your questions.

    Example: gatescope study --model Qwen/Qwen2.5-VL-7B-Instruct --data questions.jsonl --rate 0.01 --out runs/mine
    """
    from gatescope.data import jsonl
    from gatescope.models import load_model
    from gatescope.study import run_study

    questions = jsonl(data, seed=seed)
    result = run_study(load_model(model), questions, rate=rate, out=out, batch_size=batch_size, max_new_tokens=max_new_tokens)
    _describe(model, questions, result, out)


@app.command()
def tokens(
    model: Annotated[str, typer.Argument(help="A Hugging Face hub id, or a local directory.")],
    data: Annotated[Path, typer.Argument(help="A JSONL file of examples.")],
    id: Annotated[str | None, typer.Option(help="Which example; the first if not given.")] = None,
) -> None:
    """Show which tokens of an example count, and which do not.

    Example: gatescope tokens ./model questions.jsonl --id 17
    """
    from gatescope.batches import TOKEN_RULE, collate
    from gatescope.data import jsonl
    from gatescope.models import load_model

    questions = jsonl(data)
    examples = [*questions.identification, *questions.evaluation]
    chosen = next((e for e in examples if id in (None, e.id)), None)
    if chosen is None:
        raise GatescopeError(f"{data} has no example {id!r}.")
    loaded = load_model(model)
    batch = collate(loaded, [chosen])
    pieces = loaded.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
    typer.echo(f"{chosen.id}: {int(batch.valid.sum())} of {len(pieces)} tokens count ({TOKEN_RULE}).")
    for piece, counts in zip(pieces, batch.valid[0].tolist(), strict=True):
        typer.echo(f"  {'counts' if counts else '-':8}{piece}")


@app.command()
def doctor(
    model: Annotated[str | None, typer.Argument(help="A Hugging Face hub id, or a local directory.")] = None,
    random_weights: Annotated[
        str | None, typer.Option(help="Instead: a config (hub id, directory or file) to check shrunk, without its weights.")
    ] = None,
) -> None:
    """Check that gatescope reads and edits a model exactly as plain PyTorch hooks do; exit code 0 only if it does.

    Example: gatescope doctor Qwen/Qwen2.5-VL-7B-Instruct
    """
    from gatescope import doctor as ward
    from gatescope.models import load_model

    if (model is None) == (random_weights is None):
        raise GatescopeError("Give a model, or --random-weights with a config, and not both.")
    report = ward.examine(load_model(model) if model is not None else ward.random_model(str(random_weights)))
    typer.echo(str(report))
    if not report.healthy:
        raise typer.Exit(1)


def _describe(model: object, questions, result, out: Path | None) -> None:
    site = result.counters.layout
    accuracy = result.table.accuracy()
    typer.echo(f"\nmodel       {model}")
    typer.echo(f"neurons     {site}; {next(iter(result.selections.values())).wanted} switched off for each group")
    typer.echo(f"examples    {len(questions.identification)} to identify on, {len(questions.evaluation)} to evaluate on")
    typer.echo(f"accuracy    {float(accuracy.mean()):.1f}% unmasked, mean of {len(accuracy)} groups")
    if out is not None:
        typer.echo(f"run         {out}")
    typer.echo(f"\n{result}\n")


def main() -> None:
    """Entry point: run a command; print a GatescopeError as one sentence."""
    warnings.filterwarnings("ignore", message=".*was never reached: the loop asked for a step the run did not make.*")
    try:
        app()
    except GatescopeError as error:
        typer.echo(f"gatescope: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
