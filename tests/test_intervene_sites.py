"""Every kind of intervention, on every site of every family, gives the logits plain hooks give."""

from __future__ import annotations

import pytest
import torch

import gatescope as gs
from families import FAMILIES
from gatescope.models.identity import identity


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("families") / request.param
    spec = FAMILIES[request.param]
    spec.build(path)
    return spec, gs.load_model(path), spec.auto.from_pretrained(path).eval()


def hooked_logits(spec, plain, inputs, changes):
    """`changes`: [(site, layer, index, function of the old value)], by hooks written against the hand-made places."""
    handles = []
    for site, layer, index, function in changes:
        path, io, columns = spec.where[site]
        part = plain.get_submodule(spec.blocks)[layer].get_submodule(path)
        column = index if columns is None else columns[index]

        def edit(tensor, column=column, function=function):
            tensor = tensor.clone()
            tensor[..., column] = function(tensor[..., column])
            return tensor

        if io == "in":
            handles.append(part.register_forward_pre_hook(lambda _m, args, edit=edit: (edit(args[0]), *args[1:])))
        else:
            handles.append(part.register_forward_hook(lambda _m, _i, out, edit=edit: edit(out)))
    with torch.no_grad():
        logits = plain(**inputs).logits
    for handle in handles:
        handle.remove()
    return logits


KINDS = {
    "ablate": (gs.ablate, lambda old, _: old * 0),
    "scale": (lambda ns: gs.scale(ns, 2.0), lambda old, _: old * 2),
    "set": (lambda ns: gs.set_to(ns, torch.arange(len(ns)) / 10), lambda old, i: torch.full_like(old, i / 10)),
    "add": (lambda ns: gs.add(ns, torch.arange(len(ns)) / 10), lambda old, i: old + i / 10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_plain_hooks_on_every_site_at_once_and_alone(family, kind):
    spec, model, plain = family
    sites = gs.sites_of(model)
    assert set(sites) == set(spec.where)
    make, function = KINDS[kind]
    inputs = {"input_ids": torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        untouched = plain(**inputs).logits
    pools = [[name] for name in sites] + [["q", "v", "gate_pre", "hidden"]]
    for names in pools:
        layout = gs.Layout(tuple(sites[name].layout.only() for name in names))
        members = [(name, layer, index) for name in names for layer, index in ((1, 3), (0, 1), (1, 7), (0, 14))]
        neurons = gs.NeuronSet.of(layout, members, identity(model))
        expected = hooked_logits(spec, plain, inputs, [(*n, lambda old, i=i: function(old, i)) for i, n in enumerate(members)])
        with torch.no_grad(), model.trace(**inputs):
            make(neurons).apply(model)
            found = model.output.logits.save()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        # adding the same to every key shifts all attention scores of a query alike: without rotation, nothing changes
        if (kind, names) != ("add", ["k"]):
            assert (expected - untouched).abs().max() > 1e-4, "these neurons do nothing: the test says nothing"
    edited = make(neurons).edit(model)
    with torch.no_grad(), edited.trace(**inputs):
        lasting = edited.output.logits.save()
    torch.testing.assert_close(lasting, expected, rtol=1e-4, atol=1e-4)


def test_values_may_be_a_table_of_recorded_means(family):
    _, model, _ = family
    layout = gs.sites_of(model)["gate"].layout
    neurons = gs.NeuronSet.of(layout, [("gate", 1, 2), ("gate", 0, 5)])
    means = torch.arange(float(layout.size)).view(2, -1)
    assert gs.set_to(neurons, means).values == (means[1, 2].item(), means[0, 5].item())
    assert gs.add(neurons, 3.0).values == (3.0, 3.0)
    with pytest.raises(gs.GatescopeError, match=r"Values of shape \(3,\) do not match .* each of the 2 neurons, or a table"):
        gs.set_to(neurons, torch.zeros(3))
    with pytest.raises(gs.GatescopeError, match=r"on one NeuronSet, and this is a dict\. gs\.ablate\(selection\) makes one"):
        gs.set_to({"north": neurons}, means)


def test_interventions_act_in_the_order_they_were_applied(family):
    _, model, _ = family
    site = gs.sites_of(model)["gate"]
    one = gs.NeuronSet.of(site.layout, [("gate", 0, 0)])
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad(), model.trace(**inputs):
        gs.set_to(one, 1.0).apply(model)
        gs.scale(one, 5.0).apply(model)
        gs.add(one, 2.0).apply(model)
        gate = model.get(site.paths[0]).output.save()
    assert gate[..., 0].unique().tolist() == [7.0]


@pytest.mark.parametrize("family", ["phi3", "llama"], indirect=True)
def test_enhancing_the_pre_activation_holds_at_every_generated_token(family):
    spec, model, plain = family
    site = gs.sites_of(model)["gate_pre"]
    neurons = gs.NeuronSet(site.layout, torch.arange(0, site.layout.size, 2))
    inputs = {"input_ids": torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(1))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    greedy = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    factor = torch.ones(site.width)
    factor[::2] = 2
    handles = [
        block.get_submodule(spec.where["gate_pre"][0]).register_forward_pre_hook(lambda _m, args: (args[0] * factor,))
        for block in plain.get_submodule(spec.blocks)
    ]
    expected = plain.generate(**inputs, **greedy)
    for handle in handles:
        handle.remove()
    with model.generate(**inputs, **greedy) as tracer:
        gs.scale(neurons, 2.0).apply(model)
        found = tracer.result.save()
    assert torch.equal(found, expected) and not torch.equal(expected, plain.generate(**inputs, **greedy))
