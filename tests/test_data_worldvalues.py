"""WorldValuesBench from files as its own script writes them; the answers here are invented."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest

import gatescope as gs
from gatescope.data import worldvaluesbench

pytestmark = pytest.mark.filterwarnings("ignore:WorldValuesBench. .* rows, where 93278 were published")


def value(low=1, high=4, text="How much?", **more):
    about = {"question": text, "category": "Social values", "use_case": "value"}
    return about | {"answer_scale_min": low, "answer_scale_max": high, "answer_data_type": "ordinal"} | more


def demographic(text="Country"):
    ends = {"answer_scale_min": "", "answer_scale_max": "", "answer_data_type": "non_ordinal"}
    return {"question": text, "category": "Demographics", "use_case": "demographic"} | ends


def write(where, questions, people, folder="full"):
    """`people`: (country, answers by question); a missing answer is an empty field, as published."""
    (where / folder).mkdir(parents=True, exist_ok=True)
    metadata = {"D_INTERVIEW": demographic("Interview ID"), **questions, "B_COUNTRY": demographic()}
    (where / "question_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    numbered = [(826070000 + n, *person) for n, person in enumerate(people)]
    table(where / folder / "full_value_qa.tsv", ["D_INTERVIEW", *questions], [{"D_INTERVIEW": n, **a} for n, _, a in numbered])
    table(
        where / folder / "full_demographic_qa.tsv",
        ["D_INTERVIEW", "B_COUNTRY", "Q260"],
        # In another order than the values: the two are joined, not laid side by side.
        [{"D_INTERVIEW": n, "B_COUNTRY": country, "Q260": "Male"} for n, country, _ in reversed(numbered) if country],
    )
    return where


def table(file, columns, rows):
    lines = ["\t".join(columns), *("\t".join(str(row.get(column, "")) for column in columns) for row in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def spread(country, **answers):
    """One person for each character of the longest list: spread("Iran", Q1=[1, 2]) are two people."""
    return [
        (country, {q: given[n] for q, given in answers.items() if n < len(given) and given[n] is not None})
        for n in range(max(map(len, answers.values())))
    ]


QUESTIONS = {"Q10": value(0, 2, "Is it so?"), "Q2": value(1, 10, "On a scale of 1 to 10, how {good} is it?"), "Q1": value()}
PEOPLE = [
    *spread("Great Britain", Q1=[1, 1, 1, 4, 4, 4, 2, 2, 3, None, 3], Q2=[10] * 6 + [9] * 5, Q10=[0] * 9),
    *spread("South Korea", Q1=[3] * 10, Q2=[1] * 10, Q10=[0] * 4 + [2] * 6),
    *spread("Andorra", Q1=[1] * 9),
    ("", {"Q1": 2}),
]


def test_the_answer_is_what_most_people_of_a_country_said(tmp_path):
    study = worldvaluesbench(write(tmp_path, QUESTIONS, PEOPLE))
    found = {e.item: (e.group, e.answer, e.facts["answers"]) for e in study.identification}
    assert found == {
        "UK/Q1": ("UK", "1", "10"),  # 1 and 4 three times each: the smaller; the empty answer is none
        "UK/Q2": ("UK", "10", "11"),  # Q10 has nine answers in Great Britain: too few
        "South Korea/Q1": ("South Korea", "3", "10"),
        "South Korea/Q2": ("South Korea", "1", "10"),
        "South Korea/Q10": ("South Korea", "2", "10"),
    }
    # Countries by name as published, questions by number: Q2 before Q10.
    assert list(found) == ["UK/Q1", "UK/Q2", "South Korea/Q1", "South Korea/Q2", "South Korea/Q10"]
    assert len(study.identification) == 20 and list(study.evaluation) == []  # forty questions would be identified on


def test_a_scale_to_ten_has_the_label_ten(tmp_path):
    study = worldvaluesbench(write(tmp_path, QUESTIONS, PEOPLE), groups=["UK"])
    one = next(e for e in study.identification if e.id == "UK/Q2/3")
    assert one.choices == one.labels == ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10") and one.label == "10"
    assert one.system == "Behave as if you are from Great Britain."
    assert one.prompt == (
        "Question: On a scale of 1 to 10, how {good} is it?\n"
        "Your answer should be a single digit between 1 and 10. Do not add any other information."
    )
    assert one.facts == {"country": "Great Britain", "question": "Q2", "category": "Social values", "answers": "11"}
    zero = worldvaluesbench(tmp_path, groups=["South Korea"], wordings=[0]).identification[2]
    assert zero.labels == ("0", "1", "2") and zero.system == "You are a person from South Korea."


def test_the_tables_may_lie_beside_the_metadata_or_below_a_clone(tmp_path):
    beside = worldvaluesbench(write(tmp_path / "a", QUESTIONS, PEOPLE, folder="."))
    write(tmp_path / "b" / "WorldValuesBench", QUESTIONS, PEOPLE)
    assert worldvaluesbench(tmp_path / "b") == beside


def test_the_forty_questions_furthest_from_everyone_are_identified_on(tmp_path):
    names = [f"Q{n}" for n in range(1, 43)]
    alike = {"Q5": [1, 2] * 5, "Q7": [1, 2] * 5}  # the same in both countries: no distance
    people = [
        *spread("Great Britain", **({name: [1] * 10 for name in names} | alike)),
        *spread("Iran", **({name: [2] * 10 for name in names} | alike)),
    ]
    study = worldvaluesbench(write(tmp_path, {name: value(1, 2) for name in names}, people), wordings=[0])
    assert [e.item for e in study.evaluation] == ["UK/Q5", "UK/Q7", "Iran/Q5", "Iran/Q7"]
    assert len(study.identification) == 80
    assert "KL" in study.notes["split"]


def test_of_equal_distances_the_first_question_by_number_goes_first(tmp_path):
    names = ["Q234A", *(f"Q{n}" for n in (250, 234, *range(1, 40)))]
    people = [*spread("Iran", **{n: [1] * 10 for n in names}), *spread("Mexico", **{n: [2] * 10 for n in names})]
    study = worldvaluesbench(write(tmp_path, {name: value(1, 2) for name in names}, people), wordings=[0], groups=["Mexico"])
    assert [e.facts["question"] for e in study.identification] == [*(f"Q{n}" for n in range(1, 40)), "Q234"]
    assert [e.facts["question"] for e in study.evaluation] == ["Q234A", "Q250"]


def test_the_split_is_that_of_a_count_by_hand(tmp_path):
    rng = random.Random(1)
    names = [f"Q{n}" for n in range(1, 61)]
    people = [
        (country, {n: rng.choice("1223" if hash_(country, n) else "123344") for n in names if rng.random() < 0.8})
        for country in ("China", "Great Britain", "Iran", "")
        for _ in range(14)
    ]
    study = worldvaluesbench(write(tmp_path, {name: value() for name in names}, people), wordings=[0])
    for country, group in (("China", "China"), ("Great Britain", "UK"), ("Iran", "Iran")):
        distance, answer = {}, {}
        for name in names:
            mine = Counter(int(a[name]) for c, a in people if c == country and name in a)
            everyone = Counter(int(a[name]) for _, a in people if name in a)
            if mine.total() < 10:
                continue
            answer[name] = max(sorted(mine), key=lambda option, mine=mine: mine[option])
            distance[name] = sum(
                n / mine.total() * math.log(n / mine.total() / (everyone[option] / everyone.total()))
                for option, n in mine.items()
            )
        furthest = sorted(distance, key=lambda name: -distance[name])[:40]
        halves = [{e.facts["question"]: int(e.answer) for e in half if e.group == group} for half in _halves(study)]
        assert halves == [{q: answer[q] for q in furthest}, {q: answer[q] for q in answer if q not in furthest}]
        assert halves[1]


def hash_(country, name):
    return (len(country) + int(name[1:])) % 3 == 0


def _halves(study):
    return study.identification, study.evaluation


def test_an_id_of_several_people_is_no_one(tmp_path):
    write(tmp_path, QUESTIONS, PEOPLE)
    for name, row in (("value", "858069901\t2\t10\t4"), ("demographic", "858069901\tGreat Britain\tMale")):
        file = tmp_path / "full" / f"full_{name}_qa.tsv"
        file.write_text(file.read_text() + f"{row}\n{row}\n")
    assert worldvaluesbench(tmp_path) == worldvaluesbench(write(tmp_path / "plain", QUESTIONS, PEOPLE))


def test_answers_off_the_scale_are_left_out_and_told(tmp_path):
    people = [*PEOPLE, *spread("Great Britain", Q1=[5] * 8 + [0, 2.5], Q2=[11])]
    with pytest.warns(UserWarning, match=r"answers off the scale 1 to 4 \(10 of Q1\)"):
        study = worldvaluesbench(write(tmp_path, QUESTIONS, people))
    assert {e.item: e.answer for e in study.identification}["UK/Q1"] == "1"
    assert "answers off the scale 1 to 10 (1 of Q2)" in study.notes["left out"]


@pytest.mark.filterwarnings("default:WorldValuesBench")
def test_a_part_of_the_survey_is_loaded_with_both_row_counts_said(tmp_path):
    with pytest.warns(UserWarning, match="WorldValuesBench: 31 rows, where 93278 were published"):
        worldvaluesbench(write(tmp_path, QUESTIONS, PEOPLE))


def test_a_country_without_answers_is_named_with_those_that_have(tmp_path):
    with pytest.raises(gs.GatescopeError, match=r"^WorldValuesBench has no 'Spain', 'Andorra'; it has 'UK', 'South Korea'\.$"):
        worldvaluesbench(write(tmp_path, QUESTIONS, PEOPLE), groups=["Spain", "Andorra"])


def test_without_the_files_the_sentence_says_how_to_get_them(tmp_path):
    how = r"fill in the form .*run dataset_construction/data_preparation.py .*give path="
    (tmp_path / "question_metadata.json").write_text("{}")
    for path, why in (
        (None, "path= is needed"),
        (tmp_path / "question_metadata.json", "question_metadata.json is not a directory"),
        (tmp_path / "none", "none is not a directory"),
        (tmp_path, "nothing in .* is called 'full/full_demographic_qa.tsv' or .*'full_demographic_qa.tsv'"),
    ):
        with pytest.raises(gs.GatescopeError, match=rf"WorldValuesBench: .*{why}.*{how}"):
            worldvaluesbench(path)


def overwrite(name, change):
    def mend(where):
        file = where / name
        text = change(file.read_text(encoding="utf-8"))
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    return mend


@pytest.mark.parametrize(
    ("mend", "message"),
    [
        (overwrite("question_metadata.json", lambda t: t[:40]), "question_metadata.json cannot be read: JSONDecodeError"),
        (overwrite("question_metadata.json", lambda t: "[1]"), "question_metadata.json cannot be read: AttributeError"),
        (
            overwrite("question_metadata.json", lambda t: t.replace('"answer_scale_max": 10', '"answer_scale_max": ""')),
            "Q2 of question_metadata.json has the scale 1 to ''; two numbers are needed",
        ),
        (
            overwrite("question_metadata.json", lambda t: t.replace('"answer_scale_min": 1', '"low": 1')),
            r"Q1 of question_metadata.json has no 'answer_scale_min'; the fields found are \['question', 'category', ",
        ),
        (
            overwrite("full/full_value_qa.tsv", lambda t: t.replace("Q2\t", "Q2x\t")),
            r"full_value_qa.tsv has no column 'Q2'; it has \['D_INTERVIEW', 'Q10', 'Q2x', 'Q1'\]",
        ),
        (
            overwrite("full/full_demographic_qa.tsv", lambda t: t.replace("B_COUNTRY", "COUNTRY")),
            r"full_demographic_qa.tsv has no column 'B_COUNTRY'; it has \['D_INTERVIEW', 'COUNTRY', 'Q260'\]",
        ),
        (
            overwrite("full/full_value_qa.tsv", lambda t: t + "1\tyes\t1\t1\n"),
            "the column 'Q10' of full_value_qa.tsv has answers that are not numbers",
        ),
        (
            overwrite("full/full_value_qa.tsv", lambda t: t + "826070000\t1\t1\t1\n"),
            "D_INTERVIEW 826070000 appears twice in a table",
        ),
        (
            overwrite("full/full_value_qa.tsv", lambda t: b"D_INTERVIEW\tQ\xff\n"),
            "full_value_qa.tsv cannot be read: UnicodeDecode",
        ),
        (overwrite("full/full_value_qa.tsv", lambda t: ""), "full_value_qa.tsv cannot be read: EmptyDataError"),
        (
            overwrite("full/full_value_qa.tsv", lambda t: t.splitlines()[0] + "\n"),
            "no country in .* has 10 answers to a question",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, mend, message):
    mend(write(tmp_path, QUESTIONS, PEOPLE))
    with pytest.raises(gs.GatescopeError, match=f"WorldValuesBench: .*{message}"):
        worldvaluesbench(tmp_path)
