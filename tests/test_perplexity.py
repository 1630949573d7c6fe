"""Perplexity in padded, masked batches equals a plain Transformers loop over single texts, with hooks for the masks."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gatescope as gs
from gatescope.models.identity import identity
from gatescope.steps.perplexity import perplexity
from oracles.hooks import activation_modules, masked

TEXTS = ["The kite is red.", "A", "", "Boats sail on the lake in the evening, and the drums are heard.", "ねこ"]


def some_neurons(model, share, seed):
    layout = gs.sites_of(model)["gate"].layout
    order = torch.randperm(layout.size, generator=torch.Generator().manual_seed(seed))
    return gs.NeuronSet(layout, order[: int(share * layout.size)], identity(model))


def plain(path, texts, max_length, indices=None):
    """One text at a time, no padding, transformers' own loss; its mean weighed by the tokens predicted."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    width = model.config.intermediate_size
    hooks = masked(activation_modules(model, "model.layers"), indices, width) if indices else contextlib.nullcontext()
    total, count = 0.0, 0
    with torch.no_grad(), hooks:
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids[:, :max_length]
            if ids.shape[1] > 1:
                total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
                count += ids.shape[1] - 1
    return math.exp(total / count), count


@pytest.mark.parametrize("max_length", [12, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_it_equals_a_plain_loop_over_single_texts(llama, llama_path, batch_size, max_length):
    sets = {"some": some_neurons(llama, 0.3, 0), "many": some_neurons(llama, 0.8, 1)}
    masks = gs.ablate(sets)
    found = perplexity(llama, TEXTS, masks, batch_size=batch_size, max_length=max_length, progress=False)
    full, count = plain(llama_path, TEXTS, max_length)
    assert found.tokens == count
    assert found.full == pytest.approx(full, rel=1e-5)
    for name, neurons in sets.items():
        indices = {layer: index.tolist() for layer, index in neurons.indices("gate").items()}
        expected, _ = plain(llama_path, TEXTS, max_length, indices)
        assert found.masks[name] == pytest.approx(expected, rel=1e-5)
        assert found.changes[name] == pytest.approx(expected - full, abs=2e-5 * (expected + full))
        assert abs(expected - full) > 1e-3 * full  # the mask does something


def test_a_long_text_weighs_more_than_a_short_one(llama):
    one = [perplexity(llama, [TEXTS[i]], {}, progress=False) for i in (0, 3)]
    both = perplexity(llama, [TEXTS[0], TEXTS[3]], {}, progress=False)
    assert both.masks == {} and both.tokens == one[0].tokens + one[1].tokens
    mean = sum(p.tokens * math.log(p.full) for p in one) / both.tokens
    assert math.log(both.full) == pytest.approx(mean, rel=1e-6)


def test_mistakes_are_named(llama):
    wrong = [
        (lambda: perplexity(llama, [], {}, progress=False), "no token to predict in the 0 texts"),
        (lambda: perplexity(llama, [""], {}, progress=False), "no token to predict in the 1 texts"),
        (lambda: perplexity(llama, ["a"], {}, max_length=1, progress=False), "max_length 1"),
        (lambda: perplexity(llama, ["a"], {}, batch_size=0, progress=False), "batch_size is 0"),
    ]
    for call, message in wrong:
        with pytest.raises(gs.GatescopeError, match=message):
            call()
