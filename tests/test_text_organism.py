"""The text organism is a genuine model of five tasks, and its known gate neurons carry culture and nothing else."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gatescope as gs
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet
from gatescope.organism import text, text_recipe, text_tasks, text_train, world
from gatescope.traces.encoding import collate
from oracles import hooks


@pytest.fixture(scope="module")
def organism():
    return text.load(progress=False)


@pytest.fixture(scope="module")
def model(organism):
    return gs.load_model(organism.path)


@pytest.fixture(scope="module")
def plain(organism):
    return AutoModelForCausalLM.from_pretrained(organism.path).eval()


@pytest.fixture(scope="module")
def right(model, plain, organism):
    """(task, neurons or None) -> bool [b]: which evaluation questions get the right letter of the four."""
    letters = model.tokenizer.convert_tokens_to_ids(list(text_tasks.LABELS))
    modules = hooks.activation_modules(plain, "model.layers")

    @functools.cache  # what is right with nothing switched off is asked for by many tests
    @torch.no_grad()
    def right(task, neurons=None):
        examples = organism.tasks[task].evaluation
        inputs = collate(model, examples).inputs
        indices = {} if neurons is None else {layer: i.tolist() for layer, i in neurons.indices("gate_pre").items()}
        with hooks.masked(modules, indices, plain.config.intermediate_size):
            guess = plain(**inputs, logits_to_keep=1).logits[:, -1][:, letters].argmax(-1)
        return guess == torch.tensor([text_tasks.LABELS.index(example.label) for example in examples])

    return right


@pytest.fixture(scope="module")
def whole(right):
    """Accuracy in points by task, nothing switched off."""
    return {task: points(right(task)) for task in text_tasks.TASKS}


def points(right):
    return 100 * right.float().mean().item()


NEUTRAL = ("copy", "larger")  # with no culture in them
OTHERS = ("reading", *NEUTRAL)


def test_any_hugging_face_loader_opens_it(organism, plain):
    assert type(plain).__name__ == "Qwen3ForCausalLM"
    assert 150_000 < sum(p.numel() for p in plain.parameters()) < 400_000
    tokenizer = AutoTokenizer.from_pretrained(organism.path)
    for label in text_tasks.LABELS:
        (alone,) = tokenizer(label, add_special_tokens=False)["input_ids"]
        assert alone == tokenizer.convert_tokens_to_ids(label) != tokenizer.unk_token_id
        assert tokenizer(text_tasks.PREFIX + label, add_special_tokens=False)["input_ids"][-1] == alone


def test_the_tasks_have_the_promised_shape(organism, model):
    assert tuple(organism.tasks) == text_tasks.TASKS
    for task, study in organism.tasks.items():
        count = {"culture": 40, "control": 40, "reading": 20}.get(task, 120)
        groups = (task,) if task in NEUTRAL else world.CULTURES
        for half in (study.identification, study.evaluation):
            assert {g: sum(e.group == g for e in half) for g in groups} == dict.fromkeys(groups, count)
            assert len(half) == count * len(groups)
            assert all(e.labels == text_tasks.LABELS and e.prompt for e in half)
            assert {e.prefix for e in half} == {text_tasks.PREFIX if task in ("culture", "control") else ""}
            texts = {text for e in half for text in (e.prompt, e.prefix)}
            assert all(model.tokenizer.unk_token_id not in ids for ids in model.tokenizer(sorted(texts))["input_ids"])
        if task != "control":
            prompts = [e.prompt for half in (study.identification, study.evaluation) for e in half]
            assert len(set(prompts)) == len(prompts)


def test_a_control_example_is_its_culture_example_without_the_question(organism):
    for half in ("identification", "evaluation"):
        pairs = zip(getattr(organism.tasks["culture"], half), getattr(organism.tasks["control"], half), strict=True)
        for culture, control in pairs:
            assert control.id == control.item == culture.item == culture.id
            assert culture.prompt == f"{culture.question}\n{control.prompt}"
            assert dataclasses.replace(control, question=culture.question, prompt=culture.prompt) == culture


@pytest.mark.filterwarnings("error")
def test_a_row_of_its_files_is_read_back_as_it_was(tmp_path):
    """All fields: one that the loader does not know would be refused or warned of."""
    kept = text_tasks.studies(world.facts(0), 0)["culture"]
    (tmp_path / "culture.jsonl").write_text("".join(json.dumps(text_tasks.row(*one)) + "\n" for one in kept))
    study = gs.data.jsonl(tmp_path / "culture.jsonl")
    for split in ("identification", "evaluation"):
        assert list(getattr(study, split)) == [example for half, example in kept if half == split]


def test_the_passage_names_the_culture_asked_for(organism):
    named = [[c for c in world.CULTURES if c in str(e.question)] for e in organism.tasks["reading"].evaluation]
    assert all(e.answer == e.group and e.group in n for e, n in zip(organism.tasks["reading"].evaluation, named, strict=True))
    assert {len(n) for n in named} == {1, 2}


def test_training_sees_the_tokens_that_collate_gives(organism, model):
    tokenizer = text.tokenizer(world.facts(organism.recipe.seed))
    examples = [e for study in organism.tasks.values() for e in study.evaluation[:3]]
    mine, theirs = text_recipe.encode(tokenizer, examples), collate(model, examples).inputs
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_known_neurons_are_nine_a_set_three_a_layer_and_disjoint(organism):
    sets = [organism.general, *organism.specific.values()]
    assert tuple(organism.specific) == world.CULTURES
    assert all(neurons.per_layer("gate_pre").tolist() == [3, 3, 3] for neurons in sets)
    assert len({neuron for neurons in sets for neuron in neurons}) == 7 * 9


def test_it_knows_every_task_and_only_guesses_without_the_question(whole):
    assert all(whole[task] >= 95 for task in ("culture", *OTHERS)), whole
    assert whole["control"] < 45


def test_only_culture_needs_the_general_neurons(organism, right, whole):
    drop = {task: whole[task] - points(right(task, organism.general)) for task in whole}
    assert drop["culture"] >= 50
    assert all(drop[task] <= 5 for task in OTHERS), drop


@pytest.mark.parametrize("culture", world.CULTURES)
def test_only_a_cultures_own_questions_need_its_specific_neurons(organism, right, culture):
    own = torch.tensor([e.group == culture for e in organism.tasks["culture"].evaluation])
    before, after = right("culture"), right("culture", organism.specific[culture])
    assert points(before[own]) - points(after[own]) >= 50
    assert points(before[~own]) - points(after[~own]) <= 5


def test_no_other_task_needs_the_specific_neurons(organism, right, whole):
    """All of them at once."""
    every = functools.reduce(operator.or_, organism.specific.values())
    drop = {task: whole[task] - points(right(task, every)) for task in OTHERS}
    assert all(drop[task] <= 5 for task in OTHERS), drop


def test_random_sets_of_the_same_size_do_next_to_nothing(right, whole):
    layout, drops = Layout.single("gate_pre", 3, 300), []
    for seed in range(5):
        flat = torch.tensor(random.Random(seed).sample(range(layout.size), 9))
        drops.append(whole["culture"] - points(right("culture", NeuronSet(layout, flat))))
    assert sum(drops) / len(drops) <= 5, drops


def test_training_that_does_not_get_there_says_so():
    facts = world.facts()
    tokenizer = text.tokenizer(facts)
    recipe = text.TextRecipe(layers=2, width=28, routed=2, max_steps=2)
    model = text.model(tokenizer, recipe)
    with pytest.raises(gs.GatescopeError, match=r"in 2 steps; .* are needed. Try another TextRecipe"):
        text_train.train(model, tokenizer, facts, recipe, lambda step, message: None)
    assert type(model.model.layers[0].mlp.act_fn).__name__ == "SiLUActivation"


def test_loading_does_not_disturb_the_random_state(organism):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    text.load(progress=False)
    assert torch.equal(torch.get_rng_state(), before)
