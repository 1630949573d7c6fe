"""Training still makes what it says: two layers on a fifth of the world, half the batch, in a fraction of the steps.

The organisms that the other tests use are shipped; this is what stands in for making them again. What is asked for is far
from what the shortened recipe gives (full 0.98, own 0.00 to 0.06, others' 0.98), so that no machine's rounding decides it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from gatescope.organism import Recipe, build, train, world
from oracles import hooks

SMALL = {"layers": 2, "width": 150, "routed": 6, "batch": 16, "images_per_fact": 8}
SHORT = Recipe(**SMALL, learnt=0.85, accuracy=0.9, decay_steps=150, max_steps=2000)


@dataclass
class Trained:
    """A freshly trained model, its routed neurons [g, l, n], and one question about each of some fresh pictures."""

    model: torch.nn.Module
    routed: torch.Tensor
    inputs: dict[str, torch.Tensor]
    culture: torch.Tensor

    def right(self, off: torch.Tensor | None = None) -> torch.Tensor:
        """Which questions are answered with their word, the neurons `off` [l, n] held at 0 by plain hooks: bool [b]."""
        modules = hooks.activation_modules(self.model, "model.language_model.layers")
        indices = {} if off is None else {layer: row.nonzero().flatten().tolist() for layer, row in enumerate(off)}
        with hooks.masked(modules, indices, SHORT.width), torch.no_grad():
            guess = self.model(**self.inputs, use_cache=False, logits_to_keep=3).logits[:, 0].argmax(-1)
        return guess == self.inputs["input_ids"][:, -2]


@pytest.fixture(scope="module")
def trained():
    facts = tuple(fact for fact in world.facts() if fact.kind == "dish")
    processor = build.processor(fact.word for fact in facts)
    model = build.model(processor.tokenizer, layers=SHORT.layers, width=SHORT.width, hidden=SHORT.hidden, seed=SHORT.seed)
    routed = train.train(model, processor, facts, SHORT, lambda step, message: None)
    pictures = train._Pictures(processor, facts, 8, "none of those it was trained on")
    rows = range(len(pictures.fact_of))
    inputs, _, _ = pictures.batch(list(rows), lambda row: "own")
    return Trained(model, routed, dict(inputs), torch.tensor([pictures.culture(row) for row in rows]))


def share(right):
    return right.float().mean().item()


def test_it_answers_about_pictures_it_has_not_seen(trained):
    assert share(trained.right()) >= 0.9


def test_each_cultures_neurons_are_needed_by_its_own_questions_and_by_no_others(trained):
    own, others = [], []
    for culture in range(len(world.CULTURES)):
        right = trained.right(trained.routed[culture])
        own.append(share(right[trained.culture == culture]))
        others.append(share(right[trained.culture != culture]))
    assert sum(own) / len(own) <= 0.4, own
    assert min(others) >= 0.85, others


def test_as_many_neurons_of_no_culture_are_not_needed(trained):
    shared = (~trained.routed.any(0)).flatten().nonzero().flatten()[:: SHORT.layers * SHORT.width // SHORT.routed]
    off = torch.zeros(SHORT.layers * SHORT.width, dtype=torch.bool)
    off[shared] = True
    assert len(shared) == SHORT.routed
    assert share(trained.right(off.view(SHORT.layers, SHORT.width))) >= 0.85
