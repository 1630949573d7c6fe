"""Our hooks on a TransformerLens bridge give what our traces give, on every site of every family; and read the same."""

from __future__ import annotations

import sys

import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope.interop.lens import lens_hooks
from gatescope.models.identity import identity
from gatescope.traces.encoding import collate

sources = pytest.importorskip("transformer_lens.model_bridge.sources")

KINDS = {
    "zero": gs.ablate,
    "scale": lambda ns: gs.scale(ns, 1.7),
    "set": lambda ns: gs.set_to(ns, torch.arange(len(ns)) % 5 / 10),
    "add": lambda ns: gs.add(ns, torch.arange(len(ns)) % 5 / 10),
}


def bridge_of(path, auto, tokenizer):
    """A bridge rewrites the module it is given, so it is given one of its own."""
    module = auto.from_pretrained(path, attn_implementation="eager").eval()
    return sources.build_bridge_from_module(
        module, type(module).__name__, hf_config=module.config, tokenizer=tokenizer
    ).requires_grad_(False)


# What a kind does to a tensor is the same in every family; where it is done is not.
CASES = [("llama", kind) for kind in KINDS] + [(name, "set") for name in FAMILIES if name != "llama"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("lens") / request.param
    spec = FAMILIES[request.param]
    spec.build(path)
    model = gs.load_model(path)
    return model, bridge_of(path, spec.auto, model.tokenizer)


@pytest.fixture(scope="module")
def llama_bridge(llama_path, llama):
    return bridge_of(llama_path, FAMILIES["llama"].auto, llama.tokenizer)


def third(model, *names):
    sites = gs.sites_of(model)
    layout = gs.Layout(tuple(sites[name].layout.only() for name in names or sites))
    return gs.NeuronSet(layout, torch.arange(0, layout.size, 3), identity(model))


def padded():
    ids = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def both(model, bridge, intervention, inputs):
    """Logits at real tokens under the intervention, in our trace and on the bridge, and those of the full model."""
    with torch.no_grad(), model.trace(**inputs):
        full = model.output.logits.save()
    with torch.no_grad(), model.trace(**inputs):
        intervention.apply(model)
        ours = model.output.logits.save()
    more = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    hooks = lens_hooks(intervention, bridge)
    theirs = bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=hooks, **more)
    real = inputs["attention_mask"].bool()
    return ours[real], theirs[real], full[real]


@pytest.mark.parametrize(("family", "kind"), CASES, indirect=["family"])
def test_on_every_site_alone_and_together_the_logits_are_the_same(family, kind):
    model, bridge = family
    for names in [*([site] for site in gs.sites_of(model)), list(gs.sites_of(model))]:
        ours, theirs, full = both(model, bridge, KINDS[kind](third(model, *names)), padded())
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * ours.abs().max().item())
        # the same added to all keys, where nothing is rotated, shifts a query's scores alike
        if (kind, names) != ("add", ["k"]):
            assert (ours - full).abs().max() > 1e-3, "these neurons do nothing: the test says nothing"


def test_it_holds_on_pictures(organism, organism_model):
    bridge = bridge_of(organism.path, FAMILIES["qwen2.5-vl"].auto, organism_model.tokenizer)
    batch = collate(organism_model, organism.study.evaluation[:2])
    for intervention in (gs.ablate(third(organism_model, "gate")), gs.set_to(third(organism_model, "gate"), 0.3)):
        ours, theirs, full = both(organism_model, bridge, intervention, batch.inputs)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * ours.abs().max().item())
        assert (ours - full).abs().max() > 1e-2


def test_nothing_is_left_on_the_bridge(llama, llama_bridge):
    inputs = padded()
    mask = inputs["attention_mask"]
    before = llama_bridge(inputs["input_ids"], attention_mask=mask)
    both(llama, llama_bridge, gs.set_to(third(llama), 0.5), inputs)
    assert torch.equal(llama_bridge(inputs["input_ids"], attention_mask=mask), before)


def test_it_holds_at_every_generated_token(llama, llama_bridge):
    ids = padded()["input_ids"][:1]
    intervention = gs.set_to(third(llama, "gate", "q"), 0.4)
    greedy = {"max_new_tokens": 12, "do_sample": False}
    with intervention.edit(llama).generate(ids, min_new_tokens=12, **greedy) as tracer:
        ours = tracer.result.save()
    with llama_bridge.hooks(fwd_hooks=lens_hooks(intervention, llama_bridge)):
        theirs = llama_bridge.generate(ids, stop_at_eos=False, return_type="tokens", verbose=False, **greedy)
    assert torch.equal(ours, theirs)
    with llama.generate(ids, min_new_tokens=12, **greedy) as tracer:
        full = tracer.result.save()
    assert not torch.equal(ours, full)


@pytest.mark.parametrize(("site", "hook"), [("hidden", "mlp.out.hook_in"), ("gate_pre", "mlp.gate.hook_out")])
def test_what_record_counts_is_what_the_bridge_caches(llama, llama_bridge, site, hook):
    texts = ["The drums are heard at dusk.", "A kite over the north shore, and a lamp.", "boats"]
    passages = [gs.data.Example.passage(str(i), "north", text) for i, text in enumerate(texts)]
    counts = gs.record(llama, passages, site=site, readout="none", only_correct=False, progress=False)
    fired = torch.zeros_like(counts.K[0])
    summed = torch.zeros_like(counts.S[0])
    for passage in passages:
        batch = collate(llama, [passage])
        _, cache = llama_bridge.run_with_cache(batch.inputs["input_ids"])
        for layer in range(len(fired)):
            values = cache[f"blocks.{layer}.{hook}"][batch.token_mask]
            fired[layer] += (values > 0).sum(0)
            summed[layer] += values.clamp(min=0).double().sum(0)
    assert torch.equal(fired, counts.K[0])
    torch.testing.assert_close(summed, counts.S[0], rtol=1e-5, atol=1e-5)


def test_in_compatibility_mode_the_mlp_can_be_hooked_and_the_attention_is_refused(llama_path, llama):
    bridge = bridge_of(llama_path, FAMILIES["llama"].auto, llama.tokenizer)
    bridge.enable_compatibility_mode(disable_warnings=True)
    chosen = third(llama, "gate")
    neurons = gs.NeuronSet(chosen.layout, chosen.flat)  # the bridge's weights are no longer the checkpoint's
    ours, theirs, _ = both(llama, bridge, gs.ablate(neurons), padded())
    probability = [logits.log_softmax(-1) for logits in (ours, theirs)]  # logits are centred there
    torch.testing.assert_close(*probability, rtol=1e-4, atol=1e-4)
    attention = gs.NeuronSet(gs.sites_of(llama)["v"].layout, torch.tensor([0]))
    with pytest.raises(gs.GatescopeError, match=r"Site 'v' cannot be hooked on a bridge in compatibility mode"):
        lens_hooks(gs.ablate(attention), bridge)


def test_no_neurons_need_no_hooks(llama, llama_bridge):
    assert lens_hooks(gs.ablate(gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [])), llama_bridge) == []


def test_what_is_no_bridge_is_refused_with_the_line_to_write(llama):
    with pytest.raises(gs.GatescopeError, match=r"not a TransformersModel. Make one with .*build_bridge_from_module\("):
        lens_hooks(gs.ablate(third(llama)), llama)


def test_neurons_of_another_model_are_refused(family, llama):
    """By the weights; where the bridge has split fused ones, by the model's name."""
    _, bridge = family
    with pytest.raises(gs.GatescopeError, match=r"Cannot make hooks of an intervention: one model is .*llama"):
        lens_hooks(gs.ablate(third(llama, "gate")), bridge)


def test_neurons_of_another_shape_are_refused(llama_bridge):
    deep = gs.NeuronSet.of(gs.Layout.single("gate", 4, 48), [("gate", 0, 0)])
    with pytest.raises(gs.GatescopeError, match=r"gate \[4 layers x 48\]; the bridge has 3 layers"):
        lens_hooks(gs.ablate(deep), llama_bridge)
    wide = gs.NeuronSet.of(gs.Layout.single("gate", 3, 50), [("gate", 2, 49)])
    with pytest.raises(gs.GatescopeError, match=r"layers of 50; blocks.2.mlp.out.hook_in of the bridge has 48"):
        lens_hooks(gs.ablate(wide), llama_bridge)
    heads = gs.NeuronSet.of(gs.Layout.single("k", 3, 32), [("k", 1, 0)])
    with pytest.raises(gs.GatescopeError, match=r"layers of 32; blocks.1.attn.k.hook_out of the bridge has 16"):
        lens_hooks(gs.ablate(heads), llama_bridge)


def test_a_site_without_a_hook_is_refused(llama_bridge):
    other = gs.NeuronSet.of(gs.Layout.single("router", 3, 4), [("router", 0, 0)])
    with pytest.raises(
        gs.GatescopeError, match=r"Site 'router' has no hook in TransformerLens; those that have are q, k, v, gate"
    ):
        lens_hooks(gs.ablate(other), llama_bridge)


def test_a_hook_that_never_runs_is_refused(llama_path, llama):
    bridge = bridge_of(llama_path, FAMILIES["llama"].auto, llama.tokenizer)
    mlp = bridge.blocks[1].mlp
    mlp.forward = mlp.hook_out.forward  # an adapter that knows the MLP's parts and does not call them
    neurons = gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 1, 0)])
    with pytest.raises(gs.GatescopeError, match=r"of LlamaForCausalLM does not run blocks.1.mlp.out.hook_in: nothing would be"):
        lens_hooks(gs.ablate(neurons), bridge)
    up = gs.NeuronSet.of(gs.Layout.single("up", 2, 48), [("up", 0, 0)])
    with pytest.raises(gs.GatescopeError, match="the bridge has 3 layers"):
        lens_hooks(gs.ablate(up), bridge)


def test_transformer_lens_is_asked_for_by_name_where_it_is_missing(monkeypatch, llama, llama_bridge):
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", None)  # what makes an import fail
    with pytest.raises(gs.GatescopeError, match=r"TransformerLens is not installed: pip install 'gatescope\[lens\]'"):
        lens_hooks(gs.ablate(third(llama)), llama_bridge)
