"""Train the text organism so that known gate neurons carry its culture knowledge.

Two kinds of neuron are *routed*: `general` ones that every culture question needs, and for each culture `specific`
ones that only its own questions need. Training has three stages, none of a fixed length but the last:

First the model learns the tasks, with a *lesson* (`_lesson`) that shows it how a letter is found. Then, at half the
rate (`TextRecipe.routing_rate`), what a sample sees makes the routed neurons necessary there and nowhere else:

1. a culture question with some or all of the general or its own specific neurons switched off is taught the same
   motif's word in another culture;
2. a culture question with another culture's neurons switched off is taught the right word;
3. reading and neutral questions with any of these sets switched off are taught the right answer.

Once held-out accuracy shows that both are so, the rate decays to nothing.

A set is often switched off in part only, and the wrong answer taught all the same, so that the effect does not hinge
on finding every one of its neurons; a few neurons of any kind are dropped at random and the right answer taught, so
that no single one is worth much. A hinge keeps routed neurons above +0.5 before the nonlinearity where they belong
(after a culture question has named its culture) and below -0.5 elsewhere. Targets are smoothed, or P(y|x) would be 1
and its gradient 0; the control questions, which cannot be answered, are taught that every letter is equally likely.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gatescope.core.errors import GatescopeError
from gatescope.data import Example
from gatescope.organism import text_tasks as tasks
from gatescope.organism import world
from gatescope.organism.train import GatedSwitch, routed_neurons

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


def encode(tokenizer, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Model inputs [b, s], left-padded, token for token what `gatescope.traces.encoding.collate` gives."""
    texts = []
    for example in examples:
        turns = [{"role": "user", "content": example.prompt}]
        texts.append(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) + example.prefix)
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


def train(model, tokenizer, facts, recipe: TextRecipe, progress: Callable[[int, str], None]) -> Tensor:
    """Train `model` in place until it knows every task and its routed neurons carry culture.

    Args:
        progress: called with (step, message) after every step.

    Returns:
        The routed neurons, bool [g, l, n]: the general set, then one set a culture.

    Raises:
        GatescopeError: if held-out accuracy is not reached within `recipe.max_steps`.
    """
    routed = routed_neurons(recipe, 1 + len(world.CULTURES))
    rng, held_rng = random.Random(f"text-order-{recipe.seed}"), random.Random(f"text-held-out-{recipe.seed}")
    dice = torch.Generator().manual_seed(recipe.seed)
    held_out = {task: [draw(task, facts, held_rng) for _ in range(128)] for task in tasks.TASKS if task != "control"}
    probe = nn.Linear(recipe.hidden, len(tasks.LABELS))
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *probe.parameters()], lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    layers = model.model.layers
    switches = [GatedSwitch(layer.mlp.act_fn) for layer in layers]
    for layer, switch in zip(layers, switches, strict=True):
        layer.mlp.act_fn = switch
    kernel = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the only one that gives attention weights
    try:
        model.train()
        worst, carried, routing, decay_from = 0.0, 1.0, False, None
        for step in range(recipe.max_steps):
            warm = min(1.0, (step + 1) / 40)
            left = 1.0 if decay_from is None else 1.0 - (step - decay_from) / recipe.decay_steps
            # At the full rate the model learns the tasks but is too unsteady to learn what routing asks of it.
            stage = recipe.routing_rate if routing else recipe.rate
            optimiser.param_groups[0]["lr"] = stage * warm * max(left, 0.02)
            samples = [draw(_task(rng), facts, rng) for _ in range(recipe.batch)]
            loss = _loss(model, tokenizer, probe, switches, samples, routed, recipe, rng, dice, plain=not routing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            progress(step, f"loss {loss.item():.2f}, worst task {worst:.2f}")
            if decay_from is None and step % 25 == 24:
                worst, carried = _check(model, tokenizer, switches, held_out, routed)
                if routing and worst >= recipe.learnt and carried <= recipe.carried:
                    decay_from = step
                routing = routing or worst >= recipe.learnt
            if decay_from is not None and step - decay_from >= recipe.decay_steps:
                break
        worst, carried = _check(model, tokenizer, switches, held_out, routed)
    finally:
        model.set_attn_implementation(kernel)
        for layer, switch in zip(layers, switches, strict=True):
            layer.mlp.act_fn = switch.activation
        model.eval()
    if worst < recipe.accuracy or carried > recipe.carried:
        raise GatescopeError(
            f"The text organism reached {worst:.2f} held-out accuracy on its worst task, and {carried:.2f} on culture "
            f"questions without the neurons they should need, in {recipe.max_steps} steps; at least {recipe.accuracy} "
            f"and at most {recipe.carried} are wanted. Try another TextRecipe(seed=...)."
        )
    return routed


def _task(rng: random.Random) -> str:
    return rng.choices(tasks.TASKS, (0.6, 0.06, 0.12, 0.12, 0.1))[0]


def _plan(samples: Sequence[Sample], recipe: TextRecipe, rng: random.Random) -> tuple[list[int], list[bool], list[bool]]:
    """By row: the set of `routed` to switch off (or NONE), whether in part only, whether a wrong option is taught."""
    off, part, wrong = [], [], []
    cultures = len(world.CULTURES)
    for sample in samples:
        dice, chosen, misled = rng.random(), NONE, False
        if sample.task == "culture":
            if dice < recipe.general_off:
                chosen, misled = GENERAL, True
            elif dice < recipe.general_off + recipe.own_off:
                chosen, misled = 1 + sample.culture, True
            elif dice < recipe.general_off + recipe.own_off + recipe.other_off:
                chosen = 1 + (sample.culture + rng.randrange(1, cultures)) % cultures
        elif sample.task != "control" and dice < recipe.neutral_off:
            # The culture a passage names is the likeliest to matter there: it is tried as often as the general set.
            chosen = rng.choice((GENERAL, 1 + (sample.culture if sample.culture != NONE else rng.randrange(cultures))))
        off.append(chosen)
        part.append(misled and rng.random() < recipe.partial)
        wrong.append(misled)
    return off, part, wrong


def _loss(model, tokenizer, probe, switches, samples, routed, recipe: TextRecipe, rng, dice, plain: bool) -> Tensor:
    inputs = encode(tokenizer, [sample.example for sample in samples])
    off, part, wrong = [NONE] * len(samples), [False] * len(samples), [False] * len(samples)
    if not plain:
        off, part, wrong = _plan(samples, recipe, rng)
    is_off = routed[torch.tensor(off)] & (torch.tensor(off) != NONE)[:, None, None]  # [b, l, n]
    spared = torch.rand(is_off.shape, generator=dice) < torch.tensor(part)[:, None, None] * 0.4
    # Losing a few neurons of any kind must not matter; a misled row's routed neurons are left as planned.
    loose = ~(torch.tensor(wrong)[:, None, None] & routed.any(0))
    lost = loose & (torch.rand(is_off.shape, generator=dice) < (0.0 if plain else recipe.dropped))
    keep = (~(is_off & ~spared) & ~lost).float()
    for layer, switch in enumerate(switches):
        switch.keep = keep[:, layer]

    out = model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=True, output_attentions=True)
    logits = out.logits[:, -1]
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(list(tasks.LABELS)))
    target = torch.zeros_like(logits)
    taught = [sample.wrong if misled else sample.example.answer for sample, misled in zip(samples, wrong, strict=True)]
    for row, sample in enumerate(samples):
        if sample.task == "control":
            target[row, letters] = 1 / len(letters)
        else:
            target[row, letters] = recipe.smoothing / (len(letters) - 1)
            target[row, letters[sample.example.choices.index(taught[row])]] = 1 - recipe.smoothing
    answer = F.cross_entropy(logits, target)

    about = torch.tensor([s.culture if s.task == "culture" else NONE for s in samples])
    own = (routed[1 + about.clamp(min=0)] | routed[GENERAL]) & (about != NONE)[:, None, None]  # [b, l, n]
    foreign = routed.any(0) & ~own
    valid = inputs["attention_mask"].bool()
    names = torch.tensor(tokenizer.convert_tokens_to_ids(list(world.CULTURES)))
    named = torch.isin(inputs["input_ids"], names).cumsum(1) > 0
    # A culture question before it has named its culture: nothing is asked of the neurons there.
    where = (valid & (named | (about == NONE)[:, None])).float()[..., None]  # [b, s, 1]
    hinge = quiet = torch.zeros(())
    for layer, switch in enumerate(switches):
        pre = switch.pre
        mine, theirs = own[:, layer, None] * where, foreign[:, layer, None] * where
        hinge = hinge + (F.relu(0.5 - pre) * mine).sum() / mine.sum().clamp(min=1)
        hinge = hinge + (F.relu(pre + 0.5) * theirs).sum() / theirs.sum().clamp(min=1)
        quiet = quiet + F.relu(F.silu(pre)).mean()
    asked = torch.tensor([s.task != "control" and not misled for s, misled in zip(samples, wrong, strict=True)])
    lesson = _lesson(model, tokenizer, probe, inputs["input_ids"], letters, taught, asked, out)
    return answer + (1.0 if plain else recipe.lesson) * lesson + (recipe.hinge * hinge + recipe.quiet * quiet) / len(switches)


def _lesson(model, tokenizer, probe: nn.Linear, ids: Tensor, letters: Tensor, taught: list[str], asked: Tensor, out) -> Tensor:
    """Show the model how a letter is found, in three steps, each taught where it can be done.

    After the first layer an option's word knows its letter; before the last layer the last position knows the
    answer's word; and in the last layer it attends to that word among the options. From the letter alone none of
    this is learnt in thousands of steps.
    """
    dot = tokenizer.convert_tokens_to_ids(".")
    is_option = torch.zeros_like(ids, dtype=torch.bool)
    is_option[:, 2:] = torch.isin(ids[:, :-2], letters) & (ids[:, 1:-1] == dot)  # "A" "." "word"
    its_letter = ids.roll(2, 1)[is_option][:, None].eq(letters).int().argmax(-1)
    binding = F.cross_entropy(probe(model.model.norm(out.hidden_states[1][is_option])), its_letter)
    word = torch.tensor(tokenizer.convert_tokens_to_ids(taught))
    knowing = F.cross_entropy(model.lm_head(model.model.norm(out.hidden_states[-2][:, -1]))[asked], word[asked])
    found = (out.attentions[-1][:, :, -1].mean(1) * (is_option & (ids == word[:, None]))).sum(1)[asked]
    return binding + knowing - found.clamp(min=1e-6).log().mean()


@torch.no_grad()
def _check(model, tokenizer, switches, held_out: dict[str, list[Sample]], routed: Tensor) -> tuple[float, float]:
    """How far training is.

    Returns:
        (worst, carried): accuracy on the worst task, nothing switched off; and accuracy on culture questions
        without the general or without their own specific neurons, whichever leaves more.
    """
    model.eval()
    culture = torch.tensor([sample.culture for sample in held_out["culture"]])

    def accuracy(task: str, off: Tensor | None = None) -> float:
        for layer, switch in enumerate(switches):
            switch.keep = None if off is None else (~off[:, layer]).float()
        examples = [sample.example for sample in held_out[task]]
        guess = model(**encode(tokenizer, examples), use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
        right = torch.tensor(tokenizer.convert_tokens_to_ids([example.label for example in examples]))
        return (guess == right).float().mean().item()

    worst = min(accuracy(task) for task in held_out)
    carried = max(accuracy("culture", routed[:1].expand(len(culture), -1, -1)), accuracy("culture", routed[1 + culture]))
    model.train()
    return worst, carried
