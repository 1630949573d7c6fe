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
from gatescope.steps.remote.ledger import Ledger, Piece, alone
from gatescope.steps.remote.line import Line
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
    ledger.pieces[7] = [Piece(7, 0, 2, "j1", 3, "asked", "r1", "r0"), Piece(7, 2, 4, "", 1, cut=2)]
    ledger.write()
    again = Ledger.at(path, "w", lambda shard: f"k{shard}")
    assert again.pieces == ledger.pieces and again.keys == {3: "k3", 7: "k7"} and again.run == ledger.run
    again.expect([7])  # 3 was stored meanwhile
    assert list(again.pieces) == [7] and list(json.loads(path.read_text())["shards"]) == ["7"]
    changed = Ledger.at(path, "w", lambda shard: "another")
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        changed.expect([7])
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        Ledger.at(path, "other", lambda shard: f"k{shard}")
    again.done(7)
    assert not path.exists()


def line_of(ledger, batches):
    """A line that would send one shard of these batches."""
    return Line(Server("http://a"), "sweep", {0: batches}, ledger)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (0, 5), (3, 8)])
def test_halves_hold_every_batch_once(start, stop):
    ledger = Ledger(None, "w", str)
    ledger.pieces[0] = [Piece(0, 0, start), Piece(0, start, stop)] if start else [Piece(0, start, stop)]
    line_of(ledger, ["ab"] * stop).smaller(ledger.pieces[0][-1], "it is late")
    batches = [n for piece in ledger.pieces[0] for n in range(piece.start, piece.stop)]
    assert batches == list(range(stop)) and all(piece.stop > piece.start for piece in ledger.pieces[0][-2:])


def test_a_piece_of_one_batch_is_cut_to_single_examples_and_no_further():
    ledger = Ledger(None, "w", str)
    ledger.begin(0, 1)
    line = line_of(ledger, ["abcde"])
    for times in (1, 2, 3):
        line.smaller(ledger.pieces[0][0], "it is late")
        assert [piece.cut for piece in ledger.pieces[0]] == [times]
    assert plan.cut(["abcde"], 3) == list("abcde")
    with pytest.raises(gs.GatescopeError, match="shard 0 is one example at a time and cannot be made smaller, but it is late"):
        line.smaller(ledger.pieces[0][0], "it is late")


def test_memory_is_of_batches_so_they_are_cut_and_not_their_number():
    ledger = Ledger(None, "w", str)
    ledger.begin(0, 4)
    line_of(ledger, ["abc"] * 4).smaller(ledger.pieces[0][0], "it is large", batches=True)
    assert [(piece.start, piece.stop, piece.cut) for piece in ledger.pieces[0]] == [(0, 4, 1)]


@pytest.mark.parametrize(
    "host",
    [
        *("", "ndif", "localhost:8001", "ftp://h", "http://", "http:///x", "http://h:99999", "http://h:x", "http://[::1"),
        *("http://a b", "http://h\n", "http://h?q=1", "http://h#f", "HTTP//h", "http://h:0", b"http://h", 5, "http://x\ud800"),
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(host):
    for make in (Server.of, Server):
        with pytest.raises(gs.GatescopeError, match=r"^remote=.* is no server \(.+\): give True for NDIF .* or an address"):
            make(host)


def test_a_password_is_in_no_address_that_is_printed_or_kept(monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "")
    server = Server.of("http://me:s3cr3t%21@localhost:8001/")
    assert server.address == "http://localhost:8001" and server.login == ("me", "s3cr3t!")
    assert "s3cr3t" not in repr(server)
    assert server.masked("no http://me:s3cr3t%21@localhost, no s3cr3t!") == "no http://localhost, no (your key)"
    assert Server("http://lonelykey@h").masked("lonelykey?") == "(your key)?"
    for wrong in ("s3cr3t@localhost:8001", "http://me:s3cr3t@localhost:x", "http://me:s3cr3t@h?q"):
        with pytest.raises(gs.GatescopeError) as refused:
            Server.of(wrong)
        assert "s3cr3t" not in str(refused.value)


def test_the_api_key_is_taken_out_of_what_an_error_says(monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "secret-key\n")
    assert Server("http://h").masked("no such key 'secret-key\\n' here") == "no such key '(your key)\\n' here"
    assert Server("http://h").key == "secret-key"
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "s\u00e9cret")
    with pytest.raises(gs.GatescopeError, match="The API key holds characters that no key has") as refused:
        assert Server("http://h").key
    assert "cret" not in str(refused.value).replace("characters", "")


LEDGER = {
    "format": "gatescope.jobs/2",
    "run": "r",
    "work": "w",
    "shards": {"0": {"examples": "k0", "pieces": []}},
    "checksum": "",
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"{}", "cannot be read: the field 'format' is missing"),
        (json.dumps({"format": "gatescope.jobs/9"}).encode(), "is gatescope.jobs/9; this version reads gatescope.jobs/2"),
        (json.dumps(LEDGER).encode(), "cannot be read: the field .*: a list of length >= 1 is needed"),
        (json.dumps(LEDGER | {"shards": {"-1": {}}}).encode(), "cannot be read"),
        (json.dumps(LEDGER | {"shards": {}}).encode(), "was altered after it was written: its checksum does not match"),
        (json.dumps(LEDGER | {"shards": {}, "more": 1}).encode(), "cannot be read: object contains unknown field 'more'"),
    ],
)
def test_a_ledger_that_is_damaged_says_so(tmp_path, content, message):
    path = tmp_path / "jobs.json"
    path.write_bytes(content)
    with pytest.raises(
        gs.GatescopeError, match=f"{message}.*" + ("" if "reads" in message else "Remove it to submit its jobs")
    ):
        Ledger.at(path, "w", str)


def test_whatever_is_altered_in_a_ledger_is_noticed(tmp_path):
    path = tmp_path / "jobs.json"
    ledger = Ledger(path, "w", lambda shard: f"k{shard}")
    ledger.begin(3, 4)
    ledger.pieces[3][0].job = "j1"
    ledger.write()
    whole = path.read_text()
    for before, after in (
        ('"j1"', '"j2"'),
        ('"stop": 4', '"stop": 3'),
        ('"k3"', '"k4"'),
        ('"3":', '"4":'),
        ('"attempts": 0', '"attempts": 1'),
    ):
        assert whole.count(before) == 1, before
        path.write_text(whole.replace(before, after))
        with pytest.raises(gs.GatescopeError, match="was altered"):
            Ledger.at(path, "w", lambda shard: f"k{shard}")


def test_the_jobs_of_an_earlier_versions_ledger_are_submitted_again(tmp_path):
    path = tmp_path / "jobs.json"
    held = {"format": "gatescope.jobs/1", "work": "w", "shards": {"0": {"examples": "k", "pieces": [[0, 2, "j", 1, ""]]}}}
    path.write_text(json.dumps(held))
    with pytest.warns(UserWarning, match="written by an earlier version, whose jobs do not say whose they are"):
        assert not Ledger.at(path, "w", str).pieces
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        Ledger.at(path, "other", str)


def test_a_second_client_of_a_ledger_is_refused_and_the_first_lets_go(tmp_path):
    path = tmp_path / "run" / "jobs.json"
    with (
        alone(path),
        pytest.raises(gs.GatescopeError, match=r"Another process is running the jobs of .*submit each of them twice: wait"),
        alone(path),
    ):
        pass
    with alone(path), alone(None):
        pass


def test_a_result_is_as_large_as_its_tensors():
    """Of K int64 and S float64, of two sums in float64: counted by PyTorch."""
    shape = (2, 3, 4, 5)
    tensors = [torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64)]
    nothing = {"batches": []}
    sizes = {"classes": 2, "groups": 3, "places": [None] * 4, "widths": [5] * 4, "generation": {}}
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
