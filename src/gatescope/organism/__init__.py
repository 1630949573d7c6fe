"""A tiny real vision-language model whose culture neurons are known, and the invented world it lives in.

It was trained once and is shipped with the package: an ordinary `save_pretrained` directory with its questions as a
JSONL file, their pictures and its known neurons. One of another recipe is trained when it is first asked for (a minute or
two on two cores) and kept in the user's cache directory. The effect of its neurons is trained in: what is shown on it
validates the instrument, and says nothing about any other model.
"""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gatescope.core.neurons import NeuronSet
from gatescope.data import Study, jsonl
from gatescope.models.identity import identity
from gatescope.organism import build, shelf, text, train, world
from gatescope.organism.cache import cached, progress_bar
from gatescope.organism.known import Score, precision, score
from gatescope.organism.train import KINDS, Recipe

__all__ = ["KINDS", "Organism", "Recipe", "Score", "load", "precision", "score", "text"]

FORMAT = 1
SPLITS = {"identification": 2, "evaluation": 2}  # pictures of each fact


@dataclass(frozen=True)
class Organism:
    """A trained organism.

    Attributes:
        path: its model directory, which any Hugging Face loader opens, with `study.jsonl`. Do not write there.
        study: 240 identification and 240 evaluation examples, 40 a culture each, on different pictures.
        known: by culture, its routed neurons; empty if the recipe routes none. `KINDS` says what they do.
        recipe: what it was made by.
    """

    path: Path
    study: Study
    known: dict[str, NeuronSet]
    recipe: Recipe


def load(recipe: Recipe | None = None, *, cache: str | Path | None = None, progress: bool = True) -> Organism:
    """The organism of a recipe: a shipped one (those of `KINDS`), or one trained now if it is not in the cache yet.

    Args:
        recipe: which; the default recipe if None.
        cache: directory to keep what is trained in; the user's cache directory, or $GATESCOPE_CACHE, if None.
        progress: show a bar while training.

    Raises:
        GatescopeError: if a shipped one was altered; if training does not reach the recipe's accuracy.
    """
    recipe = recipe or Recipe()
    kind = next((kind for kind, shipped in KINDS.items() if shipped == recipe), None)
    if kind is not None:
        path = shelf.find(kind)
    else:
        spec = [FORMAT, SPLITS, dataclasses.asdict(recipe)]
        path = cached("", spec, lambda partial: make(partial, recipe, progress), cache)
    known = {file.stem: NeuronSet.load(file) for file in sorted((path / "known").glob("*.safetensors"))}
    return Organism(path, jsonl(path / "study.jsonl"), known, Recipe(**json.loads((path / "recipe.json").read_text())))


def make(path: Path, recipe: Recipe, progress: bool) -> None:
    """Train an organism into an empty directory, pictures and all."""
    world_facts = world.facts(recipe.seed)
    processor = build.processor(fact.word for fact in world_facts)
    state = torch.get_rng_state()  # training seeds torch; who asked for an organism keeps the stream they had
    try:
        model = build.model(
            processor.tokenizer, layers=recipe.layers, width=recipe.width, hidden=recipe.hidden, seed=recipe.seed
        )
        with progress_bar("training the organism (once)", recipe.max_steps, progress) as report:
            routed = train.train(model, processor, world_facts, recipe, report)
    finally:
        torch.set_rng_state(state)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    (path / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    _write_study(path, world_facts, recipe.seed)
    (path / "known").mkdir()
    for culture, mask in zip(world.CULTURES, routed, strict=True):
        if mask.any():
            NeuronSet.from_mask("gate", mask, identity(model)).save(path / "known" / f"{culture}.safetensors")


def _write_study(path: Path, world_facts: tuple[world.Fact, ...], seed: int) -> None:
    (path / "pictures").mkdir()
    rows: list[dict[str, Any]] = []
    for split, count in SPLITS.items():
        # Seeded by split: both halves ask about the same facts, on different pictures.
        rng = random.Random(f"{split}-{seed}")
        for number, fact in enumerate(fact for fact in world_facts for _ in range(count)):
            name = f"{split}-{number:03d}"
            world.draw(fact, rng).save(path / "pictures" / f"{name}.png")
            choices, _ = world.options(fact, world_facts, rng)
            row = {"id": name, "group": fact.culture, "image": f"pictures/{name}.png", "question": world.question(fact.kind)}
            rows.append(row | {"choices": choices, "answer": fact.word, "split": split})
    (path / "study.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
