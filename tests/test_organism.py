"""The organism is a genuine model of a world that has to be looked at, and its known neurons carry it."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import gatescope as gs
from gatescope.core import answers
from gatescope.data import prompts
from gatescope.organism import Recipe, build, train, world
from gatescope.traces.encoding import collate
from gatescope.traces.readouts.generated import generate


def accuracy(model, examples):
    right = 0
    for start in range(0, len(examples), 40):
        batch = collate(model, examples[start : start + 40])
        texts, _ = generate(model, batch, lambda: None)
        right += sum(answers.read(t, e.choices, e.answer).correct for t, e in zip(texts, batch.examples, strict=True))
    return right / len(examples)


def test_any_hugging_face_loader_opens_it(organism):
    model = AutoModelForImageTextToText.from_pretrained(organism.path)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(AutoProcessor.from_pretrained(organism.path)).__name__ == "Qwen2_5_VLProcessor"
    assert 250_000 < sum(p.numel() for p in model.parameters()) < 400_000


def test_known_neurons_are_nine_a_culture_three_a_layer_and_disjoint(organism):
    every = [neuron for neurons in organism.known.values() for neuron in neurons]
    assert len(every) == len(set(every)) == 6 * 9
    assert all(neurons.per_layer("gate").tolist() == [3, 3, 3] for neurons in organism.known.values())


def test_the_two_splits_have_forty_examples_a_culture_on_different_pictures(organism):
    halves = organism.study.identification, organism.study.evaluation
    for half in halves:
        assert {c: sum(e.group == c for e in half) for c in world.CULTURES} == dict.fromkeys(world.CULTURES, 40)
    pictures = [e.picture().tobytes() for half in halves for e in half]
    assert len(set(pictures)) == len(pictures)


def test_answering_needs_the_picture(organism, organism_model):
    examples = list(organism.study.evaluation)
    assert accuracy(organism_model, examples) > 0.95
    shuffled = random.Random(0).sample([e.image for e in examples], len(examples))
    other = [
        gs.data.Example(e.id, e.group, e.question, e.choices, e.answer, i) for e, i in zip(examples, shuffled, strict=True)
    ]
    assert accuracy(organism_model, other) < 0.5


def test_the_known_neurons_carry_their_culture_and_no_other(organism, organism_model):
    masks = gs.ablate(organism.known)
    table = gs.sweep(organism_model, organism.study.evaluation[::4], masks, progress=False)
    effect = table.self_cross()["mask"].accuracy
    assert effect.self_ < -80 and abs(effect.cross) < 3


def test_training_batches_are_what_the_processor_gives(organism):
    """Training assembles its inputs by hand for speed; the real processor must agree token for token."""
    facts = world.facts(organism.recipe.seed)
    processor = build.processor(fact.word for fact in facts)
    pictures = train._Pictures(processor, facts, 1, "test")
    inputs, choices, taught = pictures.batch(list(range(7)), lambda row: "own")
    for row, fact in enumerate(facts[:7]):
        question = prompts.multiple_choice(world.question(fact.kind), choices[row], image=True)
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False) + f"{fact.word}<|im_end|>"
        real = processor(text=[text], images=[world.draw(fact, random.Random(1))], return_tensors="pt")
        mine = inputs["attention_mask"][row].bool()
        assert taught[row] == fact.word
        assert torch.equal(real["input_ids"][0], inputs["input_ids"][row][mine])
        assert torch.equal(real["mm_token_type_ids"][0], inputs["mm_token_type_ids"][row][mine])
        assert torch.equal(real["image_grid_thw"][0], inputs["image_grid_thw"][row])


def test_training_that_does_not_get_there_says_so():
    facts = world.facts()
    processor = build.processor(fact.word for fact in facts)
    recipe = Recipe(layers=1, width=18, hidden=64, routed=1, images_per_fact=1, max_steps=2)
    model = build.model(processor.tokenizer, layers=1, width=18, hidden=64, seed=0)
    with pytest.raises(gs.GatescopeError, match=r"held-out accuracy in 2 steps; 0.97 is needed. Try another Recipe"):
        train.train(model, processor, facts, recipe, lambda step, loss: None)
    assert type(model.model.language_model.layers[0].mlp.act_fn).__name__ == "SiLUActivation"


def test_loading_does_not_disturb_the_random_state(organism):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gs.organism.load()
    assert torch.equal(torch.get_rng_state(), before)
