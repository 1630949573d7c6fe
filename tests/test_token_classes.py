"""Text, image and generated tokens are counted apart, in one pass, and equal plain hooks."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from gatescope.traces.encoding import collate
from oracles.hooks import activation_modules


def test_text_and_image_tokens_add_up_to_all(organism_model, examples):
    options = {"only_correct": False, "batch_size": 4, "progress": False}
    parts = gs.record_classes(organism_model, examples, tokens=("all", "text", "image"), **options)
    assert torch.equal(parts["text"].K + parts["image"].K, parts["all"].K)
    assert torch.equal(parts["text"].T + parts["image"].T, parts["all"].T)
    torch.testing.assert_close(parts["text"].S + parts["image"].S, parts["all"].S, rtol=1e-6, atol=1e-5)
    alone = gs.record(organism_model, examples, tokens="image", **options)
    assert torch.equal(alone.K, parts["image"].K) and alone.provenance["tokens"] == "image"
    sizes = {e.group: 0 for e in examples}
    for e in examples:
        width, height = e.picture().size
        sizes[e.group] += (width // 28) * (height // 28)
    assert parts["image"].T.tolist() == [sizes[g] for g in parts["image"].groups]


@pytest.mark.parametrize("which", ["organism", "llama"])
def test_generated_tokens_equal_plain_hooks_step_by_step(which, organism_model, llama, examples):
    """Each row counts the tokens it generated before its end, except the last, which is never fed back."""
    model = organism_model if which == "organism" else llama
    batch_of = (
        examples[:3]
        if which == "organism"
        else [gs.data.Example(e.id, e.id, e.question, e.choices, e.answer) for e in examples[:3]]
    )
    options = {"only_correct": False, "batch_size": 3, "max_new_tokens": 7, "progress": False}
    found = gs.record_classes(model, batch_of, tokens=("generated", "all"), **options)
    plain = gs.record(model, batch_of, **options)
    assert torch.equal(found["all"].K, plain.K)

    module, inputs = model._module, collate(model, batch_of).inputs
    prefix = "model.language_model.layers" if which == "organism" else "model.layers"
    seen = {}
    handles = [
        part.register_forward_hook(lambda _m, _i, out, layer=layer: seen.setdefault(layer, []).append(out.clone()))
        for layer, part in enumerate(activation_modules(module, prefix))
    ]
    ids = module.generate(**inputs, max_new_tokens=7, do_sample=False, pad_token_id=model.tokenizer.pad_token_id)
    for handle in handles:
        handle.remove()
    new = ids[:, inputs["input_ids"].shape[1] :]
    ends = {model.tokenizer.eos_token_id, model.tokenizer.pad_token_id, *model.tokenizer.all_special_ids} - {
        model.tokenizer.unk_token_id
    }
    groups = found["generated"].groups
    k = torch.zeros_like(found["generated"].K)
    s = torch.zeros_like(found["generated"].S)
    t = torch.zeros(len(groups), dtype=torch.int64)
    for step in range(1, len(seen[0])):
        for row, example in enumerate(batch_of):
            if new[row, step - 1].item() in ends:
                continue
            g = groups.index(example.group)
            t[g] += 1
            for layer, outs in seen.items():
                k[g, layer] += outs[step][row, -1] > 0
                s[g, layer] += outs[step][row, -1].clamp(min=0)
    assert torch.equal(found["generated"].T, t) and t.sum() > 0
    assert torch.equal(found["generated"].K, k)
    torch.testing.assert_close(found["generated"].S, s, rtol=1e-5, atol=1e-5)


def test_a_run_keeps_classes_apart(organism_model, examples, tmp_path):
    options = {"only_correct": False, "batch_size": 4, "shard_size": 8, "progress": False}
    parts = gs.record_classes(organism_model, examples, tokens=("text", "image"), run=tmp_path / "run", **options)
    run = gs.open_run(tmp_path / "run")
    for name, counters in parts.items():
        assert torch.equal(run.counters_of(name).K, counters.K)
    with pytest.raises(gs.GatescopeError, match=r"has counters of \['text', 'image'\]; ask for one: run.counters_of\('text'\)"):
        _ = run.counters


def test_mistakes_are_sentences(organism_model, examples):
    with pytest.raises(gs.GatescopeError, match="tokens is 'words'; it must be 'all' or 'text' or 'image' or 'generated'"):
        gs.record(organism_model, examples, tokens="words", progress=False)
    with pytest.raises(gs.GatescopeError, match="tokens='generated' needs answers that are generated"):
        gs.record(organism_model, examples, tokens="generated", readout="label", progress=False)
