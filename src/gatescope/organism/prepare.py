"""Train organisms again, or list those there are.

    python -m gatescope.organism                                   # list them with their recipes; is each intact?
    python -m gatescope.organism --train selective text --seed 1 --out DIR
    GATESCOPE_ORGANISMS=DIR gatescope demo                         # with these in the place of the shipped ones

Several are trained at a time, each by a process with one thread; the models are too small for more.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.organism import shelf
from gatescope.organism.text_recipe import TextRecipe
from gatescope.organism.train import KINDS, Recipe

NAMES = (*KINDS, "text")


def recipe_of(kind: str, seed: int) -> Recipe | TextRecipe:
    """The recipe of a kind, with another seed."""
    recipe = TextRecipe() if kind == "text" else KINDS[kind]
    return dataclasses.replace(recipe, seed=seed)


def train_one(kind: str, seed: int, path: Path) -> str:
    """Train one kind into an empty directory."""
    import torch

    from gatescope import organism

    torch.set_num_threads(1)
    recipe = recipe_of(kind, seed)
    if isinstance(recipe, TextRecipe):
        organism.text.make(path, recipe, progress=False)
    else:
        organism.make(path, recipe, progress=False)
    return kind


def train(kinds: Sequence[str], seed: int, out: Path) -> None:
    """Train kinds and put them on a shelf, each as soon as it is made.

    Raises:
        GatescopeError: if one does not reach its recipe's accuracy; the others are still made.
    """
    from gatescope import organism

    out.mkdir(parents=True, exist_ok=True)
    failed: list[GatescopeError] = []
    with (
        tempfile.TemporaryDirectory(dir=out, prefix=".making-") as scratch,
        ProcessPoolExecutor(min(os.cpu_count() or 1, len(kinds)), multiprocessing.get_context("spawn")) as pool,
        bar(len(kinds), "organisms", "models") as shown,
    ):
        folders = {kind: Path(tempfile.mkdtemp(dir=scratch)) for kind in kinds}
        for done in as_completed(pool.submit(train_one, kind, seed, folders[kind]) for kind in kinds):
            shown.update()
            try:
                kind = done.result()
            except GatescopeError as error:
                failed.append(error)
                continue
            edition = organism.text.FORMAT if kind == "text" else organism.FORMAT
            shelf.put(out, kind, folders[kind], edition, dataclasses.asdict(recipe_of(kind, seed)))
            print(f"organism {kind}: made, in {out / kind}", file=sys.stderr)  # noqa: T201
    if failed:
        raise failed[0]


def listing() -> str:
    """Every organism there is, a line each.

    Raises:
        GatescopeError: if one was altered.
    """
    lines: list[str] = []
    for kind in NAMES:
        path = shelf.find(kind)
        entry = shelf.organisms(path.parent)[kind]
        lines.append(f"{kind:10} seed {entry['recipe']['seed']}, made with torch {entry['made_with']['torch']}: {path}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """What `python -m gatescope.organism` does; its exit status."""
    parser = argparse.ArgumentParser("python -m gatescope.organism", description="Make organisms again, or list them.")
    parser.add_argument("--train", nargs="+", choices=NAMES, metavar="KIND", help=f"which to make: {', '.join(NAMES)}")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the world, the weights and the training; 0 is the shipped ones'"
    )
    parser.add_argument("--out", type=Path, default=Path("organisms"), help="where to put them; ./organisms if not given")
    options = parser.parse_args(arguments)
    try:
        if options.train:
            train(options.train, options.seed, options.out)
        else:
            print(listing())  # noqa: T201
    except GatescopeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0
