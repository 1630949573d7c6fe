"""Neuron files of the papers' code are read in their order, written back, and refused when they are something else."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

import gatescope as gs
from gatescope.interop import published

LAYOUT = gs.Layout.parse([["gate_pre", 2, 6], ["q", 2, 4]])
GATE = gs.Layout.single("gate", 2, 6)


def test_culnigs_json(tmp_path):
    rows = [("self_attn.q_proj", 1, 3), ("mlp.gate_proj", 0, 5)]
    top = [{"module_name": m, "layer_idx": x, "neuron_idx": i, "attribute_score": 0.1} for m, x, i in rows]
    path = tmp_path / "all_neurons.json"
    path.write_text(json.dumps({"model_name": "m", "dataset_ids": {"blend": []}, "top_neurons": top}))
    found = published.read_culnig(path, LAYOUT, {"id": "m"})
    assert list(found) == [("q", 1, 3), ("gate_pre", 0, 5)] and found.model == {"id": "m"}
    published.write_culnig(tmp_path / "again.json", found)
    assert list(published.read_culnig(tmp_path / "again.json", LAYOUT)) == list(found)


def test_culnigs_evaluation_can_sort_what_is_written(tmp_path):
    """It sorts by attribute_score, best first: the order of the set without scores, else that of the scores."""
    neurons = gs.NeuronSet.of(LAYOUT, [("q", 1, 3), ("gate_pre", 0, 5), ("gate_pre", 1, 0)])
    path = tmp_path / "neurons.json"

    def by_score():
        rows = sorted(json.loads(path.read_text())["top_neurons"], key=lambda row: row["attribute_score"], reverse=True)
        return [(row["module_name"], row["layer_idx"], row["neuron_idx"]) for row in rows], [r["attribute_score"] for r in rows]

    published.write_culnig(path, neurons)
    order, values = by_score()
    assert order == [("self_attn.q_proj", 1, 3), ("mlp.gate_proj", 0, 5), ("mlp.gate_proj", 1, 0)]
    assert values == pytest.approx([1, 2 / 3, 1 / 3])
    published.write_culnig(path, neurons, torch.arange(20, dtype=torch.float64))  # flat numbers: 19, 5 and 6
    assert by_score() == ([("self_attn.q_proj", 1, 3), ("mlp.gate_proj", 1, 0), ("mlp.gate_proj", 0, 5)], [19, 6, 5])
    published.write_culnig(path, gs.NeuronSet.of(LAYOUT, []))
    assert by_score() == ([], [])


def test_scores_that_cannot_be_sorted_by_are_refused(tmp_path):
    neurons, path = gs.NeuronSet.of(LAYOUT, [("q", 1, 3)]), tmp_path / "neurons.json"
    with pytest.raises(
        gs.GatescopeError, match=r"scores are \[3\]; one for each of the 20 neurons of gate_pre .*culnig_scores"
    ):
        published.write_culnig(path, neurons, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(gs.GatescopeError, match=r"The score of \('q', 1, 3\) is nan; .*needs a finite number"):
        published.write_culnig(path, neurons, torch.full((20,), torch.nan, dtype=torch.float64))
    assert not path.exists()


def test_what_is_not_culnigs_json_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(gs.GatescopeError, match="is not a neuron list of CULNIG's code: the field 'top_neurons' is missing"):
        published.read_culnig(path, LAYOUT)
    path.write_text(json.dumps({"top_neurons": [{"module_name": "mlp.moe", "layer_idx": 0, "neuron_idx": 0}]}))
    with pytest.raises(gs.GatescopeError, match=r"names the module 'mlp.moe'; known are mlp.gate_proj"):
        published.read_culnig(path, LAYOUT)
    path.write_text(json.dumps({"top_neurons": [{"module_name": "mlp.gate_proj", "layer_idx": 2, "neuron_idx": 0}]}))
    with pytest.raises(gs.GatescopeError, match=r"No neuron \('gate_pre', 2, 0\)"):
        published.read_culnig(path, LAYOUT)
    with pytest.raises(gs.GatescopeError, match=r"no module for \['gate'\]"):
        published.write_culnig(path, gs.NeuronSet.of(GATE, [("gate", 0, 0)]))


def test_lapes_nested_lists(tmp_path):
    path = tmp_path / "lape.neuron.pth"
    torch.save([[torch.tensor([4, 1]), torch.tensor([], dtype=torch.long)], [torch.tensor([0]), torch.tensor([5, 2])]], path)
    found = published.read_lape(path, GATE, ["en", "zh"])
    assert list(found["en"]) == [("gate", 0, 4), ("gate", 0, 1)]
    assert list(found["zh"]) == [("gate", 0, 0), ("gate", 1, 5), ("gate", 1, 2)]
    published.write_lape(tmp_path / "again.pth", found)
    again = published.read_lape(tmp_path / "again.pth", GATE, ["en", "zh"])
    assert again == found


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            [[torch.tensor([True, False, True]), torch.tensor([0])]],
            r"holds a tensor of bool, and indices are whole numbers\. Of a mask",
        ),
        ([[torch.tensor([1.0]), torch.tensor([0])]], "holds a tensor of float32, and indices are whole numbers"),
        ([[torch.tensor([6]), torch.tensor([0])]], r"lape\.pth: No neuron \('gate', 0, 6\)"),
        ([[torch.tensor([-1]), torch.tensor([0])]], r"lape\.pth: No neuron \('gate', 0, -1\)"),
        ([[torch.tensor([1, 1]), torch.tensor([0])]], r"lape\.pth: A neuron is listed twice"),
        (
            [[[0, 1], [2]]],
            "a list over languages of a list over layers of tensors is needed, and this is a list of other things",
        ),
        ({"en": 3}, "is needed, and this is a dict of other things"),
        (torch.zeros(2, 2, 2), "is needed, and this is a Tensor of other things"),
    ],
)
def test_a_pth_that_holds_something_else_is_refused(tmp_path, held, message):
    torch.save(held, tmp_path / "lape.pth")
    with pytest.raises(gs.GatescopeError, match=message):
        published.read_lape(tmp_path / "lape.pth", GATE, ["en"])


@pytest.mark.parametrize("content", [b"a text\n", b"", b"\x80\x04", b"PK\x03\x04 no archive", b"\x80\x02cposix\nsystem\n."])
def test_a_pth_that_is_none_is_said(tmp_path, content):
    (tmp_path / "lape.pth").write_bytes(content)
    with pytest.raises(gs.GatescopeError, match=r"lape\.pth cannot be read as LAPE's lists of index tensors: ") as error:
        published.read_lape(tmp_path / "lape.pth", GATE, ["en"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"neuron_idx": 1.0},
            r"the field 'top_neurons\[0\]\.neuron_idx': a whole number is needed, and there is a number with a",
        ),
        (
            {"neuron_idx": True},
            r"the field 'top_neurons\[0\]\.neuron_idx': a whole number is needed, and there is true or false",
        ),
        ({"layer_idx": "1"}, r"the field 'top_neurons\[0\]\.layer_idx': a whole number is needed, and there is text"),
        ({"module_name": None}, r"the field 'top_neurons\[0\]\.module_name': text is needed, and there is null"),
        ({"neuron_idx": 10**30}, "out of range|No neuron|a whole number is needed"),
    ],
)
def test_coordinates_of_culnigs_that_are_none_are_refused(tmp_path, change, message):
    row = {"module_name": "mlp.gate_proj", "layer_idx": 0, "neuron_idx": 1}
    (tmp_path / "x.json").write_text(json.dumps({"top_neurons": [row | change]}))
    with pytest.raises(gs.GatescopeError, match=message):
        published.read_culnig(tmp_path / "x.json", LAYOUT)


def test_culnigs_json_in_utf16_is_said_and_what_cannot_be_written_too(tmp_path):
    (tmp_path / "x.json").write_text('{"top_neurons": []}', encoding="utf-16")
    with pytest.raises(gs.GatescopeError, match=r"x\.json is not a neuron list of CULNIG's code: it is not UTF-8"):
        published.read_culnig(tmp_path / "x.json", LAYOUT)
    neurons = gs.NeuronSet.of(GATE, [("gate", 0, 1)])
    with pytest.raises(gs.GatescopeError, match=r"x\.json/y cannot be written"):
        published.write_lape(tmp_path / "x.json" / "y", {"en": neurons})
    with pytest.raises(gs.GatescopeError, match=r"x\.json/y cannot be written"):
        published.write_culnig(tmp_path / "x.json" / "y", gs.NeuronSet.of(LAYOUT, [("gate_pre", 0, 0)]))


class Payload:
    def __reduce__(self):
        return (print, ("unpickled freely",))


def test_a_pth_is_never_unpickled_freely(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps([Payload()]))
    with pytest.raises(gs.GatescopeError, match="cannot be read as LAPE's lists"):
        published.read_lape(path, GATE, ["en"])
    torch.save([Payload()], path)
    with pytest.raises(gs.GatescopeError, match="cannot be read as LAPE's lists"):
        published.read_lape(path, GATE, ["en"])
    assert "unpickled freely" not in capsys.readouterr().out


def test_lists_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "lape.pth"
    torch.save([[torch.tensor([1])] * 3], path)
    with pytest.raises(
        gs.GatescopeError, match=r"holds 1 languages of \[3\] layers; 2 groups \(en, zh\) of 2 layers are expected"
    ):
        published.read_lape(path, GATE, ["en", "zh"])


def test_every_module_of_culnigs_code_is_a_site_and_comes_back_with_the_models_name(tmp_path):
    layout = gs.Layout.parse([["gate_pre", 1, 2], ["up", 1, 2], ["q", 1, 2], ["k", 1, 2], ["v", 1, 2]])
    sites = {"mlp.gate_proj": "gate_pre", "mlp.up_proj": "up"} | {f"self_attn.{name}_proj": name for name in "qkv"}
    neurons = gs.NeuronSet.of(layout, [(site, 0, 1) for site in sites.values()], {"id": "org/m"})
    published.write_culnig(tmp_path / "n.json", neurons)
    written = json.loads((tmp_path / "n.json").read_text())
    assert [row["module_name"] for row in written["top_neurons"]] == list(sites) and written["model_name"] == "org/m"
    found = published.read_culnig(tmp_path / "n.json", layout)
    assert list(found) == list(neurons) and found.provenance == {"method": "CULNIG", "file": "n.json"}


def test_lapes_sets_say_whose_they_are_and_as_many_groups_are_wanted_as_there_are(tmp_path):
    path = tmp_path / "lape.pth"
    torch.save([[torch.tensor([1]), torch.tensor([2])]] * 2, path)
    found = published.read_lape(path, GATE, ["en", "zh"], {"id": "m"})
    assert {group: (s.provenance, s.model) for group, s in found.items()} == {
        group: ({"method": "LAPE", "group": group, "file": "lape.pth"}, {"id": "m"}) for group in ("en", "zh")
    }
    with pytest.raises(gs.GatescopeError, match=r"holds 2 languages of \[2\] layers; 3 groups"):
        published.read_lape(path, GATE, ["en", "zh", "fr"])
