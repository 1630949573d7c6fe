"""What the text organism is trained by: the recipe, the samples it draws, and what the parts of training share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatescope.data import Example
from gatescope.organism import text_tasks as tasks
from gatescope.organism import world
from gatescope.organism.training import GatedSwitch

GENERAL, NONE = 0, -1  # rows of `routed`: the general set, then one a culture


@dataclass(frozen=True)
class TextRecipe:
    """Everything that determines a text organism; its digest names the cache directory."""

    layers: int = 3
    width: int = 300
    hidden: int = 64
    routed: int = 9
    seed: int = 0
    batch: int = 32
    rate: float = 4e-3
    routing_rate: float = 2e-3
    general_off: float = 0.25
    own_off: float = 0.25
    other_off: float = 0.15
    partial: float = 0.35
    neutral_off: float = 0.6
    dropped: float = 0.06
    smoothing: float = 0.1
    hinge: float = 0.3
    quiet: float = 0.03
    lesson: float = 0.3
    learnt: float = 0.8
    carried: float = 0.45
    accuracy: float = 0.96
    decay_steps: int = 350
    max_steps: int = 2500


@dataclass(frozen=True)
class Sample:
    """One training question: its task, the culture it is about (-1 if none), and a wrong option to teach."""

    task: str
    example: Example
    culture: int
    wrong: str


def encode(tokenizer: Any, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Model inputs [b, s], left-padded, token for token what `gatescope.traces.encoding.collate` gives."""
    texts: list[str] = []
    for example in examples:
        turns = [{"role": "user", "content": example.prompt}]
        texts.append(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) + example.prefix)
    # The chat template has written the special tokens already.
    options = {"return_tensors": "pt", "padding": True, "padding_side": "left", "add_special_tokens": False}
    return dict(tokenizer(texts, return_token_type_ids=False, **options))


def draw(task: str, facts: tuple[world.Fact, ...], rng: random.Random) -> Sample:
    """A fresh question of a task."""
    if task in ("culture", "control"):
        fact = rng.choice(facts)
        example, wrong = tasks.culture(fact, facts, rng)
        example = tasks.control(example) if task == "control" else example
        return Sample(task, example, world.CULTURES.index(fact.culture), wrong)
    if task == "reading":
        name = rng.choice(world.CULTURES)
        example, wrong = tasks.reading(name, rng)
        return Sample(task, example, world.CULTURES.index(name), wrong)
    example = (tasks.copy if task == "copy" else tasks.larger)(rng)
    return Sample(task, example, NONE, "")


@dataclass
class Training:
    """A model in training: what it is made of, and what training draws from.

    Attributes:
        model, tokenizer: as Transformers has them.
        probe: reads an option's letter out of the first layer; thrown away afterwards.
        switches: of every layer.
        routed: bool [g, l, n], the general set first.
        recipe: what is followed.
        rng: of what is asked and switched off.
        dice: of which neurons are spared or lost.
    """

    model: Any
    tokenizer: Any
    probe: nn.Linear
    switches: Sequence[GatedSwitch]
    routed: Tensor
    recipe: TextRecipe
    rng: random.Random
    dice: torch.Generator

    def ids(self, tokens: Sequence[str]) -> Tensor:
        """Their numbers."""
        return torch.tensor(self.tokenizer.convert_tokens_to_ids(list(tokens)))
