"""Recorded means equal plain hooks, and neurons can be held at them."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from gatescope.batches import collate
from oracles.hooks import activation_modules


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
        sums += torch.stack([whole[batch.valid].double().sum(0) for whole in seen])
        tokens += int(batch.valid.sum())
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
