"""Masked generation equals plain hooks token for token, however the mask is put on, and leaves nothing behind."""

from __future__ import annotations

import warnings

import nnsight
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import gatescope as gs
from gatescope.models.identity import identity
from gatescope.traces.encoding import collate
from oracles.hooks import activation_modules, masked

STEPS = 24
GREEDY = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}


def some_neurons(model, share, seed=0):
    layout = gs.sites_of(model)["gate"].layout
    order = torch.randperm(layout.size, generator=torch.Generator().manual_seed(seed))
    return gs.NeuronSet(layout, order[: int(share * layout.size)], identity(model))


class Case:
    """A model under gatescope, the same one plainly loaded, a batch, and half its neurons."""

    def __init__(self, path, model, auto, layers_path, examples):
        self.model, self.plain = model, auto.from_pretrained(path).eval()
        self.modules = activation_modules(self.plain, layers_path)
        self.inputs = collate(model, examples).inputs
        self.neurons = some_neurons(model, 0.5)
        self.width = self.neurons.layout.only().width
        self.intervention = gs.ablate(self.neurons)

    def hooked(self, neurons=None):
        indices: dict[int, list[int]] = {}
        for _, layer, index in neurons if neurons is not None else self.neurons:
            indices.setdefault(layer, []).append(index)
        with masked(self.modules, indices, self.width):
            return self.plain.generate(**self.inputs, **GREEDY)

    def unmasked(self):
        return self.plain.generate(**self.inputs, **GREEDY)


@pytest.fixture(scope="module", params=["qwen2.5-vl", "llava-next", "llama"])
def case(request, organism, organism_model, llava_path, llava, llama_path, llama, examples):
    if request.param == "llama":
        text = [gs.data.Example(e.id, e.group, e.question, e.choices, e.answer) for e in examples[:3]]
        return Case(llama_path, llama, AutoModelForCausalLM, "model.layers", text)
    path, model = (organism.path, organism_model) if request.param == "qwen2.5-vl" else (llava_path, llava)
    return Case(path, model, AutoModelForImageTextToText, "model.language_model.layers", examples[:3])


def test_apply_holds_at_every_generated_token(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with case.model.generate(**case.inputs, **GREEDY) as tracer:
            case.intervention.apply(case.model)
            ids = tracer.result.save()
    assert torch.equal(ids, case.hooked())
    assert not torch.equal(ids, case.unmasked())


def test_an_edited_model_is_masked_in_every_trace(case):
    edited = case.intervention.edit(case.model)
    for _ in range(2):
        with edited.generate(**case.inputs, **GREEDY) as tracer:
            ids = tracer.result.save()
        assert torch.equal(ids, case.hooked())
    with torch.no_grad(), edited.trace(**case.inputs):
        logits = edited.output.logits.save()
    indices = {layer: index.tolist() for layer, index in case.neurons.indices("gate").items()}
    with torch.no_grad(), masked(case.modules, indices, case.width):
        expected = case.plain(**case.inputs).logits
    real = case.inputs["attention_mask"].bool()
    # close, not equal: nnsight numbers the positions of left-padded text from its first real token
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)


def test_the_model_is_untouched_afterwards(case):
    case.model._module.generate(**case.inputs, max_new_tokens=2)  # transformers hangs hooks of its own on some models
    hooks = [len(module._forward_hooks) for module in case.model._module.modules()]
    before = identity(case.model)["digest"]
    case.intervention.edit(case.model)
    with case.model.generate(**case.inputs, **GREEDY) as tracer:
        case.intervention.apply(case.model)
        _ = tracer.result.save()
    with case.model.generate(**case.inputs, **GREEDY) as tracer:
        ids = tracer.result.save()
    assert torch.equal(ids, case.unmasked())
    assert identity(case.model)["digest"] == before
    assert [len(module._forward_hooks) for module in case.model._module.modules()] == hooks


def test_the_caller_may_read_any_layer_after_applying(case):
    first = gs.sites_of(case.model)["gate"].paths[0]
    with case.model.trace(**case.inputs):
        case.intervention.apply(case.model)
        gate = nnsight.save(case.model.get(first).output)
        logits = nnsight.save(case.model.output.logits)
    off = case.neurons.mask("gate")[0]
    assert (gate[..., off] == 0).all() and (gate[..., ~off] != 0).any()
    assert logits.shape[:2] == case.inputs["input_ids"].shape


def test_two_interventions_add_up(case):
    half = len(case.neurons) // 2
    parts = [gs.NeuronSet(case.neurons.layout, flat) for flat in (case.neurons.flat[:half], case.neurons.flat[half:])]
    with case.model.generate(**case.inputs, **GREEDY) as tracer:
        for part in parts:
            gs.ablate(part).apply(case.model)
        ids = tracer.result.save()
    assert torch.equal(ids, case.hooked())


def test_in_a_loop_over_steps_it_holds_for_those_steps(case):
    with case.model.generate(**GREEDY) as tracer:
        with tracer.invoke(**case.inputs):
            ids = tracer.result.save()
        with tracer.invoke():
            for _ in tracer.iter[:]:
                case.intervention.apply(case.model)
    assert torch.equal(ids, case.hooked())

    calls = {}

    def first_two_steps(module, _inputs, output):
        calls[module] = calls.get(module, 0) + 1
        layer = case.modules.index(module)
        keep = (~case.neurons.mask("gate")[layer]).float()
        return output * keep if calls[module] <= 2 else output

    handles = [module.register_forward_hook(first_two_steps) for module in case.modules]
    expected = case.plain.generate(**case.inputs, **GREEDY)
    for handle in handles:
        handle.remove()
    with case.model.generate(**case.inputs, **GREEDY) as tracer:
        for _ in tracer.iter[:2]:
            case.intervention.apply(case.model)
        ids = tracer.result.save()
    assert torch.equal(ids, expected)


def test_a_loop_hidden_in_a_helper_holds_too(case):
    def in_a_helper(tracer):
        for _ in tracer.iter[:]:
            case.intervention.apply(case.model)

    with case.model.generate(**GREEDY) as tracer:
        with tracer.invoke(**case.inputs):
            ids = tracer.result.save()
        with tracer.invoke():
            in_a_helper(tracer)
    assert torch.equal(ids, case.hooked())


def test_no_neurons_change_nothing(case):
    nothing = gs.ablate(gs.NeuronSet.of(case.neurons.layout, []))
    with case.model.generate(**case.inputs, **GREEDY) as tracer:
        nothing.apply(case.model)
        ids = tracer.result.save()
    assert torch.equal(ids, case.unmasked())


def test_in_an_invoke_it_holds_for_its_rows(llama):
    """One prompt masked, the other not, in one batch of texts."""
    neurons = some_neurons(llama, 0.5)
    prompts = ["a kite and a boat", "a drum"]
    with torch.no_grad(), llama.trace() as tracer:
        with tracer.invoke(prompts[0]):
            gs.ablate(neurons).apply(llama)
            masked_logits = llama.output.logits[:, -1].save()
        with tracer.invoke(prompts[1]):
            free_logits = llama.output.logits[:, -1].save()
    with torch.no_grad(), llama.trace(prompts[0]):
        gs.ablate(neurons).apply(llama)
        masked_alone = llama.output.logits[:, -1].save()
    with torch.no_grad(), llama.trace(prompts[1]):
        free_alone = llama.output.logits[:, -1].save()
    torch.testing.assert_close(masked_logits, masked_alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(free_logits, free_alone, rtol=1e-4, atol=1e-4)


def test_apply_outside_a_trace_says_what_to_write(case):
    with pytest.raises(gs.GatescopeError, match=r"works inside a trace.*edited = intervention.edit\(model\)"):
        case.intervention.apply(case.model)


def test_neurons_of_another_model_are_refused_by_name(organism_model, llama):
    foreign = gs.ablate(some_neurons(llama, 0.1))
    with pytest.raises(gs.GatescopeError, match=r"Cannot apply an intervention: one model is .*llama.* the other .*selective"):
        foreign.edit(organism_model)


def test_neurons_of_another_shape_are_refused(organism_model):
    wrong = gs.NeuronSet.of(gs.Layout.single("gate", 3, 299), [("gate", 0, 0)])
    with pytest.raises(gs.GatescopeError, match=r"gate \[3 layers x 299\]; the model has gate \[3 layers x 300\]"):
        gs.ablate(wrong).edit(organism_model)


def hooked_generation(case, change, steps=8):
    """Plain generation in which `change(activation, layer, call)` replaces the chosen columns; `call` counts from 0."""
    calls = dict.fromkeys(case.modules, -1)

    def hook(module, _inputs, output):
        calls[module] += 1
        layer = case.modules.index(module)
        off = case.neurons.mask("gate")[layer]
        return torch.where(off, change(output, calls[module]), output)

    handles = [module.register_forward_hook(hook) for module in case.modules]
    try:
        return case.plain.generate(**case.inputs, **GREEDY | {"max_new_tokens": steps, "min_new_tokens": steps})
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def text_case(llama_path, llama, examples):
    text = [gs.data.Example(e.id, e.group, e.question, e.choices, e.answer) for e in examples[:3]]
    return Case(llama_path, llama, AutoModelForCausalLM, "model.layers", text)


@pytest.mark.parametrize("where", ["at once", "in a loop", "in a helper's loop"])
def test_a_factor_is_applied_once_a_step_wherever_it_is_applied(text_case, where):
    """Switching off twice is switching off; a factor is not so patient."""
    case, steps = text_case, {**GREEDY, "max_new_tokens": 8, "min_new_tokens": 8}
    double = gs.scale(case.neurons, -2.0)

    def in_a_helper(tracer):
        for _ in tracer.iter[:]:
            double.apply(case.model)

    with case.model.generate(**steps) as tracer:
        with tracer.invoke(**case.inputs):
            ids = tracer.result.save()
        with tracer.invoke():
            if where == "at once":
                double.apply(case.model)
            elif where == "in a helper's loop":
                in_a_helper(tracer)
            else:
                for _ in tracer.iter[:]:
                    double.apply(case.model)
    expected = hooked_generation(case, lambda old, _: old * -2)
    assert torch.equal(ids, expected)
    for wrong in (lambda old, _: old * 4, lambda old, call: old * (4 if call else -2)):
        assert not torch.equal(expected, hooked_generation(case, wrong)), "these prompts cannot tell once from twice"


@pytest.mark.parametrize("loop", ["iter", "all"])
def test_in_a_loop_it_holds_for_the_steps_in_which_it_is_applied(text_case, loop):
    """Applied at the first step of a loop over all steps, and at no other."""
    case, steps = text_case, {**GREEDY, "max_new_tokens": 8, "min_new_tokens": 8}
    embedding = case.model.model.embed_tokens
    with case.model.generate(**steps) as tracer:
        with tracer.invoke(**case.inputs):
            ids = tracer.result.save()
        with tracer.invoke():
            if loop == "iter":
                for step in tracer.iter[:]:
                    _ = embedding.input
                    if step == 0:
                        case.intervention.apply(case.model)
            else:
                for step in tracer.all():
                    _ = embedding.input
                    if step == 0:
                        case.intervention.apply(case.model)
    expected = hooked_generation(case, lambda old, call: old * (0 if call == 0 else 1))
    assert torch.equal(ids, expected)
    assert not torch.equal(expected, hooked_generation(case, lambda old, _: old * 0))


def test_a_digest_tells_apart_all_that_can_change_a_result(llama):
    """By it a run knows whether it is continued with the same masks."""
    gate, pre = (gs.sites_of(llama)[name].layout for name in ("gate", "gate_pre"))
    first, other = gs.NeuronSet(gate, torch.tensor([3, 50])), gs.NeuronSet(gate, torch.tensor([3, 51]))
    different = [
        gs.ablate(first), gs.ablate(other), gs.ablate(gs.NeuronSet(pre, torch.tensor([3, 50]))),
        gs.scale(first, 2.0), gs.scale(first, 3.0), gs.set_to(first, 2.0), gs.add(first, 2.0),
        gs.add(first, torch.tensor([2.0, 3.0])), gs.add(first, torch.tensor([3.0, 2.0])),
    ]  # fmt: skip
    assert len({mask.digest() for mask in different}) == len(different)
    again = gs.scale(gs.NeuronSet(gate, torch.tensor([3, 50]), identity(llama)), 2.0)
    assert again.digest() == gs.scale(first, 2.0).digest()
