"""What an intervention does not reach it says: in every form it has, on a model some of whose layers do not always run.

Mllama's layer 1 of 3 attends to a picture, and does not run where there is none.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import nnsight
import pytest
import torch
from transformers import AutoModelForImageTextToText

import gatescope as gs
from gatescope.interventions.value import plain
from gatescope.traces import travel
from gatescope.traces.encoding import collate
from gatescope.traces.readouts.generated import generation
from picture_families import PICTURES
from tiny import text_examples, varied_examples

GREEDY = {"max_new_tokens": 4, "do_sample": False}
QUIET = {"progress": False, "batch_size": 2}
NOT_RUN = r"language_model\.layers\.1\.mlp\.act_fn did not run when expected"


@pytest.fixture(scope="module")
def mllama_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mllama")
    PICTURES["mllama"](path)
    return path


@pytest.fixture(scope="module")
def mllama(mllama_path):
    return gs.load_model(mllama_path)


@pytest.fixture(scope="module")
def texts():
    return text_examples(each=1)


def off(model, *layers: int) -> gs.Intervention:
    layout = gs.sites_of(model)["gate"].layout
    return gs.ablate(gs.NeuronSet.of(layout, [("gate", layer, n) for layer in layers for n in range(0, 48, 2)]))


def applied(model, inputs, mask) -> torch.Tensor:
    with model.generate(**inputs, **GREEDY) as tracer:
        mask.apply(model)
        ids = nnsight.save(tracer.result)
    return ids


def traced(model, inputs, mask) -> None:
    with torch.no_grad(), model.trace(**inputs):
        mask.apply(model)
        nnsight.save(model.output.logits)


def edited(model, inputs, mask) -> None:
    other = mask.edit(model)
    with other.generate(**inputs, **GREEDY) as tracer:
        nnsight.save(tracer.result)


def looped(model, inputs, mask) -> None:
    with model.generate(**GREEDY) as tracer:
        with tracer.invoke(**inputs):
            nnsight.save(tracer.result)
        with tracer.invoke():
            for _ in tracer.iter[:]:
                mask.apply(model)


def shipped(model, inputs, mask) -> None:
    """As a server runs it."""
    job = {"generation": generation(model, 4)}
    travel.shipped().run_batch(model, job, {"way": "generate", "inputs": inputs}, plain(model, mask))


@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 1), (1,)], ids=str)
@pytest.mark.parametrize("way", [applied, traced, edited, looped, shipped])
def test_a_layer_that_does_not_run_is_named_however_the_mask_is_put_on(mllama, texts, way, layers):
    inputs = collate(mllama, texts).inputs
    with pytest.raises(gs.GatescopeError, match=NOT_RUN):
        way(mllama, inputs, off(mllama, *layers))


@pytest.mark.parametrize("together", [1, None])
@pytest.mark.parametrize("readout", ["generate", "loglik"])
def test_a_sweep_names_it_too(mllama, texts, together, readout):
    masks = {"a": off(mllama, 0, 1, 2), "b": off(mllama, 0)}
    with pytest.raises(gs.GatescopeError, match=NOT_RUN):
        gs.sweep(mllama, texts, masks, masks_per_batch=together, readout=readout, max_new_tokens=2, **QUIET)


def test_so_do_counts_means_and_attributions(mllama, texts):
    with pytest.raises(gs.GatescopeError, match=NOT_RUN):
        gs.record(mllama, texts, only_correct=False, max_new_tokens=2, **QUIET)
    with pytest.raises(gs.GatescopeError, match=NOT_RUN):
        gs.record(mllama, texts, tokens="generated", only_correct=False, max_new_tokens=3, **QUIET)
    with pytest.raises(gs.GatescopeError, match=NOT_RUN):
        gs.mean_activation(mllama, texts, **QUIET)
    with pytest.raises(gs.GatescopeError, match=NOT_RUN):
        gs.attribute(mllama, texts, sites=("gate",), **QUIET)


@contextlib.contextmanager
def hooked(plain, layers):
    """Every other neuron of some layers off, by plain hooks."""

    def half(_module, _inputs, output):
        kept = output.clone()
        kept[..., ::2] = 0
        return kept

    parts = [plain.get_submodule(f"model.language_model.layers.{layer}.mlp.act_fn") for layer in layers]
    handles = [part.register_forward_hook(half) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("layers", "pictures"), [((0, 2), False), ((0, 1, 2), True), ((1,), True)], ids=str)
def test_layers_that_run_are_masked_at_every_step(mllama_path, mllama, texts, layers, pictures):
    inputs = collate(mllama, varied_examples(2) if pictures else texts).inputs
    plain: Any = AutoModelForImageTextToText.from_pretrained(mllama_path).eval()
    free = plain.generate(**inputs, **GREEDY)
    with hooked(plain, layers):
        expected = plain.generate(**inputs, **GREEDY)
    assert not torch.equal(expected, free)
    assert torch.equal(applied(mllama, inputs, off(mllama, *layers)), expected)


def test_a_run_that_ends_early_ends_quietly(llama, recwarn):
    """After one token, and after an end that the model generates: no step is missing, for the run made none."""
    inputs = collate(llama, text_examples(each=1)).inputs
    mask = off(llama, 0, 2)
    with llama.generate(**inputs, max_new_tokens=1, do_sample=False) as tracer:
        mask.apply(llama)
        first = nnsight.save(tracer.result)
    ends = first[:, -1].unique().tolist()
    with llama.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=ends) as tracer:
        mask.apply(llama)
        ids = nnsight.save(tracer.result)
    assert torch.equal(ids, first)
    options = {"only_correct": False, "readout": "generate", "max_new_tokens": 1, **QUIET}
    counters = gs.record(llama, text_examples(each=1), tokens="generated", **options)
    assert counters.T.sum() == 0 and counters.K.sum() == 0
    assert not [w for w in recwarn if "was never reached" in str(w.message)]


def test_a_run_that_is_stopped_on_purpose_ends_quietly(llama):
    """Passages are read as far as the last layer that is counted, and a mask reaches as far as that."""
    inputs = collate(llama, text_examples(each=1)).inputs
    first, last = gs.sites_of(llama)["gate"].paths[0], off(llama, 0, 2)
    with torch.no_grad(), llama.trace(**inputs) as tracer:
        last.apply(llama)
        gate = nnsight.save(llama.get(first).output)
        tracer.stop()
    assert (gate[..., ::2] == 0).all() and (gate[..., 1::2] != 0).any()


def late(model, inputs, mask, path: str) -> None:
    with model.generate(**inputs, **GREEDY) as tracer:
        nnsight.save(model.get(path).output)
        mask.apply(model)
        nnsight.save(tracer.result)


def test_an_intervention_that_comes_too_late_is_refused(llama):
    """Half of it would be left out of the step."""
    inputs = collate(llama, text_examples(each=1)).inputs
    mask, middle = off(llama, 0, 2), gs.sites_of(llama)["gate"].paths[1]
    with pytest.raises(gs.GatescopeError, match=r"The model is past model.layers.0.mlp.act_fn already.*Apply it before the"):
        late(llama, inputs, mask, middle)
    with torch.no_grad(), llama.trace(**inputs):  # what lies ahead as a whole is masked
        _ = llama.get(middle).output
        off(llama, 1, 2).apply(llama)
        later = nnsight.save(llama.get(gs.sites_of(llama)["gate"].paths[2]).output)
    assert (later[..., ::2] == 0).all()


def test_what_mllama_cannot_do_is_refused_by_name(mllama, texts):
    pictures = varied_examples(2)
    for site in ("k", "v"):  # its layer 1 has keys and values of the picture, not of the prompt's tokens
        layout = gs.sites_of(mllama)[site].layout
        assert str(layout) == f"{site} [layer 0 x 16, layer 2 x 16]"
        with pytest.raises(gs.GatescopeError, match=rf"Layer 1 has no site '{site}'; there is {re.escape(str(layout))}"):
            gs.sites_of(mllama)[site].at(1)
        assert gs.record(mllama, pictures, site=site, only_correct=False, **QUIET).layout == layout
    with pytest.raises(gs.GatescopeError, match=r"MllamaForConditionalGeneration takes.*2 of these 3 have one.*apart"):
        gs.record(mllama, [*pictures, texts[0]], only_correct=False, progress=False)
