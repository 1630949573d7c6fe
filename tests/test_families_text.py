"""Every text family: its sites are where they were placed by hand, and are what the model computes below its modules."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import gatescope as gs
from gatescope import doctor
from gatescope.doctor.below import below
from gatescope.doctor.inputs import Patient, random_text
from text_families import TEXT


def built(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(TEXT[name].config()).eval()


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
    model = gs.load_model(module, tokenizer=doctor.plain_tokenizer())
    findings = list(below(Patient.of(model, sites, "text", random_text(model))))
    assert not [finding for finding in findings if not finding.holds]
    assert {finding.site for finding in findings} == set(sites)
