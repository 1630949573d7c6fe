"""Plans, batches that do not fit, workers: whatever the scheduling, the counts are the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from gatescope.steps import plan as schedule
from gatescope.steps.plan import bucketed, split_on_oom
from gatescope.traces.encoding import collate
from tiny import text_examples


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 100))
def test_buckets_hold_every_item_once_and_stay_within_the_budget(tokens, most):
    batches = bucketed(list(range(len(tokens))), tokens, most)
    assert sorted(i for batch in batches for i in batch) == list(range(len(tokens)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(tokens[i] for i in batch) <= most
    lengths = [tokens[i] for batch in batches for i in batch]
    assert lengths == sorted(lengths, reverse=True)


@given(st.lists(st.integers(), max_size=9), st.integers(1, 5))
def test_split_on_oom_does_every_item_once_in_order(items, fits):
    tried = []

    def work(some):
        tried.append(len(some))
        if len(some) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(some)

    with pytest.MonkeyPatch.context() as patch:  # collecting garbage after each takes long in a large process
        patch.setattr(schedule.gc, "collect", lambda: 0)
        assert [x for part in split_on_oom(work, items) for x in part] == items
    assert not items or tried[0] == len(items)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
        MemoryError("Unable to allocate 2.00 GiB for an array"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}",
)
def test_every_way_memory_runs_out_is_backed_off_from(error, monkeypatch):
    monkeypatch.setattr(schedule.gc, "collect", lambda: 0)

    def work(some):
        if len(some) > 1:
            raise error
        return some[0]

    assert split_on_oom(work, [1, 2, 3]) == [1, 2, 3]


def test_other_errors_are_passed_on():
    def work(_some):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        split_on_oom(work, [1, 2])


def test_the_cpus_own_words_for_it_are_known():
    """What the allocator really says when it is asked for too much."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert schedule.out_of_memory(caught.value)


@pytest.fixture
def small(request):
    """A model's memory made small: a forward pass of more rows than this fails as CUDA does."""

    def limit(model, rows: int) -> None:
        def check(_module, args, kwargs):
            ids = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
            if ids is not None and len(ids) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        handle = model._module.register_forward_pre_hook(check, with_kwargs=True)
        request.addfinalizer(handle.remove)

    return limit


def test_running_out_of_memory_loses_no_count(organism_model, examples, small, monkeypatch):
    monkeypatch.setattr(schedule.gc, "collect", lambda: 0)
    options = {"only_correct": False, "progress": False, "max_new_tokens": 4}
    before = gs.record_classes(organism_model, examples, tokens=("text", "image"), batch_size=8, **options)
    small(organism_model, 3)
    after = gs.record_classes(organism_model, examples, tokens=("text", "image"), batch_size=8, **options)
    for name in ("text", "image"):
        assert torch.equal(after[name].T, before[name].T) and torch.equal(after[name].seen, before[name].seen)
        assert (after[name].K - before[name].K).abs().sum() <= 1
        torch.testing.assert_close(after[name].S, before[name].S, rtol=1e-6, atol=1e-5)


def test_running_out_of_memory_loses_no_attribution_and_no_answer(llama, small, monkeypatch):
    monkeypatch.setattr(schedule.gc, "collect", lambda: 0)
    questions = text_examples(each=4)
    masks = {g: gs.ablate(gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 1, i)])) for i, g in enumerate("ab")}
    scores = gs.attribute(llama, questions, batch_size=8, progress=False)
    table = gs.sweep(llama, questions, masks, batch_size=8, max_new_tokens=3, progress=False)
    small(llama, 3)
    again = gs.attribute(llama, questions, batch_size=8, progress=False)
    torch.testing.assert_close(again.sums, scores.sums, rtol=1e-5, atol=1e-9)
    assert again.seen.tolist() == scores.seen.tolist()
    assert gs.sweep(llama, questions, masks, batch_size=8, max_new_tokens=3, progress=False).rows == table.rows


def test_masks_that_do_not_fit_side_by_side_go_one_after_the_other(llama, small, monkeypatch):
    """One example fits, three of its rows do not: it is the masks that are halved, and no example is to blame."""
    layout = gs.sites_of(llama)["gate"].layout
    masks = {g: gs.ablate(gs.NeuronSet(layout, torch.arange(i, layout.size, 3), {})) for i, g in enumerate("ab")}
    options = {"batch_size": 2, "max_new_tokens": 3, "progress": False}
    monkeypatch.setattr(schedule.gc, "collect", lambda: 0)
    table = gs.sweep(llama, text_examples(each=1), masks, **options)
    small(llama, 1)
    assert gs.sweep(llama, text_examples(each=1), masks, **options).rows == table.rows


def test_one_example_that_does_not_fit_is_named(llama, small):
    small(llama, 0)
    with pytest.raises(gs.GatescopeError, match=r"Example 'north0' alone does not fit into memory .*CUDA out of memory"):
        gs.record(llama, text_examples(each=1), only_correct=False, progress=False)


def test_automatic_batches_change_the_order_of_nothing(llama, tmp_path):
    questions = [
        dataclasses.replace(e, question=e.question + " again" * (7 * i % 5)) for i, e in enumerate(text_examples(each=8))
    ]
    options = {"only_correct": False, "progress": False, "max_new_tokens": 3}
    plain = gs.record(llama, questions, batch_size=4, run=tmp_path / "plain", **options)
    auto = gs.record(llama, questions, batch_size="auto", run=tmp_path / "auto", **options)
    assert torch.equal(auto.T, plain.T) and auto.groups == plain.groups
    assert (auto.K - plain.K).abs().sum() <= max(1, int(plain.K.sum()) // 1_000_000)
    torch.testing.assert_close(auto.S, plain.S, rtol=1e-6, atol=1e-5)
    answers = [(tmp_path / name / "identification.jsonl").read_text() for name in ("plain", "auto")]
    assert answers[0] == answers[1]
    planned = gs.open_run(tmp_path / "auto").manifest["record"]["shards"]
    lengths = {e.id: collate(llama, [e]).inputs["input_ids"].shape[1] for e in questions}
    for batch in (b for shard in planned for b in shard):
        assert len(batch) == 1 or len(batch) * max(lengths[i] - 1 for i in batch) <= schedule.CPU_TOKENS


def test_prompt_lengths_are_known_before_a_picture_is_decoded(organism_model, examples):
    sizes = schedule.lengths(organism_model, examples)
    true = [collate(organism_model, [e]).inputs["input_ids"].shape[1] for e in examples]
    assert all(abs(a - b) <= 1 for a, b in zip(sizes, true, strict=True))  # the placeholder is one token


def test_workers_give_the_same_bits(organism_model, examples):
    options = {"only_correct": False, "progress": False, "max_new_tokens": 3, "batch_size": 4}
    runs = [gs.record(organism_model, examples, workers=workers, **options) for workers in (0, 2)]
    assert torch.equal(runs[0].K, runs[1].K) and torch.equal(runs[0].S, runs[1].S)
    scores = [gs.attribute(organism_model, examples[:6], workers=workers, batch_size=3, progress=False) for workers in (0, 2)]
    assert torch.equal(scores[0].sums, scores[1].sums)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batch_size": "many"}, {"shard_size": 0}])
def test_a_bad_size_says_what_is_allowed(llama, sizes):
    with pytest.raises(gs.GatescopeError, match="both must be at least 1, or batch_size 'auto'"):
        gs.record(llama, text_examples(each=1), progress=False, **sizes)


@pytest.fixture
def poisoned(llama_path):
    """A model that gives NaN wherever the letter z is read."""
    model = gs.load_model(llama_path)
    letter = model.tokenizer("z", add_special_tokens=False).input_ids[0]
    model._module.get_input_embeddings().weight.data[letter] = torch.nan
    return model


def test_nan_names_layer_and_example(poisoned):
    questions = [dataclasses.replace(e, question="Fuzzy?") if e.id == "south1" else e for e in text_examples(each=2)]
    with pytest.raises(gs.GatescopeError, match=r"gave NaN at layer 0 in example 'south1'\. Load it in a wider dtype"):
        gs.record(poisoned, questions, only_correct=False, max_new_tokens=1, progress=False)
    labelled = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in questions]
    with pytest.raises(gs.GatescopeError, match=r"The model gave NaN at layer 0 \(gate_pre\) in example 'south1'"):
        gs.attribute(poisoned, labelled, progress=False)
