"""Jobs on a server: the same sums and answers as here, whatever happens on the way.

The server is a process of its own in which gatescope cannot be imported (tests/loopback); the client has no weights.
"""

from __future__ import annotations

import dataclasses
import json
import time
from functools import reduce
from operator import add

import nnsight
import pytest
import torch

import gatescope as gs
from gatescope.interventions.carry import held
from gatescope.interventions.value import plain
from gatescope.models.sites import site_of
from gatescope.steps import remote
from gatescope.steps.remote import Server, attribute_shards, load_client, record_shards, sweep_shards
from gatescope.steps.remote import attribute as remote_attribute
from gatescope.steps.remote import record as remote_record
from gatescope.steps.remote.sealing import weigh
from loopback import Loopback
from loopback.client import record as client_record
from loopback.client import shards as client_shards
from processes import CONTEXT
from tiny import letter_examples, teach, text_examples, tiny_llama, tiny_llava_next

GROUPS = ("north", "south")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no chat template:UserWarning"),
    pytest.mark.usefixtures("sources_read_once"),
]


def doubtful(examples):
    """Every other example with another answer than the one the model was taught, so that it is wrong there."""
    wrong = [dataclasses.replace(e, answer=next(c for c in e.choices if c != e.answer)) for e in examples]
    return [w if n % 2 else e for n, (e, w) in enumerate(zip(examples, wrong, strict=True))]


def cut(examples, batch_size=3, shard_size=6):
    shards = [examples[i : i + shard_size] for i in range(0, len(examples), shard_size)]
    return {n: [s[i : i + batch_size] for i in range(0, len(s), batch_size)] for n, s in enumerate(shards)}


@pytest.fixture(scope="module")
def examples():
    return doubtful(letter_examples(GROUPS, each=5, image=False))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return teach(tiny_llama(tmp_path_factory.mktemp("taught")), letter_examples(GROUPS, each=5, image=False), steps=40)


@pytest.fixture(scope="module")
def here(taught):
    return gs.load_model(taught)


@pytest.fixture(scope="module")
def client(taught):
    return load_client(taught)


@pytest.fixture(scope="module")
def loopback(taught):
    with Loopback(taught) as running:
        yield running


@pytest.fixture
def server(loopback, monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
    loopback.control(clear=True, paused=False, key="", version="", dtype="float32", tokenizer=True)
    return loopback


def line(server, **how):
    return Server(server.address, **{"pause": 0.02, "patience": 20, "lost_after": 0.3} | how)


def recorded(client, examples, server, shards=None, **options):
    """Counters of each class over all shards in order, and all answers."""
    how = line(server, **options.pop("how", {}))
    parts = {}
    for number, counters, rows in record_shards(
        client, shards or cut(examples), site_of(client, options.pop("site", "gate")), GROUPS, remote=how, **options
    ):
        parts[number] = counters, rows
    ordered = [parts[number] for number in sorted(parts)]
    names = ordered[0][0]
    return {name: reduce(add, (c[name] for c, _ in ordered)) for name in names}, [r for _, rows in ordered for r in rows]


def locally(model, examples, tokens=("all",), **options):
    return gs.record_classes(model, examples, tokens=tokens, batch_size=3, shard_size=6, progress=False, **options)


def assert_same(there, local):
    for part in ("K", "T", "seen", "counted"):
        assert torch.equal(getattr(there, part), getattr(local, part)), part
    torch.testing.assert_close(there.S, local.S, rtol=1e-6, atol=0)


@pytest.mark.parametrize("tokens", [("all",), ("text", "generated")])
def test_counters_equal_those_of_a_local_run(server, here, client, examples, tokens):
    local = locally(here, examples, tokens, max_new_tokens=3)
    there, rows = recorded(client, examples, server, tokens=tokens, max_new_tokens=3)
    for name in tokens:
        assert_same(there[name], local[name])
        assert 0 < there[name].counted.sum() < there[name].seen.sum()
    assert [row.id for row in rows] == [e.id for e in examples]
    assert sum(row.reading.correct for row in rows) == there[tokens[0]].counted.sum()
    assert len(server.received()) == 2 and there[tokens[0]].model["dtype"] == "float32"


@pytest.mark.parametrize(("readout", "jobs"), [("label", 2), ("argmax", 2), ("loglik", 2), ("likert", 4)])
def test_every_way_of_reading_an_answer_counts_the_same_rows(server, here, client, examples, readout, jobs):
    if readout == "likert":  # read here, between two jobs
        numbers = ("1", "2", "3", "4")
        examples = [dataclasses.replace(e, choices=numbers, answer="2", prompt="k is 2. 1, 2, 3 or 4?") for e in examples]
    elif readout == "argmax":  # k, which the model was taught, is the right label of every other example
        examples = labelled(examples)
    else:
        examples = [dataclasses.replace(e, labels=("A", "B", "C", "D")) for e in examples]
    local = locally(here, examples, readout=readout, max_new_tokens=2)["all"]
    there, _ = recorded(client, examples, server, readout=readout, max_new_tokens=2)
    assert_same(there["all"], local)
    assert len(server.received()) == jobs
    if readout == "argmax":
        assert there["all"].counted.tolist() == [3, 2]


def labelled(examples):
    """Answered by the letters themselves."""
    texts = [dataclasses.replace(e, prompt=gs.data.prompts.asked(e)) for e in examples]
    return [dataclasses.replace(e, labels=e.choices) for e in texts]


def test_a_server_without_a_tokenizer_is_told_which_answers_are_right(server, here, client, examples):
    server.control(tokenizer=False)
    there, rows = recorded(client, examples, server, max_new_tokens=3)
    assert_same(there["all"], locally(here, examples, max_new_tokens=3)["all"])
    assert len(rows) == len(examples) and len(server.received()) == 4


@pytest.mark.parametrize("reduce", ["max", "norm"])
def test_attributions_equal_those_of_a_local_run(server, here, client, examples, reduce):
    names = ("gate_pre", "q", "k", "v")
    local = gs.attribute(here, examples, sites=names, reduce=reduce, batch_size=3, progress=False)
    sites = [site_of(client, name) for name in names]
    found = attribute_shards(client, cut(examples), sites, GROUPS, len(examples), reduce=reduce, remote=line(server))
    there = reduce_in_order(found)
    assert torch.equal(there.seen, local.seen) and there.layout == local.layout and local.sums.abs().max() > 1e-6
    torch.testing.assert_close(there.sums, local.sums, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(there.clamped, local.clamped, rtol=1e-6, atol=1e-12)


def reduce_in_order(found):
    parts = dict(found)
    return reduce(add, (parts[number] for number in sorted(parts)))


def neurons(model):
    layout = gs.Layout((site_of(model, "gate").layout.only(), site_of(model, "q").layout.only()))
    return gs.NeuronSet.of(layout, [("gate", layer, i) for layer in (0, 2) for i in range(30)] + [("q", 1, 5)])


def test_masked_answers_equal_local_ones_token_for_token(server, here, client, examples):
    off = neurons(here)
    masks = [gs.ablate(off), gs.scale(off, 3.0), gs.set_to(off, 0.5)]
    local = gs.sweep(here, examples, dict(zip("abc", masks, strict=True)), batch_size=3, max_new_tokens=6, progress=False)
    found = dict(sweep_shards(client, cut(examples), [None, *masks], max_new_tokens=6, remote=line(server)))
    for which, mask in enumerate(("", *"abc")):
        there = [answer for number in sorted(found) for answer in found[number][which]]
        assert there == [(row.text, row.reading) for row in local.rows if row.mask == mask]
    assert len({row.text for row in local.rows}) > 2


@pytest.mark.parametrize("readout", ["generate", "loglik"])
def test_a_mask_that_makes_nan_makes_the_same_holes_there(server, here, client, examples, readout):
    layout = gs.Layout((site_of(here, "gate").layout.only(),))
    masks = [gs.scale(gs.NeuronSet(layout, torch.arange(48, 96)), 3e38), gs.ablate(neurons(here))]
    options = {"readout": readout, "max_new_tokens": 3}
    local = gs.sweep(here, examples, dict(zip("ab", masks, strict=True)), batch_size=3, progress=False, **options)
    found = dict(sweep_shards(client, cut(examples), [None, *masks], remote=line(server), **options))
    for which, mask in enumerate(("", *"ab")):
        there = [answer for number in sorted(found) for answer in found[number][which]]
        assert there == [(row.text, row.reading) for row in local.rows if row.mask == mask]
        assert all(reading.hole == (mask == "a") for _, reading in there)


def test_masked_argmax_answers_equal_local_ones(server, here, client, examples):
    """Labels, and tokens that are none."""
    layout = gs.Layout((site_of(here, "gate").layout.only(),))
    mask, asked = gs.ablate(gs.NeuronSet(layout, torch.arange(layout.size))), labelled(examples)
    local = gs.sweep(here, asked, {"a": mask}, batch_size=3, readout="argmax", progress=False)
    found = dict(sweep_shards(client, cut(asked), [None, mask], readout="argmax", remote=line(server)))
    for which, name in enumerate(("", "a")):
        there = [answer for number in sorted(found) for answer in found[number][which]]
        assert there == [(row.text, row.reading) for row in local.rows if row.mask == name]
    assert len({row.reading.fallback for row in local.rows}) == 2


def test_pictures_travel_and_count_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)
    path = tiny_llava_next(tmp_path / "llava")
    here, client = gs.load_model(path), load_client(path)
    examples = letter_examples(GROUPS, each=3, image=True)
    local = locally(here, examples, ("text", "image"), only_correct=False, max_new_tokens=2)
    with Loopback(path) as server:
        there, _ = recorded(client, examples, server, tokens=("text", "image"), only_correct=False, max_new_tokens=2)
    for name in ("text", "image"):
        assert_same(there[name], local[name])


def test_what_comes_back_does_not_grow_with_the_prompts(server, client, examples, monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "COMPRESS", False)
    wordy = [dataclasses.replace(e, question=e.question * 20) for e in examples]
    sent, returned = [], []
    for asked in (examples, wordy):
        server.control(clear=True)
        recorded(client, asked, server, max_new_tokens=1)
        site = [site_of(client, "gate_pre")]
        reduce_in_order(attribute_shards(client, cut(asked), site, GROUPS, len(asked), remote=line(server)))
        sent.append([entry["received"] for entry in server.received()])
        returned.append([entry["returned"] for entry in server.returned()])
    print("\nbytes sent", sent, "returned", returned)
    assert returned[0] == returned[1]
    assert all(long > short for short, long in zip(*sent, strict=True))


def test_an_estimate_is_what_is_then_moved(server, client, examples):
    shards = cut(examples)
    build = remote_record.builder(client, shards, site_of(client, "gate"), GROUPS, max_new_tokens=3)
    expected = remote.estimate(client, shards, build)
    whole = remote.estimate_record(client, examples, batch_size=3, shard_size=6, max_new_tokens=3)
    assert (whole.jobs, whole.result, whole.weighed) == (expected.jobs, expected.result, expected.weighed)
    assert whole.payload == pytest.approx(expected.payload, rel=0.01)  # how well it compresses differs by some bytes
    assert str(whole).startswith("2 jobs, ") and " kB sent, at most " in str(whole)
    recorded(client, examples, server, max_new_tokens=3)
    assert expected.jobs == len(server.received()) == 2
    assert sum(entry["received"] for entry in server.received()) == pytest.approx(expected.payload, rel=0.2)
    assert sum(entry["returned"] for entry in server.returned()) <= expected.result + 4000


def test_a_block_that_cannot_travel_is_refused_before_anything_is_sent(server, client, examples):
    build = remote_attribute.builder(client, cut(examples), [site_of(client, "q")], GROUPS)
    job = build(0)(0, 1, None)
    assert weigh(client, job) > 1000
    with pytest.raises(gs.GatescopeError, match=r"hypothesis\S* cannot travel: a server does not have it"):
        weigh(client, job | {"batches": [__import__("hypothesis").settings]})
    assert server.log() == []


# Interventions in a trace of one's own


def generated(model, **options):
    with model.generate("Which letter is north 1?", max_new_tokens=5, do_sample=False, **options) as tracer:
        ids = tracer.result.save()
    return ids


@pytest.mark.parametrize("kind", [gs.ablate, lambda n: gs.scale(n, 2.0), lambda n: gs.set_to(n, 1.5)])
def test_an_edited_model_generates_the_same_there(server, here, client, kind):
    intervention = kind(neurons(here))
    local = generated(intervention.edit(here))
    assert torch.equal(generated(held(intervention, here)), local)
    assert torch.equal(generated(held(intervention, client), remote=server.address), local)
    assert not torch.equal(generated(here), local)


def test_no_neurons_change_nothing_and_hold_nothing_up(server, here, client):
    none = gs.ablate(neurons(here) - neurons(here))
    off = remote.carry(none, client)
    with client.generate(max_new_tokens=5, do_sample=False, remote=server.address) as tracer:
        with tracer.invoke():
            for _ in tracer.iter[:]:
                off(client)
        with tracer.invoke("Which letter is north 1?"):
            ids = tracer.result.save()
    assert torch.equal(ids, generated(here)) and torch.equal(generated(held(none, here)), generated(here))


def test_a_carried_intervention_acts_where_it_is_called(server, here, client):
    off = remote.carry(gs.ablate(neurons(here)), client)
    with here.generate("Which letter is north 1?", max_new_tokens=5, do_sample=False) as tracer:
        for _ in tracer.iter[1:3]:
            gs.ablate(neurons(here)).apply(here)
        local = tracer.result.save()
    with client.generate("Which letter is north 1?", max_new_tokens=5, do_sample=False, remote=server.address) as tracer:
        for _ in tracer.iter[1:3]:
            off(client)
        there = tracer.result.save()
    assert torch.equal(there, local) and not torch.equal(local, generated(here))


def test_apply_in_a_remote_block_is_refused_with_the_line_to_write_instead(server, here, client):
    off = neurons(here)
    made = gs.ablate(off)
    edited, carried = r"edited = gs.ablate\(neurons\).edit\(model\)", r"off = gs.remote.carry\(gs.ablate\(neurons\), model\)"
    with pytest.raises(gs.GatescopeError, match=edited), client.generate("k", max_new_tokens=2, remote=server.address):
        gs.ablate(off).apply(client)
    with pytest.raises(gs.GatescopeError, match=carried), client.generate("k", max_new_tokens=2, remote=server.address):
        made.apply(client)
    assert server.log() == []


# What can go wrong


@pytest.fixture(scope="module")
def one_token(here, examples):
    """Counters of a local run that reads one token an answer."""
    return locally(here, examples, max_new_tokens=1)["all"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "code": 503, "detail": "compute backend is reconnecting", "times": 2},
        {"kind": "status", "code": 429, "times": 2},
        {"kind": "lost"},
        {"kind": "drop", "times": 2},
        {"kind": "poll", "code": 502, "times": 2},
        {"kind": "forget"},
        {"kind": "delay", "seconds": 0.2},
        {"kind": "error", "description": "Replica was evicted while processing your request."},
        {"kind": "error", "description": "CUDA out of memory."},
        {"kind": "late", "batches": 1, "times": 2},
        {"kind": "status", "code": 413, "times": 1},
    ],
    ids=lambda fault: fault["kind"] + str(fault.get("code", "")),
)
def test_what_can_be_borne_ends_in_the_same_sums(server, client, examples, one_token, fault, tmp_path):
    server.control(faults=[fault])
    there, _ = recorded(client, examples, server, max_new_tokens=1, ledger=tmp_path / "jobs.json")
    assert_same(there["all"], one_token)
    assert not (tmp_path / "jobs.json").exists()


def test_a_server_that_is_killed_and_started_again_is_asked_again(server, client, examples, one_token):
    found = record_shards(
        client, cut(examples), site_of(client, "gate"), GROUPS, max_new_tokens=1, remote=line(server, in_flight=1)
    )
    parts = dict([next(found)[:2]])
    server.restart()
    parts |= {number: counters for number, counters, _ in found}
    assert_same(parts[0]["all"] + parts[1]["all"], one_token)


@pytest.mark.parametrize(
    ("control", "sentence"),
    [
        ({"key": "another"}, r"does not accept the API key \(401: Missing or invalid API key.\). Set .*NDIF_API_KEY"),
        (
            {"faults": [{"kind": "status", "code": 400, "detail": "Client nnsight version 0.8.1 is below the minimum."}]},
            r"does not accept this client: Client nnsight version 0.8.1 is below the minimum. nnsight here is",
        ),
        ({"version": "0.7.2"}, r"runs nnsight 0.7.2; this machine has nnsight .*pip install 'nnsight==0.7.2'"),
        (
            {"faults": [{"kind": "late", "batches": 0, "times": 99}]},
            r"is one example at a time and cannot be made smaller, but it exceeds the time",
        ),
        (
            {"faults": [{"kind": "error", "description": "CUDA out of memory.", "times": 99}]},
            r"is one example at a time and cannot be made smaller, but .* ran out of memory on it",
        ),
        (
            {"faults": [{"kind": "error", "description": "Traceback\nKeyError: 'x'"}]},
            r"job of shard 0 failed on .*: KeyError: 'x'",
        ),
        ({"faults": [{"kind": "status", "code": 503, "times": 99}]}, r"has not answered for \d+ seconds \(503.*start the same"),
        (
            {"faults": [{"kind": "error", "description": "evicted while", "times": 99}]},
            r"was lost or ended 5 times .* Start again later",
        ),
        (
            {"faults": [{"kind": "error", "description": "element 0 of tensors does not require grad"}]},
            r"gradients do not cross: attribution does not work there",
        ),
    ],
    ids=["key", "refused version", "version", "late", "memory", "error", "silent", "evicted", "gradients"],
)
def test_what_cannot_be_borne_is_said_in_one_sentence(server, client, examples, control, sentence):
    server.control(**control)
    with pytest.raises(gs.GatescopeError, match=sentence):
        recorded(client, examples, server, max_new_tokens=1, how={"patience": 0.3})


def test_a_server_that_changes_its_dtype_is_refused(server, client, examples):
    found = record_shards(
        client, cut(examples), site_of(client, "gate"), GROUPS, max_new_tokens=1, remote=line(server, in_flight=1)
    )
    next(found)
    server.control(dtype="bfloat16")
    with pytest.raises(gs.GatescopeError, match="now computes in bfloat16; the shards before were computed in float32"):
        next(found)


def test_something_that_is_no_server_is_refused():
    with pytest.raises(gs.GatescopeError, match=r"remote='ndif' is no server .*: give True for NDIF"):
        Server.of("ndif")


def test_the_api_key_is_sent_and_never_written(server, client, examples, tmp_path, monkeypatch):
    secret = "7d1b8a52-0000-4000-8000-5ec2e7000000"
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", secret)
    server.control(key=secret, paused=True)
    found = record_shards(
        client,
        cut(examples),
        site_of(client, "gate"),
        GROUPS,
        max_new_tokens=1,
        remote=line(server),
        ledger=tmp_path / "jobs.json",
    )
    server.control(paused=False, faults=[{"kind": "drop"}])
    for _, counters, _ in found:
        counters["all"].save(tmp_path / "counters.safetensors")
        assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    server.fault("status", code=400, detail=f"Invalid API key format: '{secret}'.")
    with pytest.raises(gs.GatescopeError, match="does not accept the API key") as refused:
        recorded(client, examples, server, max_new_tokens=1)
    assert secret not in str(refused.value)


def test_a_killed_client_picks_its_jobs_up_again(server, here, client, taught, tmp_path):
    def start():
        process = CONTEXT.Process(target=client_record, args=(taught, server.address, tmp_path))
        process.start()
        return process

    def wait(reached, process):
        end = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < end and process.is_alive()
            time.sleep(0.02)

    def stored():
        return len(list(tmp_path.glob("*.safetensors")))

    def under_way():
        if not (tmp_path / "jobs.json").is_file():
            return []
        held = json.loads((tmp_path / "jobs.json").read_text())["shards"]
        return [piece["job"] for shard in held.values() for piece in shard["pieces"] if piece["job"]]

    server.control(paused=True)
    process = start()
    wait(lambda: len(under_way()) == 3, process)
    process.kill()
    process.join()
    remembered = under_way()
    server.control(paused=False)  # they finish while no client is there
    while not set(remembered) <= {entry["job"] for entry in server.returned()}:
        time.sleep(0.02)
    process = start()
    process.join()
    assert process.exitcode == 0
    assert stored() == 6 and not (tmp_path / "jobs.json").exists()
    submitted = [entry["job"] for entry in server.received()]
    assert len(submitted) == 6 and submitted[:3] == remembered
    shards = client_shards()
    examples = [e for shard in shards.values() for batch in shard for e in batch]
    local = gs.record(here, examples, only_correct=False, batch_size=2, shard_size=4, max_new_tokens=2, progress=False)
    there = reduce(add, (gs.Counters.load(tmp_path / f"{n}.safetensors") for n in range(6)))
    assert_same(there, local)


def test_jobs_of_other_work_are_not_taken_up(server, client, examples, tmp_path):
    server.control(paused=True)
    site, ledger = site_of(client, "gate"), tmp_path / "jobs.json"
    options = {"max_new_tokens": 1, "ledger": ledger}
    impatient = line(server)
    server.fault("poll", code=500, times=99)
    with pytest.raises(gs.GatescopeError, match="has not answered"):
        list(record_shards(client, cut(examples), site, GROUPS, remote=dataclasses.replace(impatient, patience=0.1), **options))
    assert ledger.is_file()
    server.control(calm=True, paused=False)
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        list(record_shards(client, cut(examples), site, GROUPS, remote=impatient, **options | {"max_new_tokens": 2}))
    with pytest.raises(gs.GatescopeError, match="holds jobs of other work"):
        list(record_shards(client, cut(text_examples(GROUPS)), site, GROUPS, remote=impatient, **options))
    assert len(list(record_shards(client, cut(examples), site, GROUPS, remote=impatient, **options))) == 2


def test_a_client_without_weights_names_the_same_places(here, client):
    assert all(parameter.is_meta for parameter in client._module.parameters())
    for name in ("gate", "gate_pre", "up", "hidden", "q"):
        assert site_of(client, name) == site_of(here, name)
    assert plain(client, gs.ablate(neurons(here)))[0][0] == site_of(here, "gate").paths[0]
