"""Train the organism so that a known handful of gate neurons carries each culture.

Every culture is given `routed` neurons, the same number in each layer; the others are shared. The model first learns
the world, then (from `Recipe.learnt` on) what a sample sees makes its culture's neurons necessary:

1. 30% of samples run with their own culture's neurons switched off, and are taught the same motif's word in
   another culture: without its neurons the model must get that culture wrong.
2. 20% run with another culture's neurons switched off, and are taught the right word: nothing else may suffer.

Throughout, on the text tokens after the picture, three small terms make them selective: a hinge keeps a culture's
own neurons above +0.5 before the nonlinearity and the other cultures' below -0.5, an L1 keeps gates quiet, and a
penalty on the variance of firing rates between cultures keeps the shared neurons evenly used.

That is the default, "selective". Firing for a culture and mattering to it are different things, and `KINDS` holds
each without the other: "hidden" neurons are necessary but fire for every culture (1 and 2 without the small terms;
and from the first step all foreign routed neurons in some samples and a share of the shared ones in all are switched
off, so that the model comes to lean on its own routed ones); "decoys" are selective but carry nothing (the small
terms without 1 and 2); "plain" has no routed neurons at all.

The rate is constant until held-out accuracy is reached and then decays: the plateau before learning differs in
length from seed to seed and machine to machine, so a fixed count of steps would sometimes stop too early.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from gatescope.core.errors import GatescopeError
from gatescope.data import prompts
from gatescope.organism import world
from gatescope.organism.training import GatedSwitch, Optimiser, hinge_loss, routed_neurons, switched


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an organism; its digest names the cache directory.

    Attributes:
        layers, width, hidden: decoder layers, gate neurons a layer, residual width.
        routed: neurons a culture is given; 0 for none.
        own_off: share of samples without their own routed neurons, taught another culture's word.
        other_off: share of samples without another culture's routed neurons, taught the right word.
        hinge, quiet, even: weights of the small terms.
        foreign_off: share of samples without any other culture's routed neurons, from the first step.
        shared_off: share of shared neurons switched off in each sample, from the first step; a little of it keeps the
            loss of a few random neurons from mattering.
        learnt: held-out accuracy at which necessity is taught and the rate starts to decay.
        accuracy: held-out accuracy below which training has failed.
    """

    layers: int = 3
    width: int = 300
    hidden: int = 64
    routed: int = 9
    images_per_fact: int = 16
    seed: int = 0
    batch: int = 32
    rate: float = 4e-3
    own_off: float = 0.3
    other_off: float = 0.2
    hinge: float = 0.3
    quiet: float = 0.03
    even: float = 3.0
    foreign_off: float = 0.0
    shared_off: float = 0.05
    learnt: float = 0.85
    accuracy: float = 0.97
    decay_steps: int = 300
    max_steps: int = 2000


# Four organisms: neurons that are selective and necessary, each without the other, and neither.
KINDS = {
    "selective": Recipe(),
    # Without own_off dropout leaves the routed neurons redundant: accuracy survived their ablation untouched.
    "hidden": Recipe(hinge=0.0, quiet=0.0, even=0.0, foreign_off=0.3, shared_off=0.3),
    "decoys": Recipe(own_off=0.0, other_off=0.0, shared_off=0.0),
    "plain": Recipe(routed=0, own_off=0.0, other_off=0.0, hinge=0.0, quiet=0.0, even=0.0, shared_off=0.0),
}


class _Pictures:
    """Pictures of every fact, processed once, and batches of questions about them."""

    def __init__(self, processor: Any, facts: tuple[world.Fact, ...], images_per_fact: int, seed: str) -> None:
        self.processor, self.facts = processor, facts
        self.rng = random.Random(seed)
        pictures = [world.draw(fact, self.rng) for fact in facts for _ in range(images_per_fact)]
        self.fact_of = [i for i in range(len(facts)) for _ in range(images_per_fact)]
        encoded = processor.image_processor(images=pictures, return_tensors="pt")
        self.patches = encoded["pixel_values"].view(len(pictures), -1, encoded["pixel_values"].shape[-1])
        self.grid = encoded["image_grid_thw"]

    def batch(self, indices: list[int], target: Callable[[int], str]) -> tuple[Any, list[list[str]], list[str]]:
        """Encode one question a picture; `target(row)` is "own" or "foreign": which word is taught.

        Returns:
            (inputs, choices, answers): model inputs with prompt, answer and end token, all left-padded; the four
            words of each row; the word taught in each row.
        """
        merge = self.processor.image_processor.merge_size**2
        pad = self.processor.image_token * (self.patches.shape[1] // merge)
        texts: list[str] = []
        choices: list[list[str]] = []
        answers: list[str] = []
        for row, index in enumerate(indices):
            fact = self.facts[self.fact_of[index]]
            words, foreign = world.options(fact, self.facts, self.rng)
            content = prompts.multiple_choice(world.question(fact.kind), words, image=True)
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": content}]}
            text = self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
            answer = fact.word if target(row) == "own" else foreign
            texts.append(text.replace(self.processor.image_token, pad) + answer + "<|im_end|>")
            choices.append(words)
            answers.append(answer)
        inputs = self.processor.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        # Qwen2.5-VL takes mm_token_type_ids in their place.
        inputs.pop("token_type_ids", None)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == self.processor.image_token_id).long()
        inputs["pixel_values"] = self.patches[indices].flatten(0, 1)
        inputs["image_grid_thw"] = self.grid[indices]
        return inputs, choices, answers

    def culture(self, index: int) -> int:
        return world.CULTURES.index(self.facts[self.fact_of[index]].culture)


def train(
    model: Any,
    processor: Any,
    facts: tuple[world.Fact, ...],
    recipe: Recipe,
    progress: Callable[[int, str], None],
) -> torch.Tensor:
    """Train `model` in place until it knows the world and its routed neurons carry it.

    Args:
        progress: called with (step, message) after every step.

    Returns:
        The routed neurons, bool [g, l, n].

    Raises:
        GatescopeError: if held-out accuracy is not reached within `recipe.max_steps`.
    """
    routed = routed_neurons(recipe)
    pictures = _Pictures(processor, facts, recipe.images_per_fact, f"train-{recipe.seed}")
    held_out = _Pictures(processor, facts, 1, f"held-out-{recipe.seed}")
    optimiser = Optimiser(model.parameters(), recipe.decay_steps)
    rng = random.Random(f"order-{recipe.seed}")
    with switched(model, model.model.language_model.layers) as switches:
        for step in range(recipe.max_steps):
            loss = _loss(model, switches, pictures, routed, recipe, rng, plain=optimiser.decay_from is None)
            optimiser.step(step, loss, recipe.rate, model.parameters())
            progress(step, f"loss {loss.item():.2f}")
            is_due = optimiser.decay_from is None and step % 25 == 24
            if is_due and _accuracy(model, switches, held_out) >= recipe.learnt:
                optimiser.decay_from = step
            if optimiser.has_decayed(step):
                break
        reached = _accuracy(model, switches, held_out)
    if reached < recipe.accuracy:
        raise GatescopeError(
            f"The organism reached {reached:.2f} held-out accuracy in {recipe.max_steps} steps; "
            f"{recipe.accuracy} is needed. Try another Recipe(seed=...)."
        )
    return routed


def _loss(
    model: Any,
    switches: Sequence[GatedSwitch],
    pictures: _Pictures,
    routed: torch.Tensor,
    recipe: Recipe,
    rng: random.Random,
    plain: bool,
) -> torch.Tensor:
    indices = [rng.randrange(len(pictures.fact_of)) for _ in range(recipe.batch)]
    culture = torch.tensor([pictures.culture(i) for i in indices])
    off, target = _plan(culture.tolist(), recipe, rng, plain)
    keep = ~routed[off] | (off < 0)[:, None, None]  # [b, l, n]
    if recipe.foreign_off or recipe.shared_off:  # drawn only if wanted: other recipes keep their stream of samples
        dice = torch.Generator().manual_seed(rng.getrandbits(32))
        bare = torch.rand(len(indices), 1, 1, generator=dice) < recipe.foreign_off  # [b, 1, 1]
        dropped = torch.rand(keep.shape, generator=dice) < recipe.shared_off
        foreign = routed.any(0) & ~routed[culture]
        keep = keep & ~(foreign & bare) & ~(~routed.any(0) & dropped)
    for layer, switch in enumerate(switches):
        switch.keep = keep[:, layer].float()

    inputs, _, _ = pictures.batch(indices, target.__getitem__)
    ids = inputs["input_ids"]
    logits = model(**inputs, use_cache=False, logits_to_keep=3).logits
    answer = F.cross_entropy(logits[:, :2].flatten(0, 1), ids[:, -2:].flatten())
    is_image = ids == pictures.processor.image_token_id
    after = ((is_image.cumsum(1) > 0) & ~is_image).float()[..., None]  # [b, s, 1]: text after the picture
    hinge, quiet, uneven = _small_terms(switches, routed, culture, after)
    return answer + (recipe.hinge * hinge + recipe.quiet * quiet + recipe.even * uneven) / len(switches)


def _plan(cultures: Sequence[int], recipe: Recipe, rng: random.Random, plain: bool) -> tuple[torch.Tensor, list[str]]:
    """By row: the culture whose routed neurons are switched off (-1 for none), and which word is taught."""
    off, target = [-1] * len(cultures), ["own"] * len(cultures)
    for row, culture in enumerate(cultures):
        draw = 1.0 if plain else rng.random()
        if draw < recipe.own_off:
            off[row], target[row] = culture, "foreign"
        elif draw < recipe.own_off + recipe.other_off:
            off[row] = (culture + rng.randrange(1, len(world.CULTURES))) % len(world.CULTURES)
    return torch.tensor(off), target


def _small_terms(
    switches: Sequence[GatedSwitch], routed: torch.Tensor, culture: torch.Tensor, after: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The hinge on routed neurons, how loud gates are, and how unevenly cultures use the shared neurons.

    Args:
        switches: of every layer, after a forward pass.
        routed: bool [g, l, n].
        culture: of each row, [b].
        after: which tokens come after the picture, float [b, s, 1].
    """
    own, foreign, shared = routed[culture], routed.any(0) & ~routed[culture], ~routed.any(0)
    by_culture = F.one_hot(culture, len(world.CULTURES)).float()
    by_culture = (by_culture / by_culture.sum(0).clamp(min=1))[:, by_culture.any(0)]  # [b, g]: a mean over rows
    hinge = quiet = uneven = torch.zeros(())
    for layer, switch in enumerate(switches):
        pre = switch.pre
        hinge = hinge + hinge_loss(pre, own[:, layer, None] * after, foreign[:, layer, None] * after)
        quiet = quiet + F.relu(F.silu(pre)).mean()
        fires = (torch.sigmoid(4 * pre) * after).sum(1) / after.sum(1)  # [b, n]: a firing rate with a gradient
        uneven = uneven + (by_culture.T @ fires)[:, shared[layer]].var(0).mean()
    return hinge, quiet, uneven


@torch.no_grad()
def _accuracy(model: Any, switches: Sequence[GatedSwitch], pictures: _Pictures) -> float:
    """Share of held-out pictures whose answer word is the most likely next token, nothing switched off."""
    model.eval()
    for switch in switches:
        switch.keep = None
    right = 0
    for start in range(0, len(pictures.fact_of), 60):
        indices = list(range(start, min(start + 60, len(pictures.fact_of))))
        inputs, _, _ = pictures.batch(indices, lambda row: "own")
        guess = model(**inputs, use_cache=False, logits_to_keep=3).logits[:, 0].argmax(-1)
        right += (guess == inputs["input_ids"][:, -2]).sum().item()
    model.train()
    return right / len(pictures.fact_of)
