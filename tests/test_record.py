"""Counters equal what plain hooks count on the same batches, whatever the batch size and padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForImageTextToText

import gatescope as gs
from gatescope.traces.encoding import collate
from oracles.hooks import activation_modules, prefill_counters
from tiny import text_examples


def reference(path, model, examples, batch_size, layers_path="model.language_model.layers"):
    """K, S, T a group by hooks on a model loaded without gatescope, on the same batches; every example counted."""
    plain = AutoModelForImageTextToText.from_pretrained(path).eval()
    modules = activation_modules(plain, layers_path)
    groups = list(dict.fromkeys(e.group for e in examples))
    totals = None
    for start in range(0, len(examples), batch_size):
        batch = collate(model, examples[start : start + batch_size])
        k, s, t = prefill_counters(plain, modules, batch.inputs, batch.token_mask)
        if totals is None:
            totals = [torch.zeros(len(groups), *k.shape[1:], dtype=d) for d in (torch.int64, torch.float64)]
            totals.append(torch.zeros(len(groups), dtype=torch.int64))
        for row, example in enumerate(batch.examples):
            for total, part in zip(totals, (k, s, t), strict=True):
                total[groups.index(example.group)] += part[row]
    return totals


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_counters_equal_plain_hooks_on_the_same_batches(organism, organism_model, examples, batch_size):
    counters = gs.record(organism_model, examples, batch_size=batch_size, only_correct=False, progress=False)
    k, s, t = reference(organism.path, organism_model, examples, batch_size)
    assert torch.equal(counters.K, k)
    assert torch.equal(counters.T, t)
    torch.testing.assert_close(counters.S, s, rtol=1e-6, atol=1e-6)


def test_counters_equal_plain_hooks_on_llava_next(llava_path, llava, examples):
    counters = gs.record(llava, examples[:6], batch_size=3, only_correct=False, max_new_tokens=2, progress=False)
    k, s, t = reference(llava_path, llava, examples[:6], 3)
    assert torch.equal(counters.K, k)
    assert torch.equal(counters.T, t)
    torch.testing.assert_close(counters.S, s, rtol=1e-6, atol=1e-6)


def test_batch_size_and_padding_do_not_change_the_counts(organism_model, examples):
    runs = [
        gs.record(organism_model, examples, batch_size=size, shard_size=5, only_correct=False, progress=False)
        for size in (1, 3, 8)
    ]
    for other in runs[1:]:
        assert torch.equal(other.T, runs[0].T)
        total = int(runs[0].T.sum()) * runs[0].layout.size
        assert (other.K - runs[0].K).abs().sum() <= max(1, total // 1_000_000)
        torch.testing.assert_close(other.S, runs[0].S, rtol=1e-6, atol=1e-4)


def test_padding_and_markers_are_not_counted(organism_model, examples):
    batch = collate(organism_model, examples[:4])
    pieces = [organism_model.tokenizer.convert_ids_to_tokens(row.tolist()) for row in batch.inputs["input_ids"]]
    for row, counts in zip(pieces, batch.token_mask.tolist(), strict=True):
        expected = [not (p.startswith("<|") and p != "<|image_pad|>") for p in row]
        assert counts == expected
        assert "user" in [p for p, c in zip(row, counts, strict=True) if c]
    assert len({len(row) for row in pieces}) == 1 and any("<|endoftext|>" in row for row in pieces)


def answered(model, examples):
    """Those whose answer is the first word of what the plain model says."""
    ids = model._module.generate(**collate(model, examples).inputs, max_new_tokens=2, do_sample=False)[:, -2:]
    said = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [e for e, text in zip(examples, said, strict=True) if text.strip() == e.answer]


def test_only_correct_answers_are_counted(organism_model, organism):
    examples = answered(organism_model, organism.study.identification[:20])[:12]
    wrong = [
        gs.data.Example(e.id, e.group, e.question, e.choices, next(c for c in e.choices if c != e.answer), e.image)
        for e in examples[:5]
    ]
    counters = gs.record(organism_model, [*wrong, *examples[5:]], batch_size=4, progress=False)
    kept = gs.record(organism_model, examples[5:], batch_size=4, only_correct=False, progress=False)
    assert counters.seen.tolist() == [12] and counters.counted.tolist() == [7]
    assert torch.equal(counters.T, kept.T)
    assert (counters.K - kept.K).abs().sum() <= 1


def test_shards_of_a_run_add_up_to_the_counters(organism_model, organism, tmp_path):
    examples = organism.study.identification[::12]
    counters = gs.record(organism_model, examples, run=tmp_path / "run", shard_size=6, batch_size=4, progress=False)
    run = gs.open_run(tmp_path / "run")
    assert len(list((tmp_path / "run" / "shards").glob("*.safetensors"))) == 4
    for name in ("K", "S", "T", "seen", "counted"):
        assert torch.equal(getattr(run.counters, name), getattr(counters, name))
    assert run.manifest["model"]["class"] == "Qwen2_5_VLForConditionalGeneration"
    planned = [i for shard in run.manifest["record"]["shards"] for batch in shard for i in batch]
    assert planned == [e.id for e in examples]
    (tmp_path / "run" / "shards" / "00001.safetensors").unlink()
    with pytest.raises(gs.GatescopeError, match="3 of 4 shards; run the same command again"):
        _ = run.counters
    again = gs.record(organism_model, examples, run=tmp_path / "run", shard_size=6, batch_size=4, progress=False)
    assert torch.equal(again.K, counters.K) and torch.equal(again.S, counters.S)


def test_recording_nothing_is_an_error(organism_model):
    with pytest.raises(gs.GatescopeError, match="needs examples"):
        gs.record(organism_model, [], progress=False)


def test_an_unknown_site_is_named(organism_model, examples):
    with pytest.raises(gs.GatescopeError, match=r"no site 'gatte'; it has 'gate_pre', 'gate', 'up', 'hidden', 'q', 'k', 'v'"):
        gs.record(organism_model, examples, site="gatte", progress=False)


def test_sums_over_the_examples_of_a_batch_are_float64_to_the_bit(llama):
    """Passages of one length, so nothing is padded: an example's float32 sums by hooks on the same batch, added in float64."""
    passages = [gs.data.Example.passage(str(i), "g", f"the drums of village {i:02} at dusk") for i in range(24)]
    found = gs.record(llama, passages, readout="none", only_correct=False, batch_size=24, progress=False)
    batch, seen = collate(llama, passages), []
    assert batch.inputs["attention_mask"].all()
    handles = [
        m.register_forward_hook(lambda _m, _i, out: seen.append(out.clone()))
        for m in activation_modules(llama._module, "model.layers")
    ]
    try:
        with torch.no_grad():
            llama._module(**batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    each = torch.stack([torch.where(batch.token_mask[..., None], out, 0).clamp(min=0).sum(1) for out in seen])  # [l, b, n]
    assert each.dtype == torch.float32
    exact = each.double().sum(1)
    assert torch.equal(found.S[0], exact)
    assert not torch.equal(each.sum(1).double(), exact), "these sums cannot tell float32 from float64"


@pytest.fixture
def ending(llama_path):
    """A model whose rows end at different steps, and what each row says up to its end: an end is any token we call one.

    Free generation is taken first; then a token that some rows come to early, others late or never, is made the end.
    """
    model = gs.load_model(llama_path)
    questions = [gs.data.Example(f"e{i}", "g", f"What of {i * 'ra'}?", ("a", "b"), "a") for i in range(6)]
    free, module, tokenizer = [], model._module, model.tokenizer
    for question in questions:
        inputs = collate(model, [question]).inputs
        ids = module.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
        free.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
    special = set(tokenizer.all_special_ids)

    def said(end: int) -> list[list[int]]:
        return [row[: row.index(end)] if end in row else row for row in free]

    ends = [t for row in free for t in row if t not in special and len(tokenizer.decode([t]).strip()) == 1]
    end = max(ends, key=lambda t: len({len(row) for row in said(t)}))
    assert len({len(row) for row in said(end)}) >= 3 and not special & {t for row in said(end) for t in row}
    tokenizer.add_special_tokens({"eos_token": tokenizer.convert_ids_to_tokens(end)})
    module.generation_config.eos_token_id = end
    return model, questions, said(end)


def test_ends_and_the_padding_after_them_are_not_counted_as_generated(ending):
    """T is what each row said before its end; the last of all, at the twelfth step, is never fed back."""
    model, questions, said = ending
    options = {"tokens": "generated", "only_correct": False, "max_new_tokens": 12, "progress": False}
    found = gs.record(model, questions, batch_size=6, **options)
    assert found.T.tolist() == [sum(min(len(row), 11) for row in said)]
    alone = gs.record(model, questions, batch_size=1, **options)
    assert torch.equal(alone.T, found.T) and torch.equal(alone.K, found.K)
    torch.testing.assert_close(alone.S, found.S, rtol=1e-5, atol=1e-5)
    assert int(found.K.max()) in range(1, int(found.T[0]) + 1)


def test_answers_are_read_without_ends_and_padding(ending):
    model, questions, said = ending
    table = gs.sweep(model, questions, {}, batch_size=6, max_new_tokens=12, progress=False)
    for row, tokens in zip(table.rows, said, strict=True):
        assert row.text == model.tokenizer.decode(tokens)


def test_groups_stand_in_the_order_in_which_they_are_met(llama):
    examples = text_examples(groups=("southward", "north", "east"), each=1)
    found = gs.record(llama, examples, only_correct=False, max_new_tokens=1, progress=False)
    assert found.groups == ("southward", "north", "east")
    lengths = [int(collate(llama, [e]).token_mask.sum()) for e in examples]
    assert found.T.tolist() == lengths and len(set(lengths)) == 3


def test_an_example_that_is_wrong_is_seen_and_not_counted(llama):
    """Of a random model's answers by label, some are right: T is those examples' tokens, in one shard or in several."""
    examples = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in text_examples(each=6)]
    answers = gs.sweep(llama, examples, {}, readout="label", progress=False).rows
    said = {row.id: row.text for row in answers}
    right = [
        dataclasses.replace(e, answer=e.choices[e.labels.index(said[e.id])]) if i % 3 else
        dataclasses.replace(e, answer=next(c for c, name in zip(e.choices, e.labels, strict=True) if name != said[e.id]))
        for i, e in enumerate(examples)
    ]  # fmt: skip
    tokens = {g: sum(int(collate(llama, [e]).token_mask.sum()) for i, e in enumerate(right) if i % 3 and e.group == g)
              for g in ("north", "south")}  # fmt: skip
    for sizes in ({"batch_size": 12}, {"batch_size": 2, "shard_size": 4}):
        found = gs.record(llama, right, readout="label", progress=False, **sizes)
        assert found.seen.tolist() == [6, 6] and found.counted.tolist() == [4, 4]
        assert found.T.tolist() == [tokens["north"], tokens["south"]]


NOTHING = {
    "tokens": (
        lambda model, examples: gs.record_classes(model, examples, tokens=()),
        "names no class of tokens; there are 'all'",
    ),
    "sites": (lambda model, examples: gs.attribute(model, examples, sites=()), "Attribution needs sites; there are none"),
    "batch": (lambda model, examples: gs.mean_activation(model, examples, batch_size=0), "batch_size is 0; at least 1 example"),
    "examples": (lambda model, _: gs.remote.estimate_record(model, []), "An estimate needs examples; there are none"),
}


@pytest.mark.parametrize("what", NOTHING)
def test_to_ask_for_nothing_is_refused_in_a_sentence(llama, what):
    call, message = NOTHING[what]
    with pytest.raises(gs.GatescopeError, match=message):
        call(llama, text_examples(each=1))
