"""The datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gatescope.cli.common import AsJson, Where, as_json, datasets

if TYPE_CHECKING:
    from gatescope.data.example import Example


@datasets.command("list")
def data_list(json: AsJson = False) -> None:
    """List the datasets that have a loader.

    Example: gatescope data list
    """
    # Loaded here: the command line answers --help without torch.
    from gatescope.data import CARDS

    if json:
        cards = [{name: value for name, value in vars(card).items() if name != "load"} for card in CARDS.values()]
        typer.echo(as_json(cards))
        return
    for card in CARDS.values():
        typer.echo(f"{card.name:18}{card.what}")


@datasets.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="As `gatescope data list` gives it, or a .jsonl file.")],
    path: Where = None,
) -> None:
    """Show what a dataset is, where it comes from, how it is answered, and three of its examples.

    Example: gatescope data show cvqa --path ./cvqa
    """
    from gatescope.data import registry

    if name in registry.CARDS:
        typer.echo(str(registry.card(name)))
    questions = registry.load(name, path)
    halves = questions.identification, questions.evaluation
    typer.echo(f"  here     {len(halves[0])} examples to identify on, {len(halves[1])} to evaluate on")
    typer.echo(f"  read-out {questions.readout}")
    for key, value in questions.notes.items():
        typer.echo(f"  {key:9}{value}")
    both = [*halves[0], *halves[1]]
    # Evenly spaced, since files are often sorted by group.
    for example in both[:: max(1, len(both) // 3)][:3]:
        typer.echo("\n".join(_lines(example)))


def _lines(example: Example) -> Iterator[str]:
    """An example as a reader sees it."""
    from gatescope.data import prompts

    yield f"\n  {example.id} ({example.group}){' with a picture' if example.image is not None else ''}"
    yield from (f"    {line}" for line in prompts.asked(example).split("\n"))
    if example.prefix:
        yield f"    begun for the model: {example.prefix}"
    if example.choices:
        labels = [f"{label} " for label in example.labels] or [""] * len(example.choices)
        choices = map("".join, zip(labels, example.choices, strict=True))
        yield f"    options: {' | '.join(choices)}"
    yield f"    answer: {' | '.join(example.references) or example.answer or '-'}"
