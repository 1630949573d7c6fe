"""What a run directory keeps and gives back, and who does which shard: without a model, from shards written by hand."""

from __future__ import annotations

import pytest
import torch
from filelock import FileLock
from PIL import Image

import gatescope as gs
from gatescope.core.answers import Reading
from gatescope.select.selection import Selection
from gatescope.statistics.table import Row, Table
from gatescope.steps import shards as module
from gatescope.steps.batches import Plan
from gatescope.steps.questions import keeping
from gatescope.steps.run import occupied
from gatescope.steps.shards import Shards

MODEL = {"id": "org/m", "digest": "d1", "dtype": "float32"}
LAYOUT = gs.Layout.single("gate", 2, 3)
IDS = ["p", "q", "r", "s"]
PLAN = Plan([[[0, 1]], [[2]], [[3]]])


@pytest.fixture
def run(tmp_path):
    return gs.Run.at(tmp_path / "run", MODEL)


def begun(run, step="record", plan=PLAN, **facts):
    return Shards.start(run, step, {"layout": LAYOUT.plain(), "groups": ["a", "b"]} | facts, IDS, lambda: plan)[0]


RECORD = {"tokens": ["text", "image"], "site": "gate", "token_rule": "all", "fingerprint": "f1", "only_correct": "True"}
RECORD |= {"readout": "generate", "versions": '{"torch": "2"}', "kernel": "eager", "max_new_tokens": 20}


def test_counters_are_the_sums_of_all_shards_and_say_where_they_came_from(run):
    shards = begun(run, **RECORD)
    sizes = {"K": (2, 2, 3), "S": (2, 2, 3), "T": (2,), "seen": (2,), "counted": (2,)}
    drawn = torch.Generator().manual_seed(0)
    kept = []
    for index in (2, 0, 1):  # whatever order they were done in
        parts = {f"{c}/{n}": torch.randint(0, 9, size, generator=drawn) for c in ("text", "image") for n, size in sizes.items()}
        parts |= {name: part.double() for name, part in parts.items() if name.endswith("/S")}
        shards.save(index, parts, {"model": {"dtype": "bfloat16"}})
        kept.append(parts)
    for tokens in ("text", "image"):
        found = run.counters_of(tokens)
        for name in sizes:
            assert torch.equal(getattr(found, name), sum(parts[f"{tokens}/{name}"] for parts in kept)), (tokens, name)
        assert found.groups == ("a", "b") and found.layout == LAYOUT
        assert found.model == MODEL | {"dtype": "bfloat16"}  # what the shards were computed in
        wanted = {k: v for k, v in RECORD.items() if k not in ("tokens", "max_new_tokens")} | {"tokens": tokens}
        assert found.provenance == wanted
    with pytest.raises(gs.GatescopeError, match=r"has counters of \['text', 'image'\]; ask for one: run.counters_of\('text'\)"):
        _ = run.counters


def test_attributions_are_the_sums_of_all_shards_and_say_where_they_came_from(run):
    told = {"sites": "gate", "reduce": "max", "pad_zero": "False", "fingerprint": "f1", "attention": "eager"}
    shards = begun(run, "attribute of culture", items=7, **told)
    kept = []
    for index in range(3):
        parts = {"sums": torch.full((2, 6), 2.0**index).double(), "clamped": torch.full((2, 6), index).double()}
        kept.append(parts | {"seen": torch.tensor([index, 1])})
        shards.save(index, kept[-1], {"model": {"dtype": "bfloat16"}})
    (name, found), *more = run.attributions.items()
    assert (name, more) == ("culture", [])
    assert all(torch.equal(getattr(found, part), sum(parts[part] for parts in kept)) for part in ("sums", "clamped", "seen"))
    assert (found.items, found.provenance, found.model["dtype"]) == (7, told, "bfloat16")


def chosen(name, *indices):
    return Selection(name, {"a": gs.NeuronSet.of(LAYOUT, [("gate", 0, i) for i in indices], MODEL)}, 2)


def test_neurons_that_were_swept_are_not_replaced_and_others_may_be(run):
    for selection in (chosen("CAS", 0), chosen("CAS", 1)):  # nothing was asked under these yet
        run.add_selection(selection)
    assert list(run.selections["CAS"]["a"]) == [("gate", 0, 1)]
    run.note({"sweep of qnli": {"masks": {"CAS, gated/a": "digest"}}, "study": {"name": "s"}})
    run.add_selection(chosen("CAS", 2))  # "CAS, gated" was swept, and is another's name
    run.add_selection(chosen("CAS, gated", 0))
    run.add_selection(chosen("CAS, gated", 0))
    with pytest.raises(gs.GatescopeError, match="holds answers under other CAS, gated neurons"):
        run.add_selections([chosen("MAD", 0), chosen("CAS, gated", 1)])
    assert "MAD" not in run.selections  # all or none
    with pytest.raises(gs.GatescopeError, match=r"holds answers under other CAS, gated neurons than these"):
        run.add_selection(chosen("CAS, gated", 1))
    assert {name: list(s["a"]) for name, s in run.selections.items()} == {
        "CAS": [("gate", 0, 2)], "CAS, gated": [("gate", 0, 0)]
    }  # fmt: skip


def test_a_later_note_replaces_an_earlier_one_and_leaves_the_rest(run):
    run.note({"study": {"rate": 0.01}, "warnings": ["one"]})
    run.note({"warnings": ["two"]})
    assert run.manifest["warnings"] == ["two"] and run.manifest["study"] == {"rate": 0.01} and run.manifest["model"] == MODEL


def test_each_sweep_has_its_answers_under_its_own_name(run):
    tables = {name: Table([Row("1", "a", "", "", name, Reading(name, True, False))]) for name in ("", "qnli", "xnli")}
    for name, table in tables.items():
        run.add_answers(table, name)
    for name, table in tables.items():
        assert run.table_of(name).rows == table.rows
    assert run.table.rows == tables[""].rows
    with pytest.raises(gs.GatescopeError, match="holds no sweep yet"):
        run.table_of("mnli")


def test_what_a_process_killed_at_its_very_beginning_leaves_is_no_obstacle(tmp_path):
    place = tmp_path / "new"
    place.mkdir()
    for name in ("manifest.lock", ".manifest.json.0f.partial"):
        (place / name).write_text("")
    assert not occupied(place) and gs.Run.at(place, MODEL).manifest["model"] == MODEL
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert occupied(other)


def test_everything_that_is_wrong_is_told_and_each_once(run, tmp_path):
    shards = begun(run)
    shards.save(0, {"x": torch.zeros(1)}, {})
    shards.file(0).write_bytes(shards.file(0).read_bytes()[:40])
    begun(run, "sweep")
    wrong = run.verify()
    assert len(wrong) == 3 and "00000.safetensors cannot be read" in wrong[0]
    assert wrong[1:] == ["record: 2 of 3 shards are not done: 1 to 2.", "sweep: 3 of 3 shards are not done: 0 to 2."]


def test_a_shard_belongs_to_one_plan_one_set_of_facts_and_one_place(tmp_path):
    """Of runs that differ in one thing, a shard of one is refused by the other."""
    kinds = {
        "first": {},
        "batches": {"plan": Plan([[[0], [1]], [[2]], [[3]]])},
        "data": {"fingerprint": "f2"},
        "site": {"site": "up"},
    }
    made = {name: begun(gs.Run.at(tmp_path / name, MODEL), **how) for name, how in kinds.items()}
    assert len({shards.key for shards in made.values()}) == len(kinds)
    made["first"].save(1, {"x": torch.zeros(1)}, {})
    for other in (made["batches"], made["data"], made["site"]):
        other.path.mkdir(exist_ok=True)
        other.file(1).write_bytes(made["first"].file(1).read_bytes())
        with pytest.raises(
            gs.GatescopeError, match=r"is shard 1 of \w+; shard 1 of \w+ belongs here\. It came from another run"
        ):
            other.load(1)
    made["first"].file(2).write_bytes(made["first"].file(1).read_bytes())
    with pytest.raises(gs.GatescopeError, match=r"is shard 1 of (\w+); shard 2 of \1 belongs here"):
        made["first"].load(2)
    again = begun(gs.Run.at(tmp_path / "versions", MODEL), versions="1", kernel="fused")
    assert again.key == made["first"].key  # which change no more than the last bit


def test_a_process_takes_its_own_shards_first_and_then_the_others(run, monkeypatch):
    shards = begun(run, plan=Plan([[[i % 4]] for i in range(7)]))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    order = []
    for index in shards.open():
        order.append(index)
        shards.save(index, {"x": torch.zeros(1)}, {})
    assert order == [1, 4, 0, 2, 3, 5, 6]
    shards.file(3).unlink()
    assert list(shards.open((1, 3))) == []  # a part is that and nothing else
    assert list(shards.open((0, 3))) == [3, 3]  # looked at once more at the end: it was not stored


def test_a_shard_another_process_has_is_left_and_done_in_the_end_if_that_one_dies(run):
    shards = begun(run)
    shards.path.mkdir(exist_ok=True)
    lock = FileLock(shards.path / "00000.lock")
    lock.acquire()
    order = []
    for index in shards.open():
        order.append(index)
        shards.save(index, {"x": torch.zeros(1)}, {})
        if index == 2:
            lock.release()  # it died, and left nothing
    assert order == [1, 2, 0]


def test_a_shard_stored_between_the_look_and_the_lock_is_not_done_twice(run, monkeypatch):
    shards = begun(run)

    class Late(FileLock):
        """Its turn comes just after another process has stored the shard."""

        def acquire(self, *given, **more):
            shards.save(int(self.lock_file[-10:-5]), {"x": torch.zeros(1)}, {})
            return super().acquire(*given, **more)

    monkeypatch.setattr(module, "FileLock", Late)
    assert list(shards.open()) == [] and shards.missing == []


def test_the_dtype_of_a_step_is_that_of_its_stored_shards(run):
    shards = begun(run)
    assert shards.dtype is None
    shards.save(1, {"x": torch.zeros(1)}, {"model": {"dtype": "bfloat16", "class": "Llama"}})
    assert shards.dtype == "bfloat16"


def example(id, question="What?", group="a", **more):
    return gs.data.Example(id, group, question, ("boat", "kite"), "boat", **more)


def asked(run, step, examples, **facts):
    """A step begun on examples, as the runner begins one."""
    digest = gs.data.fingerprint(examples)
    with keeping(run, step, digest, examples):
        Shards.start(run, step, facts | {"fingerprint": digest}, [e.id for e in examples], lambda: Plan([[[0]]]))


HARD = [
    example("1", "Qué\u2028es? \u0085 {{x}}", labels=("A", "B"), item="i", system="s", prefix="{", facts={"language": "es"}),
    gs.data.Example("2", "b", "Who?", (), "Ana", prompt="", references=("Ana", "Anna")),
    gs.data.Example.passage("3", "c", "The drums are heard at dusk."),
]


def test_a_run_holds_what_it_asked_once(run):
    asked(run, "record", HARD)
    asked(run, "attribute of culture", HARD)
    before = [(file.name, file.stat().st_mtime_ns) for file in (run.path / "questions").iterdir()]
    asked(run, "sweep", HARD)
    assert [(file.name, file.stat().st_mtime_ns) for file in (run.path / "questions").iterdir()] == before and len(before) == 1
    assert list(run.questions()) == HARD and gs.data.fingerprint(run.questions()) == gs.data.fingerprint(HARD)
    asked(run, "sweep of other", HARD[:1])
    assert list(run.questions("other")) == HARD[:1] and list(run.questions()) == HARD


def test_a_run_that_kept_no_questions_has_none_and_gets_them_when_it_is_continued(run):
    begun(run, "sweep", fingerprint=gs.data.fingerprint(HARD))
    assert run.questions() == ()
    with keeping(run, "sweep", gs.data.fingerprint(HARD), HARD):
        pass
    assert list(run.questions()) == HARD


OTHERS = {
    "text": (lambda e: [*e[:2], example("r", "Who?")], "'r': its question was 'What\\?', and is 'Who\\?'"),
    "group": (lambda e: [e[0], example("q", group="b"), e[2]], "'q': its group was 'a', and is 'b'"),
    "order": (lambda e: [e[1], e[0], e[2]], "number 1: it was example 'p', and is 'q'"),
    "fewer": (lambda e: e[:2], "started with 3 examples, and these are 2; as far as both go they are the same"),
    "picture": (
        lambda e: [e[0], example("q", image=Image.new("RGB", (2, 2))), e[2]], "'q': it has another picture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_a_refused_continuation_names_the_first_question_that_differs(run, what):
    first = [example(id) for id in "pqr"]
    asked(run, "sweep", first, readout="generate")
    change, message = OTHERS[what]
    files = sorted((run.path / "questions").iterdir())
    with pytest.raises(gs.GatescopeError, match=f"with other examples: their texts.*{message}"):
        asked(run, "sweep", change(first), readout="generate")
    with pytest.raises(gs.GatescopeError, match=r'with readout "generate", and this is readout "label".* directory\.$'):
        asked(run, "sweep", first, readout="label")
    assert sorted((run.path / "questions").iterdir()) == files  # nothing of what was refused is kept


def test_a_damaged_file_of_questions_is_named_with_what_to_do(run):
    asked(run, "sweep", HARD)
    (file,) = (run.path / "questions").iterdir()
    file.write_text(file.read_text()[:50])
    with pytest.raises(gs.GatescopeError, match=rf"{file.name} cannot be read: .* Delete it; the next command"):
        run.questions()


def test_answers_with_line_separators_in_them_are_read_back(run):
    table = Table([Row.full("1", "a", "so\u2028it\u0085goes\x1c", Reading("so", True, False))])
    run.add_answers(table)
    assert run.table.rows == table.rows
