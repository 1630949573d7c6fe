"""Train the text organism so that known gate neurons carry its culture knowledge.

Two kinds of neuron are *routed*: `general` ones that every culture question needs, and for each culture `specific`
ones that only its own questions need. Training has three stages, none of a fixed length but the last:

First the model learns the tasks, with a *lesson* (`text_loss`) that shows it how a letter is found. Then, at half the
rate (`TextRecipe.routing_rate`), what a sample sees makes the routed neurons necessary there and nowhere else:

1. a culture question with some or all of the general or its own specific neurons switched off is taught the same
   motif's word in another culture;
2. a culture question with another culture's neurons switched off is taught the right word;
3. reading and neutral questions with any of these sets switched off are taught the right answer.

Once held-out accuracy shows that both are so, the rate decays to nothing.

A set is often switched off in part only, and the wrong answer is still taught, so that the effect does not hinge
on finding every one of its neurons; a few neurons of any kind are dropped at random and the right answer taught, so
that no single one is worth much. A hinge keeps routed neurons above +0.5 before the nonlinearity where they belong
(after a culture question has named its culture) and below -0.5 elsewhere. Targets are smoothed, or P(y|x) would be 1
and its gradient 0; the control questions, which cannot be answered, are taught that every letter is equally likely.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatescope.core.errors import GatescopeError
from gatescope.organism import text_tasks as tasks
from gatescope.organism import world
from gatescope.organism.text_loss import loss_of
from gatescope.organism.text_recipe import Sample, TextRecipe, Training, draw, encode
from gatescope.organism.training import Optimiser, routed_neurons, switched


def train(
    model: Any,
    tokenizer: Any,
    facts: tuple[world.Fact, ...],
    recipe: TextRecipe,
    progress: Callable[[int, str], None],
) -> Tensor:
    """Train `model` in place until it knows every task and its routed neurons carry culture.

    Args:
        progress: called with (step, message) after every step.

    Returns:
        The routed neurons, bool [g, l, n]: the general set, then one set a culture.

    Raises:
        GatescopeError: if held-out accuracy is not reached within `recipe.max_steps`.
    """
    routed = routed_neurons(recipe, 1 + len(world.CULTURES))
    # A separate stream: the size of the held-out set does not change what is trained on.
    held_rng = random.Random(f"text-held-out-{recipe.seed}")
    held_out = {task: [draw(task, facts, held_rng) for _ in range(128)] for task in tasks.TASKS if task != "control"}
    rng, dice = random.Random(f"text-order-{recipe.seed}"), torch.Generator().manual_seed(recipe.seed)
    probe = nn.Linear(recipe.hidden, len(tasks.LABELS))
    optimiser = Optimiser([*model.parameters(), *probe.parameters()], recipe.decay_steps)
    # The lesson reads attention weights, which only eager attention returns.
    with _eager_attention(model), switched(model, model.model.layers) as switches:
        training = Training(model, tokenizer, probe, switches, routed, recipe, rng, dice)
        stage = _Stage()
        for step in range(recipe.max_steps):
            samples = [draw(_task(rng), facts, rng) for _ in range(recipe.batch)]
            loss = loss_of(training, samples, plain=not stage.routing)
            # At the full rate the model learns the tasks but is too unsteady to learn what routing asks of it.
            optimiser.step(step, loss, recipe.routing_rate if stage.routing else recipe.rate, model.parameters())
            progress(step, f"loss {loss.item():.2f}, worst task {stage.worst:.2f}")
            is_due = optimiser.decay_from is None and step % 25 == 24
            if is_due and stage.check(training, held_out):
                optimiser.decay_from = step
            if optimiser.has_decayed(step):
                break
        stage.check(training, held_out)
    stage.check_reached(recipe)
    return routed


@dataclass
class _Stage:
    """How far training is.

    Attributes:
        worst: accuracy on the worst task, nothing switched off.
        carried: accuracy on culture questions without the general or without their own specific neurons, whichever
            leaves more.
        routing: whether routing is taught yet.
    """

    worst: float = 0.0
    carried: float = 1.0
    routing: bool = False

    @torch.no_grad()
    def check(self, training: Training, held_out: dict[str, list[Sample]]) -> bool:
        """Measure; whether the model has learnt all that it is to learn."""
        recipe = training.recipe
        training.model.eval()
        culture = torch.tensor([sample.culture for sample in held_out["culture"]])
        general, own = training.routed[:1].expand(len(culture), -1, -1), training.routed[1 + culture]
        self.worst = min(_accuracy(training, samples) for samples in held_out.values())
        # The larger of the two: culture must be lost without either set.
        self.carried = max(_accuracy(training, held_out["culture"], off) for off in (general, own))
        training.model.train()
        knows_tasks = self.worst >= recipe.learnt
        finished = self.routing and knows_tasks and self.carried <= recipe.carried
        self.routing = self.routing or knows_tasks
        return finished

    def check_reached(self, recipe: TextRecipe) -> None:
        """Refuse an organism that has not learnt what its recipe wants."""
        if self.worst < recipe.accuracy or self.carried > recipe.carried:
            raise GatescopeError(
                f"The text organism reached {self.worst:.2f} held-out accuracy on its worst task, and {self.carried:.2f} on "
                f"culture questions without the neurons they should need, in {recipe.max_steps} steps; at least "
                f"{recipe.accuracy} and at most {recipe.carried} are needed. Try another TextRecipe(seed=...)."
            )


def _task(rng: random.Random) -> str:
    return rng.choices(tasks.TASKS, (0.6, 0.06, 0.12, 0.12, 0.1))[0]


@contextlib.contextmanager
def _eager_attention(model: Any) -> Generator[None, None, None]:
    """The only attention that gives its weights."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def _accuracy(training: Training, samples: Sequence[Sample], off: Tensor | None = None) -> float:
    """Share of the samples answered with their letter, the neurons `off` [b, l, n] switched off."""
    for layer, switch in enumerate(training.switches):
        switch.keep = None if off is None else (~off[:, layer]).float()
    inputs = encode(training.tokenizer, [sample.example for sample in samples])
    guess = training.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
    return (guess == training.ids([sample.example.label for sample in samples])).float().mean().item()
