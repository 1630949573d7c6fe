"""Bytes that others wrote, or that something damaged: a result, or one sentence that names file, line and field."""

from __future__ import annotations

import json
import os
import resource
import signal

import msgspec
import pytest
import torch

import gatescope as gs
from commands import gatescope
from gatescope.core import artefacts, environment, foreign
from gatescope.core.attributions import Attributions
from gatescope.core.counters import Counters
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet
from gatescope.data import Example
from gatescope.data import image as shown
from gatescope.select.selection import Selection
from gatescope.steps.remote.ledger import Ledger
from gatescope.steps.run import Run

DEEP = b"[" * 100_000


class Thing(msgspec.Struct):
    layers: list[int]
    name: str | None = None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b'{"layers": [1', "not JSON (Expecting ',' delimiter: line 1 column 14 (char 13))"),
        (b'{"layers": [1]} x', "not JSON (Extra data: line 1 column 17 (char 16))"),
        (b'{"layers": [1.5]}', "the field 'layers[0]': a whole number is needed, and there is a number with a decimal point"),
        (b'{"layers": [true]}', "the field 'layers[0]': a whole number is needed, and there is true or false"),
        (b'{"layers": {}}', "the field 'layers': a list is needed, and there is an object"),
        (b'{"layers": [], "name": 3}', "the field 'name': text or null is needed, and there is a whole number"),
        (b"{}", "the field 'layers' is missing"),
        (b"3", "an object is needed, and there is a whole number"),
        (DEEP, "an object is needed, and there is a list"),
        (b'{"layers": [], "other": ' + DEEP, "lists or objects are nested in it deeper than 64 levels"),
        (b'{"layers": [' + b"9" * 5000 + b"]}", "the field 'layers[...]': integer value out of range"),
        (b'{"layers": [NaN]}', "it has NaN, which is no number in JSON; write null, or leave the field out"),
        (b'{"layers": [Infinity]}', "it has Infinity, which is no number in JSON"),
        (b'{"layers": [], "name": "\xff"}', "byte 25 of it, 0xff, is not UTF-8"),
        (b'{"layers": [], "name": "\\ud800"}', "it has \\ud800, half of a pair of surrogates, which is no character"),
        (b'{"layers": [], "name": "\0"}', "it is not UTF-8 (it has bytes of UTF-16, or of no text at all); save it as UTF-8"),
        ('{"layers": []}'.encode("utf-16"), "it is not UTF-8 (it has bytes of UTF-16"),
    ],
)
def test_what_is_no_json_of_its_type_is_said_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "thing.json"
    path.write_bytes(content)
    with pytest.raises(gs.GatescopeError) as error:
        foreign.read_json(path, Thing, advice="Restore it.")
    said = (
        str(error.value)
        .replace("layers[0]': integer", "layers[...]': integer")
        .replace("layers': integer", "layers[...]': integer")
    )
    assert said.startswith(f"{path} cannot be read: {message}"), said
    assert said.endswith(". Restore it.") and "\n" not in said


def test_a_mark_at_the_beginning_and_separators_in_a_text_are_no_matter(tmp_path):
    path = tmp_path / "lines.jsonl"
    names = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0b\x0cb\x1eb"]
    path.write_bytes(
        foreign.UTF8_MARK + b"\r\n".join(json.dumps({"name": n, "layers": []}, ensure_ascii=False).encode() for n in names)
    )
    assert [thing.name for thing in foreign.read_lines(path, Thing)] == names
    path.write_bytes(b'{"layers": []}\n\n{"layers": 3}\n')
    with pytest.raises(gs.GatescopeError, match=r"lines\.jsonl cannot be read: line 3: the field 'layers': a list is needed"):
        foreign.read_lines(path, Thing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "it is a directory, not a file"),
        (os.mkfifo, r"it is a pipe \(FIFO\), not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_a_pipe_a_device_or_a_directory_is_not_opened(tmp_path, make, message):
    """Opening a pipe waits for its writer for ever."""
    path = tmp_path / "x.jsonl"
    make(path)
    with pytest.raises(gs.GatescopeError, match=rf"x\.jsonl cannot be read: {message}"):
        foreign.read_json(path, dict)
    with pytest.raises(gs.GatescopeError, match=rf"x\.jsonl cannot be read as a JSONL file: {message}"):
        gs.data.jsonl(path)
    example = Example("1", "g", "q", ("a", "b"), "a", path)
    for use in (example.picture, lambda: gs.data.fingerprint([example])):
        with pytest.raises(gs.GatescopeError, match=rf"Example '1': the image .*x\.jsonl cannot be opened: .*{message}"):
            use()


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "a\0b.jsonl", "\ud800.jsonl"])
def test_a_name_that_no_file_can_have_is_said(name):
    with pytest.raises(gs.GatescopeError, match="cannot be read as a JSONL file"):
        gs.data.jsonl(name)
    with pytest.raises(gs.GatescopeError, match="No run at"):
        Run.open(name)
    with pytest.raises(gs.GatescopeError, match="There is no file"):
        NeuronSet.load(name)
    with pytest.raises(gs.GatescopeError, match=r"There is no dataset|No model"):
        gs.data.registry.load(name.removesuffix(".jsonl"))


def test_a_text_that_utf8_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(
        gs.GatescopeError, match=r"manifest\.json: '/x\\udcff' has half of a pair of surrogates in it, which UTF-8"
    ):
        Run.at(tmp_path / "run", {"id": "m"}).note({"study": {"data": "/x\udcff"}})
    with pytest.raises(gs.GatescopeError, match=r"Example '1': .*half of a pair of surrogates"):
        gs.data.fingerprint([Example("1", "g", "\ud800", ("a", "b"), "a")])


# What files of ours say of themselves.

GATE = Layout.single("gate", 2, 4)
ABOUT = {"layout": GATE.plain(), "model": {"id": "m"}, "origin": {}}
COUNTERS = {name: torch.zeros(1, 2, 4, dtype=kind) for name, kind in (("K", torch.int64), ("S", torch.float64))}
COUNTERS |= {name: torch.zeros(1, dtype=torch.int64) for name in ("T", "seen", "counted")}
SCORES = {name: torch.zeros(1, 8, dtype=torch.float64) for name in ("sums", "clamped")} | {
    "seen": torch.zeros(1, dtype=torch.int64)
}
FILES = {
    NeuronSet: ("gatescope.neurons/1", {"flat": torch.arange(3)}, ABOUT),
    Counters: ("gatescope.counters/1", COUNTERS, ABOUT | {"groups": ["a"]}),
    Attributions: ("gatescope.attributions/1", SCORES, ABOUT | {"groups": ["a"], "items": 3}),
    Selection: (
        "gatescope.selection/1",
        {"set.0": torch.arange(3), "scores": torch.zeros(1, 2, 4, dtype=torch.float64)},
        {k: v for k, v in ABOUT.items() if k != "origin"}
        | {"groups": ["a"], "origins": [{}], "method": "CAS", "wanted": 3, "why_fewer": ""},
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_field_of_another_type_and_every_tensor_of_another_kind_is_named(tmp_path, kind):
    format, tensors, about = FILES[kind]
    path = tmp_path / "x.safetensors"
    artefacts.write(path, format, tensors, about)
    kind.load(path)
    for name in about:
        for other in (3.5, [3], {"a": 3}, [[]], "x" if name not in ("method", "why_fewer") else True):
            artefacts.write(path, format, tensors, about | {name: other})
            with pytest.raises(gs.GatescopeError, match=r"x\.safetensors") as error:
                kind.load(path)
            assert "\n" not in str(error.value)
        artefacts.write(path, format, tensors, {key: value for key, value in about.items() if key != name})
        with pytest.raises(
            gs.GatescopeError, match=rf"What .*x\.safetensors says of itself is .*: the field '{name}' is missing"
        ):
            kind.load(path)
    for name, tensor in tensors.items():
        if name != "scores":
            artefacts.write(
                path, format, {key: value for key, value in tensors.items() if key != name} | {"other": tensor}, about
            )
            with pytest.raises(gs.GatescopeError, match=rf"x\.safetensors holds no '{name}'"):
                kind.load(path)
        for other in (tensor.bool(), tensor.float(), tensor[None]):
            artefacts.write(path, format, tensors | {name: other}, about)
            with pytest.raises(
                gs.GatescopeError, match=rf"x\.safetensors: '{name}' is (bool|float32|\w+ \[1, .*\]).* is needed"
            ):
                kind.load(path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([["gate", 1, 2]], r"x\.safetensors: Neuron numbers must lie in 0 \.\. 1"),
        ([["gate", 2, 4.0]], r"A layout is .*: the field '\[0\]\[2\]': a whole number or a list is needed"),
        ([["gate", 2, 4], ["gate", 2, 4]], "A layout has each site once, and at least one"),
        ([], "A layout has each site once, and at least one"),
        ([["gate", 0, 4]], "A site has 1 layer and 1 neuron at least"),
        ([["gate", -2, -4]], "A site has 1 layer and 1 neuron at least"),
        ([["gate", 10**9, 10**9]], "and a layout at most 4,294,967,296"),
    ],
)
def test_a_layout_that_lies_is_refused(tmp_path, layout, message):
    path = tmp_path / "x.safetensors"
    artefacts.write(path, "gatescope.neurons/1", {"flat": torch.arange(3)}, ABOUT | {"layout": layout})
    with pytest.raises(gs.GatescopeError, match=message):
        NeuronSet.load(path)


def test_metadata_nested_too_deep_or_no_object_are_said(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    for text, message in (
        ("[" * 100_000, "its metadata are no JSON"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", "its metadata are nested too deep"),
        ("[3]", "its metadata are no JSON object"),
        ('{"a": ' + "9" * 5000 + "}", "its metadata are no JSON"),
    ):
        save_file({"flat": torch.arange(3)}, path, {"about": text})
        with pytest.raises(gs.GatescopeError, match=rf"x\.safetensors cannot be read as gatescope\.neurons/1: {message}"):
            NeuronSet.load(path)


@pytest.mark.parametrize("number", [1.5, 1.0, True, "1", None, torch.tensor(1.5), torch.tensor(True)])
def test_an_index_that_is_no_whole_number_is_refused(number):
    assert len(NeuronSet.of(GATE, [("gate", 1, torch.tensor(3))])) == 1
    for neuron in (("gate", 1, number), ("gate", number, 1)):
        with pytest.raises(gs.GatescopeError, match="its layer and its index must be whole numbers"):
            NeuronSet.of(GATE, [neuron])


def test_one_set_for_two_groups_can_be_saved(tmp_path):
    one = NeuronSet.of(GATE, [("gate", 1, 3), ("gate", 0, 2)])
    Selection("RND", {"a": one, "b": one}, 2).save(tmp_path / "x.safetensors")
    again = Selection.load(tmp_path / "x.safetensors")
    assert [list(neurons) for neurons in again.values()] == [list(one)] * 2


# What is in a run.


@pytest.fixture(scope="module")
def unbound(studied):
    """A run as the first release wrote it, without digests: what is changed in its files is read."""
    run, _ = studied
    file = run / "manifest.json"
    manifest = {name: value for name, value in json.loads(file.read_bytes()).items() if name not in ("files", "checksum")}
    file.write_text(json.dumps(manifest, indent=1))
    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: b"\xff" + m, "byte 1 of it, 0xff, is not UTF-8"),
        (lambda m: m[: len(m) // 2], "not JSON"),
        (lambda m: DEEP, "cannot be read"),
        (lambda m: b"[]", "an object is needed, and there is a list"),
        (
            lambda m: m.replace(b'"shards": ', b'"shards": 3, "x": '),
            "'record': the field 'shards': a list is needed, and there is a wh",
        ),
        (lambda m: m.replace(b'"groups": ', b'"groups": "a", "x": '), "'record': the field 'groups': a list is needed"),
        (lambda m: m.replace(b'"fingerprint": ', b'"fingerprint": 3, "x": '), "the field 'fingerprint': text is needed"),
        (lambda m: m.replace(b'"model": ', b'"model": [], "x": '), "'model': an object is needed, and there is a list"),
        (lambda m: m.replace(b'"model": ', b'"x": '), "does not say which model the run is of"),
        (lambda m: m.replace(b'"masks": ', b'"masks": [], "x": '), "'sweep': the field 'masks': an object is needed"),
    ],
)
def test_a_manifest_that_is_damaged_says_where(unbound, change, message):
    file = unbound / "manifest.json"
    whole = file.read_bytes()
    try:
        file.write_bytes(change(whole))
        done = gatescope("runs", "show", unbound)
        assert done.returncode == 2 and message in done.stderr and "manifest.json" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff\n", "line 1: byte 1 of it, 0xff, is not UTF-8"),
        (b"{}\n", "line 1: the field 'id' is missing"),
        (b"\n[]\n", "line 2: an object is needed, and there is a list"),
        (b'{"id": 3}\n', "line 1: the field 'id': text is needed, and there is a whole number"),
    ],
)
def test_answers_and_questions_that_are_damaged_say_where(unbound, line, message):
    run = Run.open(unbound)
    questions = {file.stem: file for file in (run.path / "questions").glob("*.jsonl")}
    readers = {
        run.path / "answers.jsonl": lambda: run.table,
        run.path / "identification.jsonl": lambda: run.read_rows("identification.jsonl"),
        questions[run.manifest["sweep"]["fingerprint"][:16]]: run.questions,
    }
    for file, read in readers.items():
        whole = file.read_bytes()
        try:
            file.write_bytes(line + whole)
            with pytest.raises(gs.GatescopeError, match="cannot be read") as error:
                read()
            assert f"{file} cannot be read: {message}" in str(error.value)
        finally:
            file.write_bytes(whole)


def test_a_step_without_its_layout_is_named(unbound):
    run = Run.open(unbound)
    whole = (run.path / "manifest.json").read_bytes()
    try:
        (run.path / "manifest.json").write_bytes(whole.replace(b'"layout": ', b'"outlay": '))
        with pytest.raises(gs.GatescopeError, match=r"manifest\.json cannot be read: 'record': the field 'layout' is missing"):
            print(run.counters)
    finally:
        (run.path / "manifest.json").write_bytes(whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "the field 'format' is missing"),
        ('{"format": "gatescope.jobs/2", "run": "r", "work": "w", "shards": {"x": {}}}', "whole number"),
        (
            '{"format": "gatescope.jobs/2", "run": "r", "work": "w", "shards": {"1": {"examples": "e", "pieces": [[0]]}}}',
            "an object is needed, and there is a list",
        ),
        (
            '{"format": "gatescope.jobs/2", "run": "r", "work": "w", "shards": []}',
            "the field 'shards': an object is needed, and there is a list",
        ),
        ('{"format": "gatescope.jobs/9", "work": "w", "shards": {}}', "is gatescope.jobs/9; this version reads"),
    ],
)
def test_a_ledger_that_is_damaged_is_refused(tmp_path, text, message):
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(gs.GatescopeError, match=r"jobs\.json") as error:
        Ledger.at(tmp_path / "jobs.json", "w", str)
    assert message in str(error.value), error.value


# What was typed.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "²"), "batch_size is '²'"),
        (("--batch-size", "1" * 5000), "batch_size is '111"),
        (("--batch-size", "0"), "batch_size is 0"),
        (("--part", "²/³"), "--part is '²/³'; it must be K/N with K from 0 to N - 1, such as 0/4"),
        (("--part", "1/1"), "--part is '1/1'"),
        (("--part", "1"), "--part is '1'"),
        (("--max-new-tokens", "0"), "max_new_tokens is 0; an answer needs at least one token"),
        (("--max-new-tokens", "-3"), "max_new_tokens is -3; an answer needs at least one token"),
    ],
)
def test_numbers_that_are_none_end_in_a_sentence(organism, tmp_path, arguments, message):
    data = organism.path / "study.jsonl"
    done = gatescope("record", "--model", organism.path, "--data", data, "--run", tmp_path / "run", *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "run" / "shards").exists()


def test_an_environment_that_holds_no_numbers_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(
        gs.GatescopeError, match=r"The environment variable RANK is 'x'; it must be a whole number, as accelerate"
    ):
        environment.number("RANK", 0)
    monkeypatch.setenv("RANK", "")
    assert environment.number("RANK", 7) == 7


# What is asked.


def test_a_text_that_holds_a_pictures_token_is_refused(llava):
    example = Example("1", "g", "What is <image>?", ("a", "b"), "a")
    with pytest.raises(
        gs.GatescopeError, match=r"Example '1' has '<image>' in its text, which stands for a picture to LlavaNext"
    ):
        gs.record(llava, [example], progress=False)


def test_a_passage_without_tokens_is_refused(llama, monkeypatch):
    from gatescope.traces import encoding

    passages = [Example.passage("1", "g", "Drums."), Example.passage("2", "g", " ")]
    # A tokenizer without a BOS that makes nothing of white space, as those that normalise.
    bare = type(llama.tokenizer).__call__
    monkeypatch.setattr(
        type(llama.tokenizer),
        "__call__",
        lambda self, texts, **o: bare(self, [t.strip() for t in texts], **o | {"add_special_tokens": False}),
    )
    with pytest.raises(
        gs.GatescopeError, match=r"Example '2' has no tokens for this tokenizer: its text is ' '\. Leave it out"
    ):
        encoding.collate(llama, passages)


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ 1 / 0 }}", "{{ messages.nothing.at.all }}", "{{ raise_exception('no') }}"]
)
def test_a_broken_chat_template_names_the_example(llama, monkeypatch, template):
    from gatescope.traces import encoding

    monkeypatch.setattr(llama.tokenizer, "chat_template", template)
    with pytest.raises(gs.GatescopeError, match=r"The chat template of LlamaForCausalLM refuses example '1': "):
        encoding.prompt(llama, Example("1", "g", "q", ("a", "b"), "a"))


# What is baked.


def test_what_cannot_be_baked_to_a_place_is_said(llama, tmp_path):
    mask = gs.ablate(NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)]))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "pipe").mkdir()
    for place, message in (
        ("file", "already exists and is a file; a baked model is written to a new directory"),
        ("file/below", r"The baked model cannot be written to .*below: (Not a directory|File exists)\. Nothing is left of it"),
        ("x" * 300, "cannot be written to .*: File name too long"),
        ("a\0b", "cannot be written to"),
    ):
        with pytest.raises(gs.GatescopeError, match=message):
            gs.save_baked(mask, llama, tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["file", "pipe"]


def test_a_full_disk_leaves_nothing_of_a_baked_model(llama, tmp_path):
    mask = gs.ablate(NeuronSet.of(gs.sites_of(llama)["gate"].layout, [("gate", 0, 1)]))
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(
            gs.GatescopeError, match=r"The baked model cannot be written to .*baked: .*Nothing is left of it; make room"
        ):
            gs.save_baked(mask, llama, tmp_path / "baked")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", ["nan", "inf", "-inf"])
def test_a_factor_that_is_no_number_is_refused(organism, factor):
    done = gatescope("bake", "--model", organism.path, "--mask", "none", "--out", "none", "--factor", factor)
    assert done.returncode == 2 and f"--factor is {factor}; it must be a finite number" in done.stderr
    with pytest.raises(gs.GatescopeError, match=r"An activation cannot be changed by .* \(scale\): it must be a finite number"):
        gs.scale(NeuronSet.of(GATE, [("gate", 0, 1)]), float(factor))


def test_a_note_of_what_was_baked_that_is_damaged_is_named(llama, tmp_path):
    from gatescope.interventions.checkpoint import baked_from

    note = {
        "format": "gatescope.baked/1",
        "kind": "zero",
        "values": [],
        "layout": GATE.plain(),
        "neurons": [3],
        "model": {},
        "origin": {},
    }
    for change, message in (
        ({"neurons": [1.5]}, r"the field 'neurons\[0\]': a whole number is needed"),
        ({"neurons": [-1]}, r"gatescope\.json: the field 'neurons\[0\]'|has no readable gatescope\.json"),
        ({"neurons": [8]}, r"gatescope\.json: Neuron numbers must lie in 0 \.\. 7"),
        ({"kind": "none"}, "the field 'kind': "),
        ({"kind": "scale"}, r"gatescope\.json has 0 values for 1 neurons \(scale\)"),
        ({"layout": 3}, "the field 'layout': a list is needed"),
        ({"format": "x"}, "is not a note of format"),
    ):
        (tmp_path / "gatescope.json").write_text(json.dumps(note | change))
        with pytest.raises(gs.GatescopeError, match=message):
            baked_from(tmp_path)


# What a model's directory holds.


def test_weights_that_are_damaged_or_of_another_shape_or_not_there_are_named(llama_path, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(llama_path, tmp_path / "model")
    file, config = folder / "model.safetensors", folder / "config.json"
    whole, facts = file.read_bytes(), json.loads(config.read_text())
    weights = load_file(file)
    down = "model.layers.1.mlp.down_proj.weight"

    def loads(message):
        with pytest.raises(gs.GatescopeError, match=message) as error:
            gs.load_model(folder)
        assert "\n" not in str(error.value)

    file.write_bytes(whole[:-50])
    loads("The weights of .*model cannot be loaded: SafetensorError: Error while deserializing header: incomplete metadata")
    save_file({name: weight for name, weight in weights.items() if name != down}, file, {"format": "pt"})
    loads(rf"The weights of .*model are incomplete: the checkpoint has no {down}, and random numbers would stand there")
    save_file(weights | {down: weights[down][:, :10].clone()}, file, {"format": "pt"})
    loads(rf"The weights of .*model cannot be loaded: {down} is \[32, 10\] there and \[32, 48\] by the config")
    file.write_bytes(whole)
    for change, message in (
        (
            {"dtype": "float99"},
            "The config.json of .*model cannot be read: AttributeError: module 'torch' has no attribute 'float99'",
        ),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"num_attention_heads": 5}, r"The hidden size \(32\) is not a multiple of the number of attention heads \(5\)"),
        ({"hidden_act": "nope"}, "The weights of .*model cannot be loaded: KeyError: 'nope'"),
        ({"pad_token_id": 99999}, "The weights of .*model cannot be loaded: AssertionError: Padding_idx"),
    ):
        config.write_text(json.dumps(facts | change))
        loads(message)
    config.write_bytes(DEEP)
    loads(r"The config.json of .*model cannot be read: maximum recursion depth exceeded")
    config.write_text(json.dumps(facts))
    (folder / "tokenizer_config.json").write_text("[]")
    loads("The tokenizer of .*model cannot be loaded: AttributeError")


@pytest.mark.parametrize("path", ["x" * 300, "/" + "x" * 300, "a\0b", "./a\0b"])
def test_a_model_of_a_name_that_cannot_be_is_said(path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(gs.GatescopeError, match="No model"):
        gs.load_model(path)


def test_a_device_map_that_is_none_is_said(llama_path):
    for device_map in ("nope", {"": "nope"}, "meta"):
        with pytest.raises(gs.GatescopeError, match=r"The weights of .* cannot be loaded: "):
            gs.load_model(llama_path, device_map=device_map)


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path):
    from gatescope.organism.cache import cached

    (tmp_path / "file").write_text("")
    with pytest.raises(gs.GatescopeError, match=r"The cache .* cannot be written to: Not a directory\. Set GATESCOPE_CACHE"):
        cached("", [], lambda path: None, tmp_path / "file")


def test_a_picture_of_a_decoder_that_fails_in_its_own_way_is_said(tmp_path):
    for name, content in (
        ("x.gif", b"GIF89a\1\0\1\0\x80\0\0"),
        ("x.tif", b"II*\0\x08\0\0\0\xff\xff"),
        ("x.png", b"\x89PNG\r\n\x1a\n"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(gs.GatescopeError, match=rf"Example '1': the image .*{name} cannot be opened"):
            Example("1", "g", "q", ("a", "b"), "a", tmp_path / name).picture()
    assert shown.content(tmp_path / "x.gif") == b"GIF89a\1\0\1\0\x80\0\0"


@pytest.mark.parametrize("model", ["nobody/nothing", "model"])
def test_a_cache_that_cannot_be_written_to_is_not_taken_for_the_model(tmp_path, monkeypatch, model):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def failing(*_, **__):
        raise PermissionError(13, "Permission denied", "/caches/x")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", failing)
    with pytest.raises(gs.GatescopeError, match=r"^/caches/x cannot be used: Permission denied\. It is a cache of torch"):
        gs.load_model(model)


@pytest.mark.parametrize("content", [b'{"a": 1}{"a": 2}\n{"a":\n3}\n', b'{"a": 1} {"a": 2}\n', b'{"a": 1}\n{"a":\n2}\n'])
def test_each_line_is_one_object(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(gs.GatescopeError, match=r"rows\.jsonl cannot be read: line [12]: not JSON"):
        foreign.read_lines(path, dict[str, int])


def test_lines_are_read_as_they_stand_wherever_they_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "_AT_ONCE", 20)
    path = tmp_path / "rows.jsonl"
    rows = [{"a": "}{"}, {"a": "\u2028"}, {"a": "x"}, {"a": "y" * 30}, {"a": "z"}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(foreign.UTF8_MARK + text.encode() + b"\r\n  \n")
    assert foreign.read_lines(path, dict[str, str]) == rows
    path.write_text(text + '\n{"a": 1}')
    with pytest.raises(gs.GatescopeError, match="line 10: text is needed"):
        foreign.read_lines(path, dict[str, str])
