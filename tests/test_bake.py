"""An intervention in the weights is the intervention in the trace: the same tokens, saved, loaded and served by anything."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

import gatescope as gs
from families import FAMILIES
from gatescope.interventions.bake import baked
from gatescope.interventions.checkpoint import baked_from, save_baked
from gatescope.models.identity import identity

STEPS = 12
GREEDY = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
KINDS = {
    "zero": gs.ablate,
    "scale": lambda ns: gs.scale(ns, 1.7),
    "set": lambda ns: gs.set_to(ns, torch.arange(len(ns)) % 5 / 10),
    "add": lambda ns: gs.add(ns, torch.arange(len(ns)) % 5 / 10),
}
# Where a bias holds "set" and "add": GPT-2, NeoX and OPT have one everywhere, Qwen2 on q, k and v.
PLAIN = ("gpt2", "gpt-neox", "opt")
QKV_BIAS = ("qwen2", "qwen2.5-vl", "llava-next-qwen2", *PLAIN)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("baked") / request.param
    FAMILIES[request.param].build(path)
    return request.param, FAMILIES[request.param], gs.load_model(path)


def third(model, *names):
    """Every third neuron of the sites named, of all if none is."""
    sites = gs.sites_of(model)
    layout = gs.Layout(tuple(sites[name].layout.only() for name in names or sites))
    return gs.NeuronSet(layout, torch.arange(0, layout.size, 3), identity(model))


def inputs():
    ids = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def can_bake(name, site, kind):
    return kind in ("zero", "scale") or name in PLAIN or (name in QKV_BIAS and site in ("q", "k", "v"))


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_site_it_equals_the_intervention_or_is_refused(family, kind):
    name, _, model = family
    before, digest = weights(model._module), identity(model)["digest"]
    for site in gs.sites_of(model):
        intervention = KINDS[kind](third(model, site))
        if not can_bake(name, site, kind):
            message = rf"'{kind}' on site '{site}' cannot be baked"
            with pytest.raises(gs.GatescopeError, match=message), baked(intervention, model):
                pass
            continue
        with torch.no_grad(), model.trace(**inputs()):
            intervention.apply(model)
            expected = model.output.logits.save()
        with baked(intervention, model) as module, torch.no_grad():
            found = module(**inputs()).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert identity(model)["digest"] == digest
    assert all(torch.equal(tensor, before[key]) for key, tensor in model._module.state_dict().items())


def test_several_sites_of_one_layer_add_up(family):
    """Neurons of gate_pre, gate and hidden share columns; what comes later in a forward pass comes on top."""
    name, _, model = family
    kinds = KINDS if name in PLAIN else ("zero", "scale")
    for kind in kinds:
        intervention = KINDS[kind](third(model))
        with torch.no_grad(), model.trace(**inputs()):
            intervention.apply(model)
            expected = model.output.logits.save()
        with baked(intervention, model) as module, torch.no_grad():
            found = module(**inputs()).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_a_saved_checkpoint_gives_plain_transformers_the_tokens_of_the_edited_model(family, tmp_path):
    _, spec, model = family
    intervention = gs.ablate(third(model, "gate"))
    path = save_baked(intervention, model, tmp_path / "masked")
    plain = spec.auto.from_pretrained(path).eval()
    edited = intervention.edit(model)
    with edited.generate(**inputs(), **GREEDY) as tracer:
        expected = tracer.result.save()
    assert torch.equal(plain.generate(**inputs(), **GREEDY), expected)
    assert not torch.equal(model._module.generate(**inputs(), **GREEDY), expected)
    with torch.no_grad(), edited.trace(**inputs()):
        logits = edited.output.logits.save()
    torch.testing.assert_close(plain(**inputs()).logits, logits, rtol=1e-5, atol=1e-5 * logits.abs().max().item())
    words = "a kite and a boat"
    assert AutoTokenizer.from_pretrained(path)(words).input_ids == model.tokenizer(words).input_ids
    again = gs.load_model(path)  # with its processor, where there is one
    assert (again.processor is None) == (model.processor is None)


def test_the_checkpoint_says_what_was_done_and_to_which_model(llama, tmp_path):
    chosen = third(llama, "gate")
    neurons = gs.NeuronSet(chosen.layout, chosen.flat.flip(0), chosen.model, {"method": "CAS", "group": "JPN"})
    intervention = gs.scale(neurons, 0.5)
    path = save_baked(intervention, llama, tmp_path / "new" / "masked")
    assert not list(path.parent.glob(".*")), "a scratch directory was left"
    again = baked_from(path)
    assert again == intervention and list(again.neurons) == list(neurons)
    assert again.neurons.provenance == neurons.provenance and again.neurons.model["digest"] == identity(llama)["digest"]
    note = json.loads((path / "gatescope.json").read_text())
    assert note["digest"] != identity(llama)["digest"] and note["versions"]["torch"] == torch.__version__
    mark = AutoConfig.from_pretrained(path).gatescope_baked
    assert len(mark) == 64 and not hasattr(llama._module.config, "gatescope_baked")


def test_everything_comes_back_bit_for_bit_also_after_an_error(llama):
    before, digest = weights(llama._module), identity(llama)["digest"]
    with pytest.raises(RuntimeError, match="in the middle"), baked(gs.scale(third(llama), 1 / 3), llama) as module:
        assert identity(llama)["digest"] != digest
        assert any(not torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())
        raise RuntimeError("in the middle")
    assert all(torch.equal(tensor, before[key]) for key, tensor in llama._module.state_dict().items())
    assert identity(llama)["digest"] == digest and not hasattr(llama._module.config, "gatescope_baked")


def test_what_is_not_finite_is_switched_off_too_and_comes_back(llama):
    down = llama._module.model.layers[0].mlp.down_proj.weight
    neurons = gs.NeuronSet.of(gs.sites_of(llama)["hidden"].layout, [("hidden", 0, 4)])
    old = down.clone()
    with torch.no_grad():
        down[:, 4] = torch.inf
    with baked(gs.ablate(neurons), llama):
        assert (down[:, 4] == 0).all()
    assert (down[:, 4] == torch.inf).all()
    with torch.no_grad():
        down.copy_(old)


def test_blocks_may_be_nested_and_each_gives_back_what_it_found(llama):
    first, second = gs.ablate(third(llama, "gate")), gs.scale(third(llama, "v"), 3.0)
    with torch.no_grad(), llama.trace(**inputs()):
        first.apply(llama)
        second.apply(llama)
        both = llama.output.logits.save()
    before = weights(llama._module)
    with baked(first, llama) as module:
        one, mark = weights(module), module.config.gatescope_baked
        with baked(second, llama), torch.no_grad():
            found = module(**inputs()).logits
            assert module.config.gatescope_baked != mark
        assert all(torch.equal(tensor, one[key]) for key, tensor in module.state_dict().items())
        assert module.config.gatescope_baked == mark
    torch.testing.assert_close(found, both, rtol=1e-5, atol=1e-5 * both.abs().max().item())
    assert all(torch.equal(tensor, before[key]) for key, tensor in llama._module.state_dict().items())


def test_what_is_baked_on_top_of_another_is_marked_as_both(llama):
    first, second = gs.ablate(third(llama, "gate")), gs.ablate(third(llama, "v"))

    def mark(*interventions):
        with contextlib.ExitStack() as stack:
            for intervention in interventions:
                module = stack.enter_context(baked(intervention, llama))
            return module.config.gatescope_baked

    marks = [mark(first), mark(second), mark(first, second), mark(second, first), mark(second, second)]
    assert len(set(marks)) == len(marks) and mark(first, second) == marks[2]


def test_in_bfloat16_the_weights_keep_their_type_and_zero_is_exact(llama):
    half = copy.deepcopy(llama._module).to(torch.bfloat16)
    layout = gs.sites_of(half)["gate"].layout
    neurons = gs.NeuronSet(layout, torch.arange(0, layout.size, 3))
    act = [layer.mlp.act_fn for layer in half.model.layers]
    keep = torch.ones(layout.only().width, dtype=torch.bfloat16)
    keep[::3] = 0
    handles = [part.register_forward_hook(lambda _m, _i, out: out * keep) for part in act]
    with torch.no_grad():
        expected = half(**inputs()).logits
    for handle in handles:
        handle.remove()
    with baked(gs.ablate(neurons), half) as module, torch.no_grad():
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
        found = module(**inputs()).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_with_a_bias_a_llama_holds_set_and_add_on_all_but_the_gate():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=64, mlp_bias=True, attention_bias=True, initializer_range=0.3, **shape)
    module = LlamaForCausalLM(config).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    sites = gs.sites_of(module)
    for site in ("gate_pre", "up", "hidden", "q", "k", "v"):
        neurons = gs.NeuronSet.of(sites[site].layout, [(site, 0, 3), (site, 1, 7)])
        for make in (gs.set_to, gs.add):
            handles = []
            for layer, index in ((0, 3), (1, 7)):
                part = module.get_submodule(sites[site].paths[layer])

                def edit(tensor, index=index, make=make):
                    tensor = tensor.clone()
                    tensor[..., index] = 0.7 + (0 if make is gs.set_to else tensor[..., index])
                    return tensor

                if sites[site].io == "input":
                    handles.append(part.register_forward_pre_hook(lambda _m, args, edit=edit: (edit(args[0]),)))
                else:
                    handles.append(part.register_forward_hook(lambda _m, _i, out, edit=edit: edit(out)))
            with torch.no_grad():
                expected = module(**inputs()).logits
            for handle in handles:
                handle.remove()
            with baked(make(neurons, 0.7), module), torch.no_grad():
                found = module(**inputs()).logits
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gate = gs.NeuronSet.of(sites["gate"].layout, [("gate", 0, 3)])
    refuse(gs.add(gate, 1.0), module, r"the gate is multiplied with the up projection, which differs at every token")


def refuse(intervention, module, message):
    before = weights(module)
    with pytest.raises(gs.GatescopeError, match=message), baked(intervention, module):
        pass
    after = module.state_dict()
    assert all(tensor.is_meta or torch.equal(after[key], tensor) for key, tensor in before.items())
    assert "_gatescope_unbaked" not in module.__dict__ and not hasattr(module.config, "gatescope_baked")


@pytest.fixture
def module(llama):
    return copy.deepcopy(llama._module)


def one(module, site, layer=0, index=3):
    return gs.ablate(gs.NeuronSet.of(gs.sites_of(module)[site].layout, [(site, layer, index)]))


def test_without_a_bias_it_says_which_projection_lacks_it(module):
    neurons = one(module, "q").neurons
    refuse(gs.add(neurons, 1.0), module, r"self_attn.q_proj has no bias to hold it.* Use intervention.edit\(model\)")


def test_weights_that_two_layers_share_are_refused(module):
    module.model.layers[1].mlp.down_proj.weight = module.model.layers[0].mlp.down_proj.weight
    refuse(one(module, "gate"), module, r"layers.0.mlp.down_proj.weight is shared with model.layers.1.mlp.down_proj.weight")


def test_an_mlp_that_computes_something_else_is_refused(module):
    mlp = module.model.layers[1].mlp
    mlp.forward = lambda x: mlp.down_proj(torch.nn.functional.layer_norm(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), (48,)))
    refuse(one(module, "gate", layer=1), module, r"layers.1.mlp is not an MLP that gatescope can bake into.*something else")
    with baked(one(module, "hidden", layer=1), module):  # is the down projection's input whatever comes before
        pass


def test_a_model_without_weights_is_refused(module):
    refuse(one(module, "up"), module.to("meta"), r"up_proj has no weights here .*remote use, or off-loaded.*load it whole")


def test_quantised_weights_are_refused(module):
    up = module.model.layers[0].mlp.up_proj
    up.weight = torch.nn.Parameter(up.weight.to(torch.int8), requires_grad=False)
    refuse(one(module, "up"), module, r"up_proj is quantised \(int8\)")


def test_neurons_of_another_model_or_shape_are_refused(module, llama):
    other = gs.NeuronSet.of(gs.sites_of(module)["gate"].layout, [("gate", 0, 0)], {"id": "other", "digest": "abc"})
    refuse(gs.ablate(other), module, r"Cannot bake an intervention: one model is other")
    wide = gs.NeuronSet.of(gs.Layout.single("gate", 3, 49), [("gate", 0, 0)])
    refuse(gs.ablate(wide), module, r"numbered in gate \[3 layers x 49\]; the model has .*gate \[3 layers x 48\]")


def test_a_checkpoint_is_not_written_over_another(llama, llama_path, tmp_path):
    with pytest.raises(
        gs.GatescopeError, match=r"already exists and is not empty; a baked model is written to a new directory"
    ):
        save_baked(one(llama, "gate"), llama, llama_path)
    (tmp_path / "empty").mkdir()
    assert save_baked(one(llama, "gate"), llama, tmp_path / "empty") == tmp_path / "empty"


def test_a_save_that_fails_leaves_nothing_behind(llama, tmp_path):
    before = weights(llama._module)
    with pytest.raises(gs.GatescopeError, match="cannot be baked"):
        save_baked(gs.add(one(llama, "gate").neurons, 1.0), llama, tmp_path / "masked")
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(tensor, before[key]) for key, tensor in llama._module.state_dict().items())


def test_an_ordinary_directory_has_no_note(llama_path, tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"has no readable gatescope.json: it was not written by save_baked"):
        baked_from(llama_path)
    (tmp_path / "gatescope.json").write_text('{"format": "something/1"}')
    with pytest.raises(gs.GatescopeError, match=r"is not a note of format gatescope.baked/1"):
        baked_from(tmp_path)


def test_gpt2_is_baked_in_its_own_transposed_layout(tmp_path):
    FAMILIES["gpt2"].build(tmp_path / "gpt2")
    model = gs.load_model(tmp_path / "gpt2")
    part = model._module.transformer.h[1].attn.c_attn
    assert isinstance(part, Conv1D)
    with baked(one(model, "v", layer=1, index=5), model):
        assert (part.weight == 0).all(0).nonzero().flatten().tolist() == [64 + 5]
