"""Train every organism that is not in the cache yet, several at a time: `python -m gatescope.organism`.

A process uses one thread; the models are too small for more.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from gatescope.progress import bar


def train_one(kind: str) -> str:
    """Train one kind, or find it in the cache."""
    import torch

    from gatescope import organism

    torch.set_num_threads(1)
    if kind == "text":
        organism.text.load(progress=False)
    else:
        organism.load(organism.KINDS[kind], progress=False)
    return kind


def main() -> None:
    """Train them."""
    from gatescope.organism import KINDS

    kinds = [*KINDS, "text"]
    with (
        ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool,
        bar(len(kinds), "organisms", "models") as shown,
    ):
        for kind in pool.map(train_one, kinds):
            shown.update()
            print(f"organism {kind}: ready", file=sys.stderr)  # noqa: T201
