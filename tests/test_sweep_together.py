"""Masks side by side give the answers of one mask at a time, token for token; a picture's features are made once."""

from __future__ import annotations

import dataclasses
import inspect

import nnsight
import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope.interventions.apply import side_by_side
from gatescope.traces import vision
from gatescope.traces.encoding import collate
from gatescope.traces.readouts import choices
from tiny import text_examples, varied_examples


def masks_of(model) -> dict[str, dict[str, gs.Intervention]]:
    """Several kinds, several sites, sets that overlap, one that changes nothing."""
    sites = gs.sites_of(model)
    gate, down = sites["gate"].layout, sites["hidden"].layout
    half = gs.NeuronSet(gate, torch.arange(0, gate.size, 2), {})
    few = gs.NeuronSet(gate, torch.arange(5, gate.size, 7), {})
    hidden = gs.NeuronSet(down, torch.arange(0, down.size, 3), {})
    none = gs.NeuronSet(gate, torch.arange(0), {})
    return {
        "kinds": {"a": gs.ablate(half), "b": gs.scale(few, 3.0), "c": gs.add(hidden, 8.0), "d": gs.set_to(few, 30.0)},
        "more": {"a": gs.ablate(none), "b": gs.ablate(hidden), "c": gs.ablate(half)},
    }


@pytest.fixture(scope="module", params=["llama", "opt", "phi3", "qwen2.5-vl", "llava-next-mistral", "gemma3-multimodal"])
def case(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("family") / request.param
    FAMILIES[request.param].build(path)
    model = gs.load_model(path)
    return model, varied_examples(5) if model.processor is not None else text_examples(each=3)


def test_the_answers_are_those_of_one_mask_at_a_time(case):
    model, examples = case
    options = {"batch_size": 3, "max_new_tokens": 5, "progress": False}
    alone, some, most = (gs.sweep(model, examples, masks_of(model), masks_per_batch=n, **options) for n in (1, 3, None))
    assert some.rows == most.rows == alone.rows


def test_the_logits_are_those_of_each_mask_alone(case):
    """The next token's, which differ from mask to mask even where a tiny model's answer does not."""
    model, examples = case
    masks = [None, *masks_of(model)["kinds"].values()]
    batch = collate(model, examples[:3])
    rows = vision.repeated(batch, len(masks), vision.features(model, batch))
    with torch.no_grad(), model.trace(**rows.inputs):
        side_by_side(model, masks)
        beside = nnsight.save(model.output.logits[:, -1])
    for mask, found in zip(masks, beside.split(3), strict=True):
        with torch.no_grad(), model.trace(**batch.inputs):
            if mask is not None:
                mask.apply(model)
            alone = nnsight.save(model.output.logits[:, -1])
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)
        assert mask is None or (alone - beside[:3]).abs().max() > 1e-2


@pytest.mark.parametrize("readout", ["label", "loglik"])
def test_other_read_outs_go_side_by_side_too(llama, readout):
    examples = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in text_examples(each=3)]
    options = {"batch_size": 4, "readout": readout, "progress": False}
    tables = [gs.sweep(llama, examples, masks_of(llama), masks_per_batch=n, **options) for n in (1, 4)]
    assert tables[0].rows == tables[1].rows


def test_options_are_encoded_once_whatever_the_number_of_masks(llama, monkeypatch):
    examples, encoded = text_examples(each=3), []
    monkeypatch.setattr(choices, "collate", lambda model, rows: encoded.extend(rows) or collate(model, rows))
    gs.sweep(llama, examples, masks_of(llama), batch_size=4, readout="loglik", progress=False)
    assert len(encoded) == sum(len(example.choices) for example in examples)


def test_one_mask_at_a_time_equals_the_mask_in_a_trace_of_its_own(organism_model, examples):
    """Against the plain way: apply, generate, no features kept."""
    from gatescope.traces.encoding import collate
    from gatescope.traces.readouts.generated import generate

    masks = masks_of(organism_model)["kinds"]
    table = gs.sweep(organism_model, examples[:6], masks, batch_size=6, max_new_tokens=5, progress=False)
    batch = collate(organism_model, examples[:6])
    for group, mask in masks.items():
        texts, _ = generate(organism_model, batch, lambda mask=mask: mask.apply(organism_model), max_new_tokens=5)
        assert [row.text for row in table.rows if row.mask == group] == texts


def test_the_picture_encoder_runs_once_a_batch_whatever_the_number_of_masks(organism_model, examples):
    if "mm_encoder_outputs" not in inspect.signature(organism_model._module.forward).parameters:
        pytest.skip("this release of transformers has models take pixels only")
    runs = []
    handle = organism_model._module.model.visual.register_forward_hook(lambda *_: runs.append(1))
    try:
        gs.sweep(organism_model, examples[:8], masks_of(organism_model), batch_size=4, max_new_tokens=3, progress=False)
    finally:
        handle.remove()
    assert len(runs) == 2


def test_a_mask_of_no_neurons_is_not_run_and_has_the_full_models_answers(llama):
    layout = gs.sites_of(llama)["gate"].layout
    rows = []  # of each forward pass: masks side by side are one pass of more rows
    handle = llama._module.register_forward_pre_hook(
        lambda _m, _a, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    options = {"max_new_tokens": 2, "progress": False}
    try:
        nothing = {"a": gs.ablate(gs.NeuronSet(layout, torch.arange(0), {}))}
        table = gs.sweep(llama, text_examples(each=2), nothing, **options)
        count = sum(rows)
        gs.sweep(llama, text_examples(each=2), {}, **options)
    finally:
        handle.remove()
    assert sum(rows) == 2 * count > 0
    full, masked = ([row.text for row in table.rows if row.mask == m] for m in ("", "a"))
    assert full == masked


def test_at_least_one_mask_at_a_time(llama):
    with pytest.raises(gs.GatescopeError, match="masks_per_batch is 0; at least one mask must be run at a time"):
        gs.sweep(llama, text_examples(each=1), {}, masks_per_batch=0, progress=False)
