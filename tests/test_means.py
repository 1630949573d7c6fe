"""Recorded means equal plain hooks, and neurons can be held at them."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope.traces.encoding import collate
from oracles.hooks import activation_modules
from tiny import text_examples


@pytest.mark.parametrize("site", ["gate", "gate_pre"])
def test_means_equal_plain_hooks(organism_model, examples, site):
    found = gs.mean_activation(organism_model, examples, site=site, batch_size=3, progress=False)
    module = organism_model._module
    parts = activation_modules(module, "model.language_model.layers")
    sums, tokens = torch.zeros(3, 300, dtype=torch.float64), 0
    for example in examples:
        batch = collate(organism_model, [example])
        seen = []
        handles = [
            p.register_forward_hook(lambda _m, args, out, seen=seen: seen.append(out if site == "gate" else args[0]))
            for p in parts
        ]
        with torch.no_grad():
            module(**batch.inputs)
        for handle in handles:
            handle.remove()
        sums += torch.stack([whole[batch.token_mask].double().sum(0) for whole in seen])
        tokens += int(batch.token_mask.sum())
    torch.testing.assert_close(found, sums / tokens, rtol=1e-5, atol=1e-6)
    assert (found < 0).any()


def test_neurons_can_be_held_at_their_means(organism_model, examples):
    means = gs.mean_activation(organism_model, examples, progress=False)
    site = gs.sites_of(organism_model)["gate"]
    neurons = gs.NeuronSet.of(site.layout, [("gate", 2, 5), ("gate", 1, 7)])
    inputs = collate(organism_model, examples[:2]).inputs
    with torch.no_grad(), organism_model.trace(**inputs):
        gs.set_to(neurons, means).apply(organism_model)
        first = organism_model.get(site.paths[1]).output.save()
        second = organism_model.get(site.paths[2]).output.save()
    assert torch.allclose(first[..., 7], means[1, 7].float()) and torch.allclose(second[..., 5], means[2, 5].float())


def test_a_mean_of_nothing_is_an_error(organism_model):
    with pytest.raises(gs.GatescopeError, match="needs examples"):
        gs.mean_activation(organism_model, [])


@pytest.mark.parametrize(("name", "site"), [("phi3", "up"), ("phi3", "k"), ("opt", "gate")])
def test_means_are_of_the_sites_own_columns_and_tokens(name, site, tmp_path):
    """Columns of a fused projection; OPT's MLP, which is given the tokens of all rows as one list."""
    spec = FAMILIES[name]
    spec.build(tmp_path)
    model, plain = gs.load_model(tmp_path), spec.auto.from_pretrained(tmp_path).eval()
    examples = text_examples(groups=("north", "a longer one"), each=1)
    found = gs.mean_activation(model, examples, site=site, batch_size=2, progress=False)
    path, io, columns = spec.where[site]
    assert io == "out"
    seen: dict[int, list[torch.Tensor]] = {}
    for layer, block in enumerate(plain.get_submodule(spec.blocks)):
        block.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, layer=layer: seen.setdefault(layer, []).append(out.reshape(-1, out.shape[-1]))
        )
    for example in examples:
        batch = collate(model, [example])
        with torch.no_grad():
            plain(**batch.inputs)
        for outs in seen.values():
            outs[-1] = outs[-1][batch.token_mask[0]]
    expected = torch.stack([torch.cat(seen[layer]).double().mean(0) for layer in sorted(seen)])
    expected = expected if columns is None else expected[:, columns]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
