"""What the text organism is taught by one batch: see `text_train` for why."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gatescope.organism import text_tasks as tasks
from gatescope.organism import world
from gatescope.organism.text_recipe import GENERAL, NONE, Sample, TextRecipe, Training, encode
from gatescope.organism.training import hinge_loss


def loss_of(training: Training, samples: Sequence[Sample], plain: bool) -> Tensor:
    """The loss of a batch; `plain` before routing is taught: nothing is switched off, and the lesson weighs the most."""
    recipe, switches = training.recipe, training.switches
    inputs = encode(training.tokenizer, [sample.example for sample in samples])
    plans = [_Plan() if plain else _plan(sample, recipe, training.rng) for sample in samples]
    keep = _keep(training, plans, 0.0 if plain else recipe.dropped)
    for layer, switch in enumerate(switches):
        switch.keep = keep[:, layer]

    out = training.model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=True, output_attentions=True)
    taught = [sample.wrong if plan.misled else sample.example.answer for sample, plan in zip(samples, plans, strict=True)]
    logits = out.logits[:, -1]  # padded on the left, every row ends where its answer begins
    answer = F.cross_entropy(logits, _targets(training, logits, samples, taught))
    hinge, quiet = _hinge_and_quiet(training, samples, inputs)
    answerable = torch.tensor([s.task != "control" and not plan.misled for s, plan in zip(samples, plans, strict=True)])
    lesson = _lesson(training, inputs["input_ids"], taught, answerable, out)
    return answer + (1.0 if plain else recipe.lesson) * lesson + (recipe.hinge * hinge + recipe.quiet * quiet) / len(switches)


@dataclass(frozen=True)
class _Plan:
    """What becomes of one row.

    Attributes:
        off: the set of `routed` to switch off, or NONE.
        partly: whether in part only.
        misled: whether a wrong option is taught.
    """

    off: int = NONE
    partly: bool = False
    misled: bool = False


def _plan(sample: Sample, recipe: TextRecipe, rng: random.Random) -> _Plan:
    off, misled = _switched_off(sample, recipe, rng.random(), rng)
    return _Plan(off, misled and rng.random() < recipe.partial, misled)


def _switched_off(sample: Sample, recipe: TextRecipe, chance: float, rng: random.Random) -> tuple[int, bool]:
    """The set of `routed` to switch off, and whether a wrong option is taught."""
    cultures = len(world.CULTURES)
    if sample.task == "culture":
        own = 1 + sample.culture
        if chance < recipe.general_off:
            return GENERAL, True
        if chance < recipe.general_off + recipe.own_off:
            return own, True
        if chance < recipe.general_off + recipe.own_off + recipe.other_off:
            return 1 + (sample.culture + rng.randrange(1, cultures)) % cultures, False
    elif sample.task != "control" and chance < recipe.neutral_off:
        # The culture a passage names is the likeliest to matter there: it is tried as often as the general set.
        named = sample.culture if sample.culture != NONE else rng.randrange(cultures)
        return rng.choice((GENERAL, 1 + named)), False
    return NONE, False


def _keep(training: Training, plans: Sequence[_Plan], dropped: float) -> Tensor:
    """Which neurons are left on in which row, float [b, l, n]."""
    off, partly, misled = (torch.tensor([getattr(plan, name) for plan in plans]) for name in ("off", "partly", "misled"))
    is_off = training.routed[off] & (off != NONE)[:, None, None]  # [b, l, n]
    spared = torch.rand(is_off.shape, generator=training.dice) < partly[:, None, None] * 0.4
    # Losing a few neurons of any kind must not matter; a misled row's routed neurons are left as planned.
    loose = ~(misled[:, None, None] & training.routed.any(0))
    lost = loose & (torch.rand(is_off.shape, generator=training.dice) < dropped)
    return (~(is_off & ~spared) & ~lost).float()


def _targets(training: Training, logits: Tensor, samples: Sequence[Sample], taught: Sequence[str]) -> Tensor:
    """The distribution over next tokens that is taught, like the logits [b, vocabulary]."""
    letters = training.ids(tasks.LABELS)
    smoothing = training.recipe.smoothing
    target = torch.zeros_like(logits)
    for row, sample in enumerate(samples):
        if sample.task == "control":
            target[row, letters] = 1 / len(letters)
        else:
            target[row, letters] = smoothing / (len(letters) - 1)
            target[row, letters[sample.example.choices.index(taught[row])]] = 1 - smoothing
    return target


def _hinge_and_quiet(training: Training, samples: Sequence[Sample], inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The hinge on routed neurons, and how loud gates are."""
    routed = training.routed
    about = torch.tensor([sample.culture if sample.task == "culture" else NONE for sample in samples])
    own = (routed[1 + about.clamp(min=0)] | routed[GENERAL]) & (about != NONE)[:, None, None]  # [b, l, n]
    foreign = routed.any(0) & ~own
    named = torch.isin(inputs["input_ids"], training.ids(world.CULTURES)).cumsum(1) > 0
    # A culture question before it has named its culture: nothing is asked of the neurons there.
    where = (inputs["attention_mask"].bool() & (named | (about == NONE)[:, None])).float()[..., None]  # [b, s, 1]
    hinge = quiet = torch.zeros(())
    for layer, switch in enumerate(training.switches):
        hinge = hinge + hinge_loss(switch.pre, own[:, layer, None] * where, foreign[:, layer, None] * where)
        quiet = quiet + F.relu(F.silu(switch.pre)).mean()
    return hinge, quiet


def _lesson(training: Training, ids: Tensor, taught: Sequence[str], answerable: Tensor, out: Any) -> Tensor:
    """Show the model how a letter is found, in three steps, each taught where it can be done.

    After the first layer an option's word knows its letter; before the last layer the last position knows the
    answer's word; and in the last layer it attends to that word among the options. From the letter alone none of
    this is learnt in thousands of steps.
    """
    model, letters = training.model, training.ids(tasks.LABELS)
    is_option = torch.zeros_like(ids, dtype=torch.bool)
    is_option[:, 2:] = torch.isin(ids[:, :-2], letters) & (ids[:, 1:-1] == training.ids(["."]))  # "A" "." "word"
    its_letter = ids.roll(2, 1)[is_option][:, None].eq(letters).int().argmax(-1)
    binding = F.cross_entropy(training.probe(model.model.norm(out.hidden_states[1][is_option])), its_letter)
    word = training.ids(taught)
    knowing = F.cross_entropy(model.lm_head(model.model.norm(out.hidden_states[-2][:, -1]))[answerable], word[answerable])
    attended = (out.attentions[-1][:, :, -1].mean(1) * (is_option & (ids == word[:, None]))).sum(1)[answerable]
    return binding + knowing - attended.clamp(min=1e-6).log().mean()
