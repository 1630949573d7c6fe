"""Files that are whole or not there, and that say when anything in them was changed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gatescope import GatescopeError
from gatescope.core import artefacts

FORMAT = "gatescope.test/1"
TENSORS = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([0.5])}


@pytest.fixture
def path(tmp_path):
    artefacts.write(tmp_path / "x.safetensors", FORMAT, TENSORS, {"model": {"id": "m"}, "rate": 0.01})
    return tmp_path / "x.safetensors"


def held(path):
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["about"])  # noqa: SIM118


def test_it_comes_back_with_everything_that_was_told(path):
    tensors, about = artefacts.read(path, FORMAT)
    assert about == {"model": {"id": "m"}, "rate": 0.01}
    assert list(tensors) == ["a", "b"] and all(torch.equal(tensors[name], TENSORS[name]) for name in tensors)


CHANGES = {
    "a value": lambda tensors, about: tensors["a"].add_(1),
    "a shape": lambda tensors, about: tensors.update(a=tensors["a"].reshape(3, 2).contiguous()),
    "a kind of number": lambda tensors, about: tensors.update(a=tensors["a"].view(torch.float64)),
    "two names": lambda tensors, about: tensors.update(a=tensors.pop("b"), b=tensors["a"]),
    "another name": lambda tensors, about: tensors.update(c=tensors.pop("b")),
    "what is told": lambda tensors, about: about.update(rate=0.02),
    "what is told of the model": lambda tensors, about: about["model"].update(id="other"),
    "something told besides": lambda tensors, about: about.update(seed=1),
    "the checksum": lambda tensors, about: about.pop("checksum"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed_of(path, what):
    tensors, about = held(path)
    CHANGES[what](tensors, about)
    save_file(tensors, path, {"about": json.dumps(about)})
    with pytest.raises(GatescopeError, match=r"x\.safetensors was altered after it was written: its checksum does not match"):
        artefacts.read(path, FORMAT)


def test_a_file_of_another_format_is_refused_by_both_names(path):
    with pytest.raises(GatescopeError, match=r"x\.safetensors is gatescope\.test/1; gatescope\.neurons/1 is expected here"):
        artefacts.read(path, "gatescope.neurons/1")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(GatescopeError, match="is a safetensors file of no gatescope format"):
        artefacts.read(path, FORMAT)


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(path):
    before = path.read_bytes()
    (path.parent / "taken").mkdir()
    with pytest.raises(GatescopeError, match=r"taken cannot be written: .*What was written before is intact; make room"):
        artefacts.write_bytes(path.parent / "taken", b"new")
    assert sorted(p.name for p in path.parent.iterdir()) == ["taken", "x.safetensors"] and path.read_bytes() == before


def test_the_same_content_gives_the_same_bytes_however_it_lies_in_memory(path, tmp_path):
    """As it stands, as every second of a longer row, transposed twice, and shared by two names."""
    longer = torch.zeros(2, 6, dtype=torch.int64)
    longer[:, ::2] = TENSORS["a"]
    columns = TENSORS["a"].T.contiguous().T
    for other in (longer[:, ::2], columns, torch.cat([TENSORS["a"], TENSORS["a"]])[:2]):
        artefacts.write(tmp_path / "y", FORMAT, {"a": other, "b": TENSORS["b"]}, {"model": {"id": "m"}, "rate": 0.01})
        assert (tmp_path / "y").read_bytes() == path.read_bytes()
    artefacts.write(tmp_path / "z", FORMAT, {"a": longer, "b": longer, "c": longer[0], "d": longer[1:]}, {})
    tensors, _ = artefacts.read(tmp_path / "z", FORMAT)
    assert all(
        torch.equal(tensors[name], part) for name, part in zip("abcd", (longer, longer, longer[0], longer[1:]), strict=True)
    )
