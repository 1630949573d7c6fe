"""What tells one server's work from another's, and what a killed client finds: without a server."""

from __future__ import annotations

import dataclasses
import json

import nnsight
import pytest
import torch

import gatescope as gs
from gatescope.interventions.value import plain
from gatescope.steps.remote import Server, plan, sweep_shards
from gatescope.steps.remote.estimate import returned
from gatescope.steps.remote.ledger import Ledger, Piece
from gatescope.steps.remote.line import Line, said
from tiny import Parts, text_examples


def neurons(llama, *indices):
    return gs.NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 1, i) for i in indices])


def test_every_difference_between_masks_is_in_their_digests(llama):
    some, others = neurons(llama, 1, 2), neurons(llama, 1, 3)
    masks = [None, gs.ablate(some - some), gs.ablate(some), gs.ablate(others), gs.scale(some, 2.0), gs.scale(some, 3.0)]
    masks += [gs.set_to(some, 2.0), gs.add(some, 2.0), gs.set_to(some, torch.tensor([2.0, 2.5]))]
    digests = [plan.digest_of(plain(llama, mask)) for mask in masks]
    assert len(set(digests)) == len(masks)
    assert plan.digest_of(plain(llama, gs.ablate(neurons(llama, 2, 1)))) == digests[2]  # order is no difference


def test_every_difference_between_shards_is_in_their_keys():
    examples = text_examples(each=2)
    shards = {0: [examples[:2], examples[2:]], 1: [examples[:1], examples[1:]], 2: [examples], 3: [examples[:3]]}
    shards[4] = [examples[:2], [examples[2], dataclasses.replace(examples[3], question="Else?")]]
    key = plan.keys(shards)
    assert len({key(number) for number in shards}) == len(shards) and key(0) == plan.keys({0: shards[0]})(0)


def test_every_difference_between_works_is_in_their_digests(monkeypatch):
    card = {"id": "org/m", "revision": "r1"}

    def of(task="sweep", settings=("generate", 20), address="http://a", **more):
        monkeypatch.setattr(plan, "identity", lambda model: card | more)
        return plan.work(task, Parts(), Server(address), list(settings))

    made = [of(), of(task="record"), of(settings=("generate", 3)), of(address="http://b"), of(revision="r2"), of(id="org/n")]
    assert len(set(made)) == len(made) and of() == made[0]


def test_a_sweeps_work_is_of_its_readout_its_masks_and_how_many_tokens_it_may_answer(llama, monkeypatch, tmp_path):
    """Seen in the ledgers: of a sweep started with other settings none is taken up."""
    seen = []

    def stop(path, work, key):
        seen.append(work)
        raise InterruptedError

    monkeypatch.setattr(Ledger, "at", stop)
    shards, mask = {0: [text_examples(each=1)]}, gs.ablate(neurons(llama, 1))
    for masks, how in (([None], {}), ([None, mask], {}), ([None], {"max_new_tokens": 3}), ([None], {"readout": "loglik"})):
        with pytest.raises(InterruptedError):
            next(sweep_shards(llama, shards, masks, remote="http://localhost:1", **how))
    assert len(set(seen)) == 4


def test_a_ledger_gives_back_every_piece_as_it_was(tmp_path):
    path = tmp_path / "jobs.json"
    ledger = Ledger(path, "w", lambda shard: f"k{shard}")
    for shard in (3, 7):
        ledger.begin(shard, 4)
    ledger.pieces[7] = [Piece(7, 0, 2, "j1", 3, "asked"), Piece(7, 2, 4, "", 1)]
    ledger.write()
    again = Ledger.at(path, "w", lambda shard: f"k{shard}")
    assert again.pieces == ledger.pieces and again.keys == {3: "k3", 7: "k7"}
    again.expect([7])  # 3 was stored meanwhile
    assert list(again.pieces) == [7] and list(json.loads(path.read_text())["shards"]) == ["7"]
    changed = Ledger.at(path, "w", lambda shard: "another")
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        changed.expect([7])
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        Ledger.at(path, "other", lambda shard: f"k{shard}")
    again.done(7)
    assert not path.exists()


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (0, 5), (3, 8)])
def test_halves_hold_every_batch_once(start, stop):
    ledger = Ledger(None, "w", str)
    ledger.pieces[0] = [Piece(0, 0, start), Piece(0, start, stop)] if start else [Piece(0, start, stop)]
    Line(Server("http://a")).halve(ledger.pieces[0][-1], ledger, "it is late")
    batches = [n for piece in ledger.pieces[0] for n in range(piece.start, piece.stop)]
    assert batches == list(range(stop)) and all(piece.stop > piece.start for piece in ledger.pieces[0][-2:])


def test_a_piece_of_one_batch_is_not_halved():
    ledger = Ledger(None, "w", str)
    ledger.begin(0, 1)
    with pytest.raises(gs.GatescopeError, match="A job of shard 0 is one batch and cannot be made smaller, but it is late"):
        Line(Server("http://a")).halve(ledger.pieces[0][0], ledger, "it is late")


def test_the_api_key_is_taken_out_of_what_an_error_says(monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "secret-key")
    assert said(RuntimeError("Failed to send request: no such key secret-key here")) == "no such key (your key) here"
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "")
    assert said(RuntimeError("")) == "RuntimeError"


def test_a_result_is_as_large_as_its_tensors():
    """Of K int64 and S float64, of two sums in float64: counted by PyTorch."""
    shape = (2, 3, 4, 5)
    tensors = [torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64)]
    nothing = {"batches": []}
    sizes = {"classes": 2, "groups": 3, "places": [None] * 4, "width": 5, "generation": {}}
    assert returned({"task": "record"} | sizes | nothing) == sum(t.nbytes for t in tensors)
    sums = [torch.zeros(3, 7, dtype=torch.float64)] * 2
    assert returned({"task": "attribute", "groups": 3, "width": 7} | nothing) == sum(t.nbytes for t in sums)
    batch = {"way": "generate", "answer": ["a", "b"]}
    job = {"task": "sweep", "masks": [1, 2, 3], "batches": [batch], "generation": {"max_new_tokens": 6}}
    assert returned(job) == 3 * torch.zeros(2, 6, dtype=torch.int32).nbytes


def test_shards_of_two_dtypes_are_not_added_up():
    pieces = [{"dtype": "float32"}, {"dtype": "bfloat16"}]
    assert plan.same_dtype(Server("http://a"), None, pieces[:1]) == "float32"
    for before, some in (("bfloat16", pieces[:1]), (None, pieces)):
        with pytest.raises(gs.GatescopeError, match=r"http://a now computes in \w+; the shards before were computed in \w+"):
            plan.same_dtype(Server("http://a"), before, some)
