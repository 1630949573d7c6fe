"""Every text family: its sites are where they were placed by hand, and are what the model computes below its modules."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

import gatescope as gs
from gatescope import doctor
from gatescope.doctor.below import below
from gatescope.doctor.checks import examine_batch
from gatescope.doctor.inputs import Patient, random_text
from gatescope.traces.readouts.generated import generation
from text_families import TEXT


def built(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(TEXT[name].config()).eval()


def wrapped(name):
    return gs.load_model(built(name), tokenizer=doctor.plain_tokenizer())


@pytest.mark.parametrize("name", TEXT)
def test_sites_are_where_they_were_placed_by_hand_and_what_the_model_computes(name):
    family, module = TEXT[name], built(name)
    sites = gs.sites_of(module)
    found = [{} for _ in family.layers]
    for site in sites.values():
        assert site.depth == len(family.layers)
        for here in site.layers:
            path = here.path.removeprefix(f"{family.blocks}.{here.layer}.")
            columns = () if here.columns is None else (tuple(here.columns),)
            found[here.layer][site.name] = path, {"input": "in", "output": "out"}[here.io], here.width, *columns
    expected = [{name: (*place[:3], *map(tuple, place[3:])) for name, place in layer.items()} for layer in family.layers]
    assert found == expected
    findings = examined(gs.load_model(module, tokenizer=doctor.plain_tokenizer()), sites)
    assert not [finding for finding in findings if not finding.holds]
    assert {finding.site for finding in findings} == set(sites)


def examined(model, sites):
    return list(below(Patient.of(model, sites, "text", random_text(model))))


@pytest.mark.parametrize(
    ("name", "site", "changes", "said"),
    [
        # Half of what it makes is a gate of the attention's own.
        ("qwen3.5", "q", {"columns": None, "width": 64}, "in layer 1, q is made of 32 of its 64 columns"),
        ("falcon-40b", "k", {"columns": range(32, 48)}, "in layer 0, q is made of 16 of its columns"),
        ("granite-4-h", "up", {"columns": range(48)}, "in layer 0, the gate is not multiplied with it"),
        ("lfm2", "gate", {"path": "model.layers.{}.feed_forward.w1"}, "neither the gate nor a product with it"),
        ("gemma4-e2b", "k", {"path": "model.layers.{}.self_attn.v_proj"}, "in layer 0, k is made of none of its columns"),
    ],
)
def test_faults_planted_in_hybrids_and_fused_projections_are_noticed(name, site, changes, said):
    model = wrapped(name)
    sites = gs.sites_of(model)
    layers = [dataclasses.replace(here, **changes) for here in sites[site].layers]
    layers = [dataclasses.replace(here, path=here.path.format(here.layer)) for here in layers]
    planted = sites | {site: dataclasses.replace(sites[site], layers=tuple(layers))}
    (finding,) = [finding for finding in examined(model, planted) if finding.site == site]
    assert not finding.holds and said in finding.detail


@pytest.mark.parametrize(("name", "sites"), [("lfm2", ["gate_pre", "gate", "hidden"]), ("gemma4-e2b", ["gate", "k"])])
def test_calls_of_functions_and_layers_that_share_keys_are_read_and_edited_as_plain_hooks_do(name, sites):
    """LFM2's nonlinearity is no module; Gemma 4 computes only the last token in its last layers, if it may."""
    model = wrapped(name)
    chosen = {site: gs.sites_of(model)[site] for site in sites}
    findings = list(examine_batch(Patient.of(model, chosen, "text", random_text(model))))
    assert not [finding for finding in findings if not finding.holds] and len(findings) == 8 * len(sites)


def test_every_token_is_counted_where_the_prompt_need_not_be_computed_in_all_layers():
    model = wrapped("gemma4-e2b")
    counts = {}
    for step, layer in enumerate(model._module.model.layers):
        layer.mlp.act_fn.register_forward_hook(lambda _m, _i, out, step=step: counts.setdefault(step, out.shape[1]))
    settings = generation(model, 1)
    with torch.no_grad():
        model._module.generate(torch.arange(3, 12)[None], **settings)
    assert counts == {0: 9, 1: 9, 2: 9, 3: 9}
    assert "logits_to_keep" not in generation(wrapped("olmo2"), 1)
