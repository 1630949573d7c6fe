"""Whatever a server says, a run on it ends in a result or in a sentence; and no sentence repeats the key.

The server is scripted and in this process; what a real one does is in test_remote.
"""

from __future__ import annotations

import dataclasses
import json
import traceback

import nnsight
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import gatescope as gs
from fuzzing import altered, damaged, ends_in_a_sentence, fuzzed
from gatescope.models.sites import site_of
from gatescope.steps.remote import Server, attribute_shards, line, record_shards, sweep_shards
from gatescope.steps.remote.ledger import Ledger
from loopback.scripted import Scripted, packed
from tiny import text_examples

GROUPS = ("north", "south")
SECRET = "7d1b8a52-0000-4000-8000-5ec2e7000000"
LETTERS = ("A", "B", "C", "D")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no chat template:UserWarning"),
    pytest.mark.usefixtures("sources_read_once"),
]


@pytest.fixture(scope="module")
def shards():
    examples = [dataclasses.replace(e, labels=LETTERS) for e in text_examples(GROUPS, each=2)]
    return {0: [examples[:2], examples[2:]]}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", SECRET)
    monkeypatch.setattr(nnsight.CONFIG.API, "COMPRESS", True)
    with Scripted() as running:
        monkeypatch.setattr(line, "sealed", running.seal)
        monkeypatch.setattr(line, "weigh", lambda model, job: 1)
        yield running


def quick(server, **how):
    return Server(server.address, **{"pause": 0.001, "patience": 0.02, "lost_after": 0.02} | how)


def recorded(server, model, shards, ledger=None, **options):
    options = {"readout": "label", "only_correct": False, "remote": quick(server), "ledger": ledger} | options
    return list(record_shards(model, shards, site_of(model, "gate"), GROUPS, **options))


def attributed(server, model, shards, ledger=None):
    return list(attribute_shards(model, shards, [site_of(model, "gate")], GROUPS, 4, remote=quick(server), ledger=ledger))


def swept(server, model, shards, ledger=None, masks=(None,)):
    return list(sweep_shards(model, shards, masks, readout="label", remote=quick(server), ledger=ledger))


def refused(call, *arguments, **options):
    """The sentence a call ends in, after a look at everything that a traceback of it would print."""
    with pytest.raises(gs.GatescopeError) as caught:
        call(*arguments, **options)
    printed = "".join(traceback.format_exception(caught.value))
    assert SECRET not in printed
    error = caught.value
    while error is not None:
        assert SECRET not in repr(vars(error)) + str(error)
        error = error.__cause__ or error.__context__
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_scripted_server_gives_what_is_counted_here(server, llama, shards):
    (_, counters, rows), *_ = recorded(server, llama, shards)
    examples = [example for batch in shards[0] for example in batch]
    here = gs.record(llama, examples, readout="label", only_correct=False, batch_size=2, progress=False)
    assert torch.equal(counters["all"].K, here.K) and torch.equal(counters["all"].T, here.T) and len(rows) == 4
    assert {name: value for name, value in server.asked[1][1].items() if name == "ndif-api-key"} == {"ndif-api-key": SECRET}


# What is at the address

PAGE = f"<!doctype html><p>{SECRET}</p>"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"body": PAGE, "kind": "text/html"}, "answers 200 with text/html, not with what is expected: JSON is malformed"),
        ({"body": PAGE, "kind": "text/html", "code": 404}, "answers 404 with text/html"),
        ({"body": "[]"}, "Expected `object`, got `array`"),
        ({"body": "{}"}, "missing required field `packages`"),
        ({"body": '{"packages": {}}'}, "does not name the nnsight it has"),
        ({"body": '{"packages": {"nnsight": 8}}'}, "does not name the nnsight it has"),
        ({"body": b"\xff\xfe"}, "JSON is malformed"),
        ({"body": "[" * 100_000}, "not with what is expected"),
        ({"body": "this is no gzip", "Content_Encoding": "gzip"}, "Error -3 while decompressing"),
        ({"code": 301, "Location": f"https://me:{SECRET}@elsewhere/"}, "sends on to https://elsewhere/: give that address"),
    ],
)
def test_what_is_no_server_is_said_at_first_contact(server, llama, shards, answer, sentence):
    server.say("env", **answer)
    said = refused(recorded, server, llama, shards)
    assert said.startswith(f"There is no server of nnsight's at {server.address}: ") and sentence in said
    assert not server.submitted


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://no-such-host.invalid", f"http://{SECRET}@127.0.0.1:1"])
def test_an_address_with_nobody_there_is_said_at_first_contact(server, llama, shards, address):
    said = refused(recorded, server, llama, shards, remote=Server(address, patience=900))
    assert said.startswith("There is no server of nnsight's at http://") and said.endswith("that the server runs.")


@pytest.mark.parametrize(
    "answer", [{"code": 404, "body": '{"detail": "Not Found"}'}, {"code": 503}, {"code": 401}, {"code": 500}]
)
def test_an_older_server_and_a_busy_one_are_servers(server, llama, shards, answer):
    server.say("env", **answer)
    assert len(recorded(server, llama, shards)) == 1


# What is said of a job

UNREADABLE = "has given no answer that can be read for"


@pytest.mark.parametrize(
    ("what", "answer", "sentence"),
    [
        ("request", {"body": PAGE, "kind": "text/html"}, UNREADABLE),
        ("request", {"body": "null"}, UNREADABLE),
        ("request", {"body": '{"id": 5, "status": "RECEIVED"}'}, UNREADABLE),
        ("request", {"body": '{"id": "../../env", "status": "RECEIVED"}'}, UNREADABLE),
        ("request", {"body": '{"id": "", "status": "RECEIVED"}'}, UNREADABLE),
        ("request", {"body": '{"id": "a", "status": "DREAMING"}'}, UNREADABLE),
        ("request", {"body": '{"status": "RECEIVED"}'}, UNREADABLE),
        ("request", {"code": 302, "Location": "/elsewhere"}, "refused the job of shard 0 (302"),
        (
            "request",
            {"code": 400, "body": '{"detail": [{"msg": "wrong"}]}'},
            "refused the job of shard 0 (400: [{'msg': 'wrong'}])",
        ),
        ("request", {"code": 418, "body": PAGE, "kind": "text/html"}, "refused the job of shard 0 (418: <!doctype html>"),
        ("request", {"code": 401, "body": f'{{"detail": "no {SECRET}"}}'}, "does not accept the API key (401: no (your key))"),
        ("response", {"body": PAGE, "kind": "text/html"}, UNREADABLE),
        ("response", {"body": "[]"}, UNREADABLE),
        ("response", {"body": '{"id": "another", "status": "COMPLETED"}'}, "it speaks of another job"),
        ("response", {"body": '{"id": "{job}", "status": "COMPLETED", "description": 5}'}, UNREADABLE),
        (
            "response",
            {"code": 500, "body": f"Traceback: {SECRET}"},
            "has not answered for 0 seconds (500: Traceback: (your key))",
        ),
        ("response", {"code": 403, "body": "{}"}, "does not accept the API key (403: Forbidden)"),
        ("response", {"code": 404}, "was lost or ended 5 times"),
        ("response", {"body": '{"id": "{job}", "status": "ERROR"}'}, "failed on {address}: no reason was given"),
        ("result", {"code": 500}, "has not answered for 0 seconds (500: Internal Server Error)"),
        ("result", {"code": 403}, "was lost or ended 5 times"),
        ("result", {"body": b""}, "and gives no result (it cannot be read: ZstdError)"),
        ("result", {"body": b"(\xb5/\xfd nothing"}, "and gives no result (it cannot be read: ZstdError)"),
        (
            "result",
            {"body": zstandard.ZstdCompressor().compress(b"text")},
            "and gives no result (it cannot be read: BadZipFile)",
        ),
    ],
)
def test_what_a_server_says_of_a_job_ends_in_a_sentence(server, llama, shards, what, answer, sentence):
    server.say(what, **answer)
    assert sentence.replace("{address}", server.address) in refused(recorded, server, llama, shards)


@pytest.mark.parametrize("data", [None, "", 5, {}, "file:///etc/passwd", "nowhere", "http://127.0.0.1:1/result", "http://[::1"])
def test_a_job_that_is_completed_without_a_result_ends_in_a_sentence_and_is_submitted_again(
    server, llama, shards, data, tmp_path
):
    server.completed(data=data)
    said = refused(recorded, server, llama, shards, tmp_path / "jobs.json")
    if data != "http://127.0.0.1:1/result":
        assert "says that the job of shard 0 is completed, and gives no result (there is no result). Start the same" in said
    else:  # an address at which nobody is may have somebody later
        assert "has not answered" in said
        return
    server.said.clear()
    assert len(recorded(server, llama, shards, tmp_path / "jobs.json")) == 1 and len(server.submitted) == 2


def evil(server):
    class Evil:
        def __reduce__(self):
            return exec, ("raise SystemExit('code of a server ran')",)

    return lambda result: Evil()


@pytest.mark.parametrize(
    ("alter", "sentence"),
    [
        (lambda r: {**r, "of": {**r["of"], "run": "0" * 32}}, "it is of another run"),
        (lambda r: {**r, "of": {**r["of"], "task": "sweep"}}, "it is of another step"),
        (lambda r: {**r, "of": {**r["of"], "shard": 7}}, "it is of shard 7"),
        (lambda r: {**r, "of": {**r["of"], "request": "x"}}, "it is of another request"),
        (lambda r: {**r, "of": {**r["of"], "batches": [0, 1]}}, "it is of another request"),
        (lambda r: {**r, "of": {**r["of"], "shard": "0"}}, "Expected `int`, got `str` - at `$.of.shard`"),
        (lambda r: {name: value for name, value in r.items() if name != "of"}, "missing required field `of`"),
        (lambda r: {name: value for name, value in r.items() if name != "T"}, "missing required field `T`"),
        (lambda r: {**r, "more": 1}, "contains unknown field `more`"),
        (lambda r: [r], "Expected `object`, got `array`"),
        (lambda r: None, "Expected `object`, got `null`"),
        (lambda r: {**r, "K": r["K"].tolist()}, "Expected Tensor, got list - at `$.K`"),
        (lambda r: {**r, "K": r["K"].float()}, "K must be int64 [1, 2, 144], and is float32 [1, 2, 144]"),
        (lambda r: {**r, "K": r["K"][:, :1]}, "K must be int64 [1, 2, 144], and is int64 [1, 1, 144]"),
        (lambda r: {**r, "S": r["S"].float()}, "S must be float64"),
        (lambda r: {**r, "K": r["K"] - r["K"].max() - 1}, "a neuron fires for more tokens than were counted"),
        (lambda r: {**r, "K": r["K"] + r["T"].max()}, "a neuron fires for more tokens than were counted"),
        (lambda r: {**r, "T": r["T"] + 1}, "more tokens are counted than were sent"),
        (lambda r: {**r, "S": -1 - r["S"]}, "a sum of positive activations is negative"),
        (lambda r: {**r, "S": r["S"] + 1, "K": 0 * r["K"]}, "a neuron that never fired has a sum"),
        (lambda r: {**r, "seen": r["seen"] + 1}, "[3, 3] examples a group were seen, and [2, 2] sent"),
        (lambda r: {**r, "counted": r["counted"] + 1}, "more examples are counted than were sent"),
        (lambda r: {**r, "dtype": SECRET}, "Invalid enum value '(your key)' - at `$.dtype`"),
        (lambda r: {**r, "answers": r["answers"][:1]}, "answers to 2 batches were asked for, not 1"),
        (lambda r: {**r, "answers": [None, None]}, "an answer has another shape"),
        (lambda r: {**r, "answers": [[row[:1] for row in rows] for rows in r["answers"]]}, "an answer has another shape"),
        (lambda r: {**r, "answers": [[row + 100 for row in rows] for rows in r["answers"]]}, "an answer has another shape"),
        (lambda r: {**r, "undecided": True}, "contains unknown field"),
    ],
)
def test_a_result_that_is_not_the_jobs_is_refused_and_submitted_again(server, llama, shards, alter, sentence, tmp_path):
    server.alter = alter
    said = refused(recorded, server, llama, shards, tmp_path / "jobs.json")
    assert f"gave back for shard 0 is not the result of the job that was sent: {sentence}" in said or sentence in said
    assert "Nothing of it is kept" in said
    server.alter = lambda result: result
    assert len(recorded(server, llama, shards, tmp_path / "jobs.json")) == 1


def test_tokens_that_were_left_out_are_missed(server, llama, shards):
    server.alter = lambda r: {**r, "T": r["T"] - 1, "K": 0 * r["K"], "S": 0 * r["S"]}
    assert "tokens by class and group, and" in refused(recorded, server, llama, shards)


def test_a_result_runs_no_code(server, llama, shards):
    server.alter = evil(server)
    assert "and gives no result (it cannot be read: UnpicklingError)" in refused(recorded, server, llama, shards)


@pytest.mark.parametrize(
    ("alter", "sentence"),
    [
        (lambda r: {**r, "clamped": r["sums"] - 1}, "a sum without its negative scores is less than with them"),
        (lambda r: {**r, "sums": r["sums"][:1]}, "sums must be float64 [2, 144], and is float64 [1, 144]"),
        (lambda r: {**r, "seen": r["seen"][:1]}, "seen must be int64 [2]"),
        (lambda r: {**r, "sums": r["sums"] * torch.nan}, r"gave NaN at layer 0 (gate) in shard 0"),
        (lambda r: {**r, "sums": r["sums"] - torch.inf}, r"gave NaN at layer 0 (gate) in shard 0"),
    ],
)
def test_attributions_are_checked(server, llama, shards, alter, sentence):
    server.alter = alter
    assert sentence in refused(attributed, server, llama, shards)


@pytest.mark.parametrize(
    ("alter", "sentence"),
    [
        (lambda r: {**r, "answers": []}, "answers under 1 masks were asked for, not 0"),
        (lambda r: {**r, "answers": [5]}, "Expected `array`, got `int`"),
        (lambda r: {**r, "answers": [[]]}, "answers to 2 batches were asked for, not 0"),
        (
            lambda r: {**r, "answers": [[[row * torch.nan for row in rows] for rows in r["answers"][0]]]},
            "gave NaN in example 'north0'",
        ),
    ],
)
def test_answers_of_a_sweep_are_checked(server, llama, shards, alter, sentence):
    server.alter = alter
    assert sentence in refused(swept, server, llama, shards)


def test_nan_in_a_recording_names_the_layer_or_the_example(server, llama, shards):
    def at_layer(result):
        result["S"][0, 1, 2 * 48 + 5] = torch.inf
        return result | {"K": result["K"].clamp(min=1)}

    server.alter = at_layer
    assert "gave NaN at layer 2 in shard 0. Its dtype there, float32, is too narrow" in refused(recorded, server, llama, shards)
    server.alter = lambda r: {**r, "answers": [[row * torch.nan for row in rows] for rows in r["answers"]]}
    assert "gave NaN in example 'north0'" in refused(recorded, server, llama, shards)


# What the next run finds


def test_a_job_that_failed_is_submitted_again_and_not_polled_for_ever(server, llama, shards, tmp_path):
    server.say("response", '{"id": "{job}", "status": "ERROR", "description": "KeyError: 1"}')
    for times in (1, 2):
        assert "The job of shard 0 failed on" in refused(recorded, server, llama, shards, tmp_path / "jobs.json")
        assert len(server.submitted) == times
    server.said.clear()
    assert len(recorded(server, llama, shards, tmp_path / "jobs.json")) == 1 and not (tmp_path / "jobs.json").exists()


def test_what_was_made_smaller_stays_smaller_on_the_next_run(server, llama, shards, tmp_path):
    out_of_memory = json.dumps({"id": "{job}", "status": "ERROR", "description": "CUDA out of memory."})
    server.say("response", out_of_memory)
    said = refused(recorded, server, llama, shards, tmp_path / "jobs.json")
    assert "is one example at a time and cannot be made smaller, but" in said
    assert [of["cut"] for of in server.submitted] == [0, 1]
    server.said.clear()
    (_, counters, rows), *_ = recorded(server, llama, shards, tmp_path / "jobs.json")
    assert [of["cut"] for of in server.submitted] == [0, 1, 1] and [row.id for row in rows] == [
        "north0",
        "north1",
        "south0",
        "south1",
    ]
    assert counters["all"].seen.tolist() == [2, 2]


def test_a_server_that_has_answered_before_is_given_time_to_come_back(server, llama, shards, tmp_path):
    server.say("response", code=500)
    assert "has not answered" in refused(recorded, server, llama, shards, tmp_path / "jobs.json")
    server.say("env", PAGE)  # while it is being started again
    assert "has not answered" in refused(recorded, server, llama, shards, tmp_path / "jobs.json")
    server.said.clear()
    assert len(recorded(server, llama, shards, tmp_path / "jobs.json")) == 1 and len(server.submitted) == 1


def test_a_result_of_another_run_of_the_same_work_is_refused(server, llama, shards, tmp_path):
    """Two directories, the same questions: the number of a job strays from one ledger into the other."""
    server.say("response", '{"id": "{job}", "status": "RUNNING"}')
    for name in ("one", "two"):
        found = record_shards(
            llama, shards, site_of(llama, "gate"), GROUPS, readout="label", only_correct=False,
            remote=quick(server), ledger=tmp_path / name,
        )  # fmt: skip
        server.say("response", code=500)
        with pytest.raises(gs.GatescopeError):
            next(found)
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert first["work"] == second["work"] and first["run"] != second["run"]
    ledger = Ledger.at(tmp_path / "two", second["work"], lambda shard: second["shards"]["0"]["examples"])
    ledger.pieces[0][0].job = first["shards"]["0"]["pieces"][0]["job"]
    ledger.write()
    server.said.clear()
    assert "it is of another run" in refused(recorded, server, llama, shards, tmp_path / "two")


def test_two_clients_of_one_run_do_not_submit_twice(server, llama, shards, tmp_path):
    found = record_shards(
        llama, shards, site_of(llama, "gate"), GROUPS, readout="label", only_correct=False,
        remote=quick(server), ledger=tmp_path / "jobs.json",
    )  # fmt: skip
    next(found)
    assert "Another process is running the jobs of" in refused(recorded, server, llama, shards, tmp_path / "jobs.json")
    assert len(server.submitted) == 1
    assert list(found) == []


@pytest.mark.parametrize("key", ["caf\u00e9-key", "two\nlines"])
def test_a_key_that_cannot_be_sent_is_said_and_not_repeated(server, llama, shards, key, monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", key)
    said = refused(recorded, server, llama, shards)
    assert "The API key holds characters that no key has" in said and key not in said


def test_a_name_and_a_password_are_sent_and_never_written(server, llama, shards, tmp_path):
    there = quick(server).__class__(server.address.replace("://", f"://me:{SECRET}@"), pause=0.001, patience=0.02)
    (_, counters, _), *_ = recorded(server, llama, shards, tmp_path / "jobs.json", remote=there)
    assert all("Authorization" in headers for _, headers in server.asked)
    assert counters["all"].provenance["server"] == server.address
    server.say("response", code=500, body=f"me:{SECRET}")
    assert server.address in refused(recorded, server, llama, shards, tmp_path / "jobs.json", remote=there)
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


# Whatever it says

ANSWERS = {
    "env": {"packages": {"nnsight": "0.8.1"}},
    "request": {"id": "{job}", "status": "RECEIVED"},
    "response": {"id": "{job}", "status": "COMPLETED", "description": "", "data": "{address}/result/{job}"},
}


@fuzzed
@given(data=st.data())
def test_strange_answers_end_in_a_sentence(server, llama, shards, data):
    server.said.clear()
    what = data.draw(st.sampled_from(sorted(ANSWERS)))
    text = data.draw(altered(ANSWERS[what])).replace("{address}", server.address)
    server.say(what, text.encode("utf-8", "surrogatepass"), code=data.draw(st.sampled_from([200, 200, 200, 400, 404, 503])))
    ends_in_a_sentence(lambda: recorded(server, llama, shards))


@fuzzed
@given(data=st.data())
def test_damaged_results_end_in_a_sentence(server, llama, shards, data):
    server.said.clear()
    content = packed({"K": torch.ones(1, 2, 3, 48, dtype=torch.int64), "answers": [[1, 2], "x"], "dtype": "float32"})
    if data.draw(st.booleans()):  # of what the compression does not notice
        inside = data.draw(damaged(zstandard.ZstdDecompressor().decompress(content)))
        content = zstandard.ZstdCompressor().compress(inside)
    else:
        content = data.draw(damaged(content))
    server.say("result", content)
    ends_in_a_sentence(lambda: recorded(server, llama, shards))
