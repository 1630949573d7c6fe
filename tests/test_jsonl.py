"""A user's file: what is right is read, what is wrong is named by file and line before anything is run."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from PIL import Image

import gatescope as gs
from gatescope.data import Example

NESTED: list = []
for _ in range(100):
    NESTED = [NESTED]
ROW = {"id": "1", "group": "north", "question": "What?", "choices": ["kite", "boat"], "answer": "kite"}


def write(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_rows_are_read_and_split_in_half_by_group_with_a_stated_seed(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "p.png")
    rows = [
        ROW | {"id": i, "group": g, "image": "p.png"} for g, n in (("north", 7), ("south", 4)) for i in range(n * 10, n * 11)
    ]
    study = gs.data.jsonl(write(tmp_path, *rows))
    counts = {
        g: tuple(sum(e.group == g for e in half) for half in (study.identification, study.evaluation))
        for g in ("north", "south")
    }
    assert counts == {"north": (3, 4), "south": (2, 2)}  # the odd one is evaluated
    assert study.notes == {"split": "half of each group at random, variants of one question together, seed 0"}
    assert study.identification[0].picture().size == (30, 20)
    other = gs.data.jsonl(write(tmp_path, *rows), seed=1)
    assert {e.id for e in study.identification} != {e.id for e in other.identification}
    again = gs.data.jsonl(write(tmp_path, *reversed(rows)))
    assert len(again.identification) == 5


@pytest.mark.parametrize("field", ["item", "question"])
def test_variants_of_one_question_stay_in_one_half(tmp_path, field):
    """By their item, or, without pictures, by the question itself."""
    rows = [
        ROW | {"id": f"{g}{i}{v}", "group": g, "question": f"What is {i}?" if field == "question" else f"What is {i}{v}?"}
        | ({"item": f"{g}{i}"} if field == "item" else {})
        for g in ("north", "south") for i in range(10) for v in "abc"
    ]  # fmt: skip
    study = gs.data.jsonl(write(tmp_path, *rows))
    for group in ("north", "south"):
        halves = [{e.id[:-1] for e in half if e.group == group} for half in (study.identification, study.evaluation)]
        assert len(halves[0] | halves[1]) == 10 and not halves[0] & halves[1] and min(map(len, halves)) >= 4
    assert "shared" not in study.notes


def test_a_group_with_one_question_only_is_cut_all_the_same(tmp_path):
    rows = [ROW | {"id": str(i), "prompt": f"What is {i}? kite or boat"} for i in range(8)]
    study = gs.data.jsonl(write(tmp_path, *rows))
    assert (len(study.identification), len(study.evaluation)) == (4, 4)


def test_a_given_split_that_asks_the_same_in_both_halves_is_told(tmp_path):
    rows = [ROW | {"id": f"{i}{s}", "question": f"What is {i}?", "split": s}
            for i in range(3) for s in ("identification", "evaluation")]  # fmt: skip
    rows.append(ROW | {"id": "own", "question": "What else?", "split": "evaluation"})
    notes = gs.data.jsonl(write(tmp_path, *rows)).notes
    assert notes["shared"] == "3 of 4 evaluation examples ask what an identification example asks"


def test_labels_without_a_prompt_are_shown_with_their_options(tmp_path):
    study = gs.data.jsonl(write(tmp_path, *(ROW | {"id": str(i), "labels": ["A", "B"]} for i in range(2))))
    assert study.readout == "label"
    asked = gs.data.prompts.asked(study.evaluation[0]).splitlines()
    assert asked[1:5] == ["Question: What?", "Options: ", "A. kite", "B. boat"] and "ONLY the label of the correct" in asked[-1]


def test_a_field_that_is_nearly_another_is_refused_and_a_strange_one_told(tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"line 2: there is no field 'promt'; 'prompt' may be meant"):
        gs.data.jsonl(write(tmp_path, ROW, ROW | {"id": "2", "promt": "?"}))
    with pytest.warns(UserWarning, match="'annotator', 'question_id' are not fields of an example and are ignored"):
        gs.data.jsonl(write(tmp_path, ROW | {"annotator": 3, "question_id": 4}, ROW | {"id": "2"}))


def test_labels_for_some_rows_only_are_refused(tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"line 2: no 'labels', though other rows have them"):
        gs.data.jsonl(write(tmp_path, ROW | {"labels": ["A", "B"]}, ROW | {"id": "2"}))


def test_a_json_array_is_told_what_is_needed(tmp_path):
    with pytest.raises(gs.GatescopeError, match="holds a JSON array; one JSON object a line is needed"):
        gs.data.jsonl(write(tmp_path, json.dumps([ROW], indent=1)))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_line_feed_only(tmp_path, mark):
    """The others are legal in a JSON string as they stand, and a file with CRLF is read as well."""
    lines = [json.dumps(ROW | {"id": str(i), "question": f"What{mark}now?"}, ensure_ascii=False) for i in range(2)]
    path = tmp_path / "questions.jsonl"
    path.write_bytes("\r\n".join(lines).encode())
    assert gs.data.jsonl(path).evaluation[0].question == f"What{mark}now?"


def test_a_file_in_another_encoding_says_which_byte_of_which_line(tmp_path):
    path, row = tmp_path / "questions.jsonl", json.dumps(ROW).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\n" + row.replace(b'"1"', b'"2"'))  # marked as UTF-8, as some editors do
    assert [example.id for example in gs.data.jsonl(path).evaluation + gs.data.jsonl(path).identification] in (
        ["1", "2"],
        ["2", "1"],
    )
    path.write_bytes(row + b"\n" + row.replace(b"What", b"Caf\xe9"))
    with pytest.raises(
        gs.GatescopeError, match=r"questions\.jsonl, line 2: the field 'question': byte 47 of it, 0xe9, is not UTF-8"
    ):
        gs.data.jsonl(path)
    path.write_bytes(json.dumps(ROW).encode("utf-16"))
    with pytest.raises(gs.GatescopeError, match=r"questions\.jsonl, line 1: it is not UTF-8 \(it has bytes of UTF-16"):
        gs.data.jsonl(path)


def test_texts_that_look_like_fields_are_texts(tmp_path):
    """Only a field that is there twice is refused: not one that a text or a fact is like."""
    rows = [
        ROW | {"id": str(i), "question": 'Is "answer": "x" or "answer": "y" right?', "facts": {"answer": "z"}} for i in range(2)
    ]
    assert len(gs.data.jsonl(write(tmp_path, *rows)).evaluation) == 1


def test_reading_leaves_the_search_for_garbage_as_it_was(tmp_path):
    import gc

    gs.data.jsonl(write(tmp_path, ROW))
    assert gc.isenabled()
    with pytest.raises(gs.GatescopeError):
        gs.data.jsonl(write(tmp_path, "{"))
    assert gc.isenabled()


def test_a_split_column_is_followed(tmp_path):
    path = write(tmp_path, ROW | {"split": "evaluation"}, "", ROW | {"id": "2", "split": "identification"})
    study = gs.data.jsonl(path)
    assert [e.id for e in study.identification] == ["2"] and [e.id for e in study.evaluation] == ["1"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({k: v for k, v in ROW.items() if k != "answer"}, r"line 2: the field 'answer' is missing \(found \['choices', "),
        (
            ROW | {"id": "2", "answer": "drum"},
            r"line 2: Example '2': the answer 'drum' is not among its choices \['kite', 'boat'\]",
        ),
        (ROW | {"id": "2", "image": "none.png"}, r"line 2: Example '2': the image .*none.png cannot be opened"),
        (ROW | {"id": "2", "image": "text.png"}, r"line 2: Example '2': the image .*text.png cannot be opened"),
        (ROW | {"id": "2", "image": "cut.png"}, r"line 2: Example '2': the image .*cut.png cannot be opened"),
        (ROW, r"line 2: id '1' was used before, on line 1"),
        (ROW | {"id": "2", "choices": "kite"}, r"line 2: the field 'choices' is 'kite'"),
        (ROW | {"id": "2", "choices": ["kite", 3]}, r"line 2: every choice must be text"),
        (ROW | {"id": "2", "choices": ["kite"]}, r"line 2: Example '2' has 1 choices; at least two"),
        (ROW | {"id": "2", "image": 3}, r"line 2: the field 'image' is 3"),
        (ROW | {"id": "2", "split": "test"}, r"line 2: split is 'test'; it must be one of 'identification', 'evaluation'"),
        (ROW | {"id": "2", "split": "evaluation"}, r"line 1: no 'split', though other rows have one"),
        ("{not json", r"line 2: not JSON"),
        ("[1]", r"line 2: a JSON object is needed, this is a list"),
        (ROW | {"id": "2", "labels": "AB"}, r"line 2: the field 'labels': a list or null is needed, and there is text"),
        (ROW | {"id": "2", "labels": [1, 2]}, r"line 2: the field 'labels\[0\]': text is needed, and there is a whole number"),
        (ROW | {"id": "2", "facts": ["x"]}, r"line 2: the field 'facts': an object or null is needed, and there is a list"),
        (ROW | {"id": "2", "facts": "x"}, r"line 2: the field 'facts': an object or null is needed, and there is text"),
        (
            ROW | {"id": "2", "facts": {"a": [[[]] * 2]} | {"b": NESTED}},
            r"line 2: the field 'facts' has lists or objects nested",
        ),
        (ROW | {"id": "2", "chat": "no"}, r"line 2: the field 'chat': true or false or null is needed, and there is text"),
        (ROW | {"id": "2", "accepted": [" "]}, r"line 2: the field 'accepted' is \[' '\]; it must be a list of answers, text"),
        (ROW | {"id": "2", "image": False}, r"line 2: the field 'image': text or null is needed, and there is true or false"),
        (ROW | {"id": True}, r"line 2: the field 'id' is True"),
        (json.dumps(ROW | {"id": "2"}).replace('"2"', "9" * 5000), r"line 2: the field 'id': integer value out of range"),
        (json.dumps(ROW | {"id": "2", "facts": 3}).replace("3}", "1e999}"), r"line 2: the field 'facts': number out of range"),
        (json.dumps(ROW | {"id": "2", "facts": 3}).replace("3}", "NaN}"), r"line 2: it has NaN, which is no number in JSON"),
        (json.dumps(ROW)[:-1] + ', "facts": ' + "[" * 100_000, r"line 2: lists or objects are nested in it deeper than 64"),
        (json.dumps(ROW | {"id": "\ud800"}), r"line 2: it has \\ud800, half of a pair of surrogates"),
        (
            json.dumps(ROW | {"id": "2"})[:-1] + ', "answer": "boat"}',
            r"line 2: the field 'answer' is there twice, and only one",
        ),
        (json.dumps(ROW | {"id": "2"})[:-1] + ', "answer" : "boat", "x": 1}', r"line 2: the field 'answer' is there twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path, second, message):
    (tmp_path / "text.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(gs.GatescopeError, match=rf"questions.jsonl, {message}"):
        gs.data.jsonl(write(tmp_path, ROW, second))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["kite", ""]}, r"one of its choices \['kite', ''\] is blank; give it a text, or leave it out"),
        ({"choices": ["kite", " \t\n"]}, r"one of its choices .* is blank"),
        (
            {"choices": ["kite", "boat", "kite"]},
            r"'kite' appears twice among its choices \['kite', 'boat', 'kite'\]; each must appear",
        ),
        ({"choices": ["kite", "Boat ", "boat"]}, r"two of its choices .* differ in case and white space alone, and an answer"),
        ({"labels": ["A", "B"], "choices": ["kite", "kite"]}, r"'kite' appears twice among its choices"),
        ({"labels": ["A", "A"]}, r"'A' appears twice among its labels \['A', 'A'\]"),
        ({"labels": ["A", " "]}, r"one of its labels \['A', ' '\] is blank"),
    ],
)
def test_choices_that_are_blank_or_cannot_be_told_apart_are_refused(tmp_path, change, message):
    with pytest.raises(gs.GatescopeError, match=rf"questions.jsonl, line 1: Example '1': {message}"):
        gs.data.jsonl(write(tmp_path, ROW | change))


def test_labels_tell_apart_what_differs_in_case_and_white_space_alone(tmp_path, llama):
    """5 mW and 5 MW, by letter; where the text itself is read, they are refused."""
    row = ROW | {"choices": ["5 mW", "5 MW"], "answer": "5 MW", "labels": ["A", "B"]}
    study = gs.data.jsonl(write(tmp_path, row, row | {"id": "2"}))
    assert study.evaluation[0].label == "B"
    assert gs.sweep(llama, study.evaluation, {}, readout="label", progress=False).rows[0].text in ("A", "B")
    with pytest.raises(
        gs.GatescopeError, match=r"no choices that differ in more than case and white space.*'label' can read it"
    ):
        gs.sweep(llama, study.evaluation, {}, readout="generate", progress=False)


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"none.jsonl cannot be read"):
        gs.data.jsonl(tmp_path / "none.jsonl")
    with pytest.raises(gs.GatescopeError, match="holds no examples"):
        gs.data.jsonl(write(tmp_path, ""))
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(gs.GatescopeError, match=r"latin.jsonl, line 1: it is not UTF-8 .*; save it as UTF-8"):
        gs.data.jsonl(tmp_path / "latin.jsonl")


def test_the_fingerprint_sees_every_field_and_the_picture(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "p.png")
    base = gs.data.Example("1", "g", "q", ("a", "b"), "a", tmp_path / "p.png")
    seen = {gs.data.fingerprint([base])}
    for change in ({"id": "2"}, {"group": "h"}, {"question": "r"}, {"choices": ("b", "a")}, {"answer": "b"}, {"image": None}):
        seen.add(gs.data.fingerprint([gs.data.Example(**{**base.__dict__, **change})]))
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "p.png")
    seen.add(gs.data.fingerprint([base]))
    assert len(seen) == 8


def test_pictures_with_one_question_are_different_questions(tmp_path):
    """Which is why they may lie in either half, and rows of one question without a picture may not."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "p.png")
    rows = [ROW | {"id": f"{i}", "question": f"What is {i % 2}?", "image": "p.png"} for i in range(16)]
    study = gs.data.jsonl(write(tmp_path, *rows))
    assert [len(half) for half in (study.identification, study.evaluation)] == [8, 8]
    for half in (study.identification, study.evaluation):
        assert {e.question for e in half} == {"What is 0?", "What is 1?"}


def test_every_field_of_a_row_is_in_its_example(tmp_path):
    more = {"labels": ["A", "B"], "prompt": "p?", "prefix": "It is", "item": "i", "system": "Be brief.", "facts": {"year": "3"}}
    rows = [ROW | more | {"id": str(i), "split": s} for i, s in enumerate(("identification", "evaluation"))]
    (found,) = gs.data.jsonl(write(tmp_path, *rows)).evaluation
    assert (found.labels, found.prompt, found.prefix, found.item, found.system) == (("A", "B"), "p?", "It is", "i", "Be brief.")
    assert dict(found.facts) == {"year": "3"} and found.chat
    text = ROW | {"prompt": "The drums.", "chat": False, "choices": [], "answer": ""}
    passages = [text | {"id": split, "split": split} for split in ("identification", "evaluation")]
    (passage,) = gs.data.jsonl(write(tmp_path, *passages)).evaluation
    assert not passage.chat


def test_halves_by_another_seed_are_other_halves_and_blocks_are_not_taken_beyond_the_half():
    from gatescope.data.split import halves

    items = [f"{group}{block}{i}" for group in "ab" for block in range(6) for i in range(2)]
    cuts = set()
    for seed in range(8):
        first, second = halves(items, lambda s: s[0], lambda s: s[:2], seed)
        assert len(first) == len(second) == 12 and sorted(first + second) == sorted(items)
        assert all(sum(s[0] == group for s in first) == 6 for group in "ab")
        cuts.add(tuple(first))
    assert len(cuts) == 8
    odd, even = halves("abcdefg", lambda s: "", lambda s: s, 0)
    assert (len(odd), len(even)) == (3, 4)


@pytest.mark.parametrize(
    "choices", [("a", "A"), ("a", " "), ("", "a"), ("a b", " a  B"), ("", "a \0 b"), ("a\0", "\0a"), ("x", "y\0"), ("ΟΣ", "ος")]
)
def test_a_plain_example_is_like_any_other(choices):
    def made(kind):
        try:
            return kind("1", "Arveni", "Which?", choices, choices[0])
        except gs.GatescopeError as error:
            return str(error)

    plain, usual = made(Example.plain), made(Example)
    assert plain == usual and repr(plain) == repr(usual)
    if isinstance(plain, Example):
        again = pickle.loads(pickle.dumps(plain))
        assert again == plain == dataclasses.replace(usual) and hash(again) == hash(usual)
