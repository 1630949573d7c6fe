"""Names of the first release work and warn."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gatescope as gs
from gatescope.core.neuron_tables import from_table, to_table
from tiny import text_examples

LAYOUT = gs.Layout.single("gate", 1, 4)


def test_a_field_is_given_and_read_under_its_old_name():
    with pytest.warns(DeprecationWarning, match="`origin` is called `provenance` now; the old name will go") as warned:
        neurons = gs.NeuronSet(LAYOUT, torch.tensor([1]), {}, origin={"method": "by hand"})
    assert neurons.provenance == {"method": "by hand"}
    with pytest.warns(DeprecationWarning, match="`origin` is called `provenance`") as read:
        assert neurons.origin == neurons.provenance
    # The user's own line, or Python would not show it.
    assert {warning.filename for warning in (*warned, *read)} == {__file__}
    with pytest.warns(DeprecationWarning):
        other = dataclasses.replace(neurons, origin={"method": "another"})
    assert other.provenance == {"method": "another"} and neurons.provenance == {"method": "by hand"}


def test_a_function_takes_a_keyword_under_its_old_name():
    with pytest.warns(DeprecationWarning):
        neurons = gs.NeuronSet.of(LAYOUT, [("gate", 0, 2)], origin={"method": "by hand"})
    with pytest.warns(DeprecationWarning):
        back = from_table(to_table(neurons), LAYOUT, origin={"method": "from a table"})
    assert back.provenance == {"method": "from a table"} and back == neurons
    with pytest.warns(DeprecationWarning) as warned:
        assert gs.Counters.zeros(["a"], LAYOUT, origin={"tokens": "all"}).provenance == {"tokens": "all"}
    assert {warning.filename for warning in warned} == {__file__}


def test_an_example_has_accepted_answers():
    with pytest.warns(DeprecationWarning, match="`accepted` is called `references`"):
        example = gs.data.Example("1", "north", "What is drunk?", (), "tea", accepted=("tea", "mate"))
    assert example.references == ("tea", "mate")
    with pytest.warns(DeprecationWarning):
        assert example.accepted == ("tea", "mate")


def test_a_sweep_takes_masks_together(llama):
    masks = {g: gs.ablate(gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 1, i)])) for i, g in enumerate("ab")}
    options = {"max_new_tokens": 2, "readout": "generate", "progress": False}
    with pytest.warns(DeprecationWarning, match="`together` is called `masks_per_batch`"):
        old = gs.sweep(llama, text_examples(each=1), masks, together=1, **options)
    assert old.rows == gs.sweep(llama, text_examples(each=1), masks, masks_per_batch=1, **options).rows
