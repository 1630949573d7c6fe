"""Counters equal what plain hooks count on the same batches, whatever the batch size and padding."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

import gatescope as gs
from gatescope.batches import collate
from oracles.hooks import activation_modules, prefill_counters


def reference(path, model, examples, batch_size, layers_path="model.language_model.layers"):
    """K, S, T a group by hooks on a model loaded without gatescope, on the same batches; every example counted."""
    plain = AutoModelForImageTextToText.from_pretrained(path).eval()
    modules = activation_modules(plain, layers_path)
    groups = list(dict.fromkeys(e.group for e in examples))
    totals = None
    for start in range(0, len(examples), batch_size):
        batch = collate(model, examples[start : start + batch_size])
        k, s, t = prefill_counters(plain, modules, batch.inputs, batch.valid)
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
    for row, counts in zip(pieces, batch.valid.tolist(), strict=True):
        expected = [not (p.startswith("<|") and p != "<|image_pad|>") for p in row]
        assert counts == expected
        assert "user" in [p for p, c in zip(row, counts, strict=True) if c]
    assert len({len(row) for row in pieces}) == 1 and any("<|endoftext|>" in row for row in pieces)


def test_only_correct_answers_are_counted(organism_model, organism):
    examples = organism.study.identification[:12]
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
