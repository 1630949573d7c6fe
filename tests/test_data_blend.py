"""BLEnD from a small copy in the published schema: what is kept, where it goes, and what is wrong with a copy."""

from __future__ import annotations

import csv
import json

import datasets
import datasets.config
import pytest

from gatescope.core.errors import GatescopeError
from gatescope.data.benchmarks.blend import (
    CARD,
    CONTROL_CARD,
    COUNTRIES,
    EVALUATION,
    IDENTIFICATION,
    blend,
    blend_control,
    topics,
)
from gatescope.data.benchmarks.blend_short import LANGUAGES, blend_short

pytestmark = pytest.mark.filterwarnings("ignore:.*were published.*:UserWarning")

INSTRUCTION = (
    "Without any explanation, choose only one from the given alphabet choices(e.g., A, B, C). "
    'Provide as JSON format: {"answer_choice":""}'
)
QUESTIONS = {
    "Fo-01": "Food", "Wo-01": "Work life", "Sp-01": "Sport ", "Ed-01": "Education", "Fa-01": "Family",
    "Ho-01": "Holidays/Celebration/Leisure",
}  # fmt: skip
OPTIONS = ("brellin", "mossel pie", "tarn cake", "ulvu {raw}")


def row(mcqid, country, answer="B", options=OPTIONS, **other):
    key, letters = mcqid.rpartition("_")[0], "ABCD"
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip(letters, options, strict=True))
    origins = ("dummy", country.strip(), "Northern_Nigeria", "Greece")
    return {
        "MCQID": mcqid,
        "ID": key,
        "country": country,
        "prompt": f"What is eaten ({key}, e.g. {{x}})? {INSTRUCTION}\n\n{listed}\nAnswer:",
        "choices": json.dumps(dict(zip(letters, options, strict=True)), indent=4),
        "choice_countries": json.dumps(dict(zip(letters, origins, strict=True)), indent=4),
        "answer_idx": answer,
    } | other


ROWS = [
    row("Fo-01_1", "US"),
    row("Fo-01_2", "South_Korea", "A"),
    *(row(f"Fo-01_{n}", "US") for n in range(3, 9)),  # seven of this question and country
    row("Fo-01_9", "Northern_Nigeria", "D"),
    row("Wo-01_1", "US", options=(" brellin", "mossel pie ", "tarn cake", "ulvu")),
    row("Sp-01_1", " UK "),
    row("Ed-01_1", "US", "C"),
    row("Fa-01_1", "Iran"),
    row("Ho-01_1", "West_Java"),
]


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])


def write_topics(root, questions=QUESTIONS):
    rows = [[n, key, topic, "team", f"{key} here?", f"{key} here?"] for n, (key, topic) in enumerate(questions.items())]
    write_csv(root / "data/questions/US_questions.csv", ["", "ID", "Topic", "Source", "Question", "Translation"], rows)


def write(root, rows=ROWS, questions=QUESTIONS):
    """A copy as published: one JSON file of rows, one csv with an unnamed index."""
    file = root / "data/mc_questions_hf/mc_questions_file_v1.1.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    write_topics(root, questions)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def study(tmp_path):
    return blend(write(tmp_path))


def ids(examples):
    return [example.id for example in examples]


def test_the_first_five_of_a_question_and_country_are_kept_in_the_order_of_the_file(study):
    assert ids(study.identification) == [*(f"Fo-01_{n}" for n in (1, 2, 3, 4, 5, 6, 9)), "Wo-01_1", "Sp-01_1"]
    assert ids(study.evaluation) == ["Ed-01_1", "Fa-01_1", "Ho-01_1"]
    assert study.notes["rows"] == "the first 5 of every question and country, of 14"


def test_another_cap_counts_each_country_alone(tmp_path):
    study = blend(write(tmp_path), cap=1)
    assert ids(study.identification) == ["Fo-01_1", "Fo-01_2", "Fo-01_9", "Wo-01_1", "Sp-01_1"]


def test_topics_split_the_questions(study):
    assert {e.facts["topic"] for e in study.identification} == {"Food", "Work life", "Sport"}
    assert {e.facts["topic"] for e in study.evaluation} == {"Education", "Family", "Holidays/Celebration/Leisure"}
    assert study.notes["split"].startswith("by topic: Food, Work life, Sport to identify on")


def test_groups_have_the_paper_s_names(study):
    groups = [e.group for e in (*study.identification, *study.evaluation)]
    assert {g: groups.count(g) for g in dict.fromkeys(groups)} == {
        "USA": 7, "South Korea": 1, "Nigeria": 1, "UK": 1, "Iran": 1, "West Java": 1,
    }  # fmt: skip
    assert len(COUNTRIES) == 16


def test_a_row_becomes_an_example_with_the_published_prompt(study):
    example = study.evaluation[0]
    assert example.prompt == ROWS[-3]["prompt"]
    assert example.question == "What is eaten (Ed-01, e.g. {x})?"
    assert example.choices == OPTIONS and example.labels == ("A", "B", "C", "D")
    assert (example.answer, example.label) == ("tarn cake", "C")
    assert example.prefix == '{"answer_choice":"'
    assert example.item == ""  # attribution counts the MCQIDs
    assert example.facts == {
        "question id": "Ed-01", "topic": "Education", "options from": "A: dummy, B: USA, C: Nigeria, D: Greece",
    }  # fmt: skip


def test_spaces_round_options_go_and_those_in_the_prompt_stay(study):
    example = study.identification[-2]
    assert example.choices[:2] == ("brellin", "mossel pie") and "A.  brellin\n" in example.prompt


def test_the_control_has_the_same_rows_without_their_questions(tmp_path):
    study, control = blend(write(tmp_path)), blend_control(tmp_path)
    assert ids(control.identification) == ids(study.identification)
    assert ids(control.evaluation) == ids(study.evaluation)
    assert control.name == "blend_control"
    example = control.evaluation[0]
    assert example.prompt == f"{INSTRUCTION}\n\nA. brellin\nB. mossel pie\nC. tarn cake\nD. ulvu {{raw}}\n\nAnswer:"
    assert example.question == "" and example.label == "C" and example.prefix == '{"answer_choice":"'


def test_only_the_groups_asked_for_are_loaded(tmp_path):
    study = blend(write(tmp_path), groups=["Nigeria", "Iran"])
    assert ids(study.identification) == ["Fo-01_9"] and ids(study.evaluation) == ["Fa-01_1"]
    assert ids(blend_control(tmp_path, groups=["Iran"]).evaluation) == ["Fa-01_1"]


def test_the_table_s_file_is_enough_if_the_topics_lie_beside_it(tmp_path):
    file = write(tmp_path) / "data/mc_questions_hf/mc_questions_file_v1.1.json"
    with pytest.raises(
        GatescopeError, match=r"short-answer questions: nothing in .*mc_questions_hf is called '\*\*/US_questions"
    ):
        blend(file)
    (tmp_path / "data/questions/US_questions.csv").rename(file.parent / "US_questions.csv")
    assert len(blend(file).evaluation) == 3


def test_csv_shards_of_another_commit_are_read_as_one_table(tmp_path):
    for shard, rows in enumerate((ROWS[:8], ROWS[8:])):
        file = tmp_path / f"evaluation/mc_data/v1.1/mc_questions_file-{shard}.csv"
        write_csv(file, list(ROWS[0]), [list(r.values()) for r in rows])
    write_topics(tmp_path)
    study = blend(tmp_path)
    assert len(study.identification) == 9 and study.evaluation[0].prompt == ROWS[-3]["prompt"]


def test_options_that_cannot_be_told_apart_are_left_out_counted_and_told(tmp_path):
    rows = [*ROWS, row("Ed-01_2", "Greece", options=("Brellin", "brellin ", "tarn cake", "ulvu"))]
    with pytest.warns(UserWarning, match=r"blend: 1 left out, two options are the same text .* \(Ed-01_2\)"):
        study = blend(write(tmp_path, rows))
    assert "Ed-01_2" not in ids(study.evaluation) and study.notes["left out"].startswith("1 left out")


def test_a_question_without_a_topic_is_left_out_counted_and_told(tmp_path):
    questions = {key: topic for key, topic in QUESTIONS.items() if key != "Ed-01"}
    with pytest.warns(UserWarning, match=r"1 left out, the table of short-answer questions has no topic .* \(Ed-01_1\)"):
        study = blend(write(tmp_path, questions=questions))
    assert ids(study.evaluation) == ["Fa-01_1", "Ho-01_1"]


def test_other_numbers_of_rows_than_the_published_ones_are_told(tmp_path):
    with pytest.warns(UserWarning) as caught:
        blend(write(tmp_path))
    told = [str(warning.message) for warning in caught]
    assert any("blend: 14 rows, where 305939 were published" in line for line in told)
    assert any("blend's short-answer questions: 6 rows, where 500 were published" in line for line in told)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"choices": "{'A': 'brellin'}"},
            r"blend: choices of question 'Ed-01_9' is \"\{'A': 'brellin'\}\"; it must be a string of",
        ),
        ({"choices": '["brellin", "ulvu"]'}, r"blend: choices of question 'Ed-01_9' is .*; it must be a string of JSON"),
        ({"choices": '{"A": "brellin", "B": 3}'}, r"blend: choices of question 'Ed-01_9' is .*; it must be a string of JSON"),
        ({"choice_countries": "US"}, r"blend: choice_countries of question 'Ed-01_9' is 'US'; it must be a string of JSON"),
        ({"country": "Arveni"}, r"question 'Ed-01_9' has the country 'Arveni'; known are US, UK, South_Korea, .*, Azerbaijan"),
        ({"answer_idx": "E"}, r"question 'Ed-01_9' has the answer_idx 'E'; its choices are A, B, C, D"),
        ({"answer_idx": None}, r"question 'Ed-01_9' has the answer_idx None; its choices are A, B, C, D"),
        ({"MCQID": "Ed-01_1"}, r"blend: MCQID 'Ed-01_1' appears twice"),
        ({"prompt": "What is eaten?"}, r"the prompt of question 'Ed-01_9' has no 'Without any explanation, .* choices'"),
    ],
)
@pytest.mark.parametrize("load", [blend, blend_control])
def test_a_bad_row_is_named(tmp_path, load, bad, message):
    with pytest.raises(GatescopeError, match=message):
        load(write(tmp_path, [*ROWS, row("Ed-01_9", "Spain") | bad]))


def test_a_missing_column_is_named_with_those_found(tmp_path):
    rows = [{("answer" if k == "answer_idx" else k): v for k, v in r.items()} for r in ROWS]
    with pytest.raises(GatescopeError, match=r"blend: no column 'answer_idx'; the columns found are \['MCQID', .*'answer'\]"):
        blend(write(tmp_path, rows))


def test_a_topic_that_is_none_of_the_six_is_named(tmp_path):
    with pytest.raises(
        GatescopeError, match=r"question 'Wo-01' has the Topic 'Work-life'; it must be one of 'Food', 'Work life'"
    ):
        blend(write(tmp_path, questions=QUESTIONS | {"Wo-01": "Work-life"}))


def test_what_cannot_be_asked_for_is_said(tmp_path):
    write(tmp_path)
    with pytest.raises(GatescopeError, match=r"blend has no 'Northern_Nigeria'; it has 'USA', 'UK', .*'Nigeria'"):
        blend(tmp_path, groups=["Northern_Nigeria"])
    with pytest.raises(GatescopeError, match=r"blend_control: cap is 0; at least one row"):
        blend_control(tmp_path, cap=0)
    with pytest.raises(GatescopeError, match=r"blend: path='.*nowhere' does not exist"):
        blend(tmp_path / "nowhere")
    with pytest.raises(GatescopeError, match=r"blend: nothing in .* is called '\*\*/mc_questions_file_v1.1.json' or"):
        blend(tmp_path / "data/questions")


def test_the_hub_is_asked_for_configuration_split_and_revision(monkeypatch):
    asked = []

    def load_dataset(hub, **options):
        asked.append((hub, options))
        if options["name"] == "short-answer-questions":
            return datasets.Dataset.from_dict({"ID": list(QUESTIONS), "Topic": list(QUESTIONS.values())})
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(blend(revision="abc").identification) == 9
    hub = "nayeon212/BLEnD"
    assert asked == [
        (hub, {"name": "multiple-choice-questions", "split": "test", "revision": "abc"}),
        (hub, {"name": "short-answer-questions", "split": "US", "revision": "abc"}),
    ]


def test_the_cards_name_their_loaders():
    assert (CARD.name, CARD.load, CONTROL_CARD.name, CONTROL_CARD.load) == ("blend", blend, "blend_control", blend_control)
    assert set(LANGUAGES) == set(COUNTRIES) and len(set(LANGUAGES.values())) == 13
    assert len(set(IDENTIFICATION + EVALUATION)) == 6


def asked(here, answers, english="What?"):
    groups = [{"answers": a, "en_answers": e, "count": n} for a, e, n in answers]
    return {"question": here, "en_question": english, "annotations": groups, "idks": {"idk": 1, "no idea {at all}": 1}}


SPAIN = {
    "Fo-01": asked(
        " ¿Qué se come {aquí}? ",
        [(["zurbas"], ["zurbs"], 1), (["pan de brelo", " brelo "], ["brelo bread"], 3), (["nunca"], ["never"], 0)],
        "What is eaten in Spain?",
    ),
    "Ed-01": asked("¿Qué se lee?", [(["mirtos", "mirto"], [], 2), (["lirta", "mirto"], ["lirt"], 1)], "What is read?"),
    "Fa-01": asked("¿Quién cocina?", []),
    "Ho-01": asked("¿Qué se baila?", [([" "], ["trell"], 2)], "What is danced?"),
}
UK = {"Ed-01": asked("What is read in the UK?", [(["blimbs"], ["blimbs"], 1)], "What is read in UK?")}
PROMPTS = [
    ["inst-1", "{q} Reply so:\n\n{'question':'{q}','answer':[]}", "{q} Responde así:\n\n{'question':'{q}','answer':[]}"],
    ["pers-1", "Suppose you are from there. {q}", "Supongamos que eres de allí. {q}"],
]


def write_short(root, spain=SPAIN, prompts=PROMPTS, header=("id", "English", "Translation")):
    write_topics(root)
    for country, table in {"Spain": spain, "UK": UK}.items():
        file = root / f"data/annotations/{country}_data.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(table, ensure_ascii=False, indent=4), encoding="utf-8")
    write_csv(root / "data/prompts/Spain_prompts.csv", list(header), prompts)
    return root


BOTH = {"groups": ["Spain", "UK"]}


def short(root, **options):
    with pytest.warns(UserWarning, match="left out"):
        return blend_short(root, **BOTH, **options)


def test_short_answers_in_the_native_language_the_most_given_first(tmp_path):
    study = short(write_short(tmp_path))
    (food,) = study.identification
    assert (food.id, food.group, food.question) == ("Fo-01/Spain", "Spain", "¿Qué se come {aquí}?")
    assert food.references == ("pan de brelo", "brelo", "zurbas") and food.answer == "pan de brelo" and food.choices == ()
    assert ids(study.evaluation) == ["Ed-01/UK", "Ed-01/Spain"]
    assert study.evaluation[1].references == ("mirtos", "mirto", "lirta")
    assert {k: food.facts[k] for k in ("language", "topic", "country", "question id")} == {
        "language": "es", "topic": "Food", "country": "Spain", "question id": "Fo-01",
    }  # fmt: skip


def test_short_answers_in_english(tmp_path):
    study = short(write_short(tmp_path), language="english")
    assert [(e.id, e.references, e.facts["language"]) for e in (*study.identification, *study.evaluation)] == [
        ("Fo-01/Spain", ("brelo bread", "zurbs"), "en"),
        ("Ed-01/UK", ("blimbs",), "en"),
        ("Ed-01/Spain", ("lirt",), "en"),
        ("Ho-01/Spain", ("trell",), "en"),
    ]
    assert study.identification[0].question == "What is eaten in Spain?"
    assert study.evaluation[0].question == "What is read in the UK?"  # the better of its two English texts


def test_questions_no_one_answered_are_left_out_counted_and_told(tmp_path):
    with pytest.warns(
        UserWarning, match=r"blend_short: 2 left out, no answer to it was annotated \(Fa-01/Spain, Ho-01/Spain\)"
    ):
        study = blend_short(write_short(tmp_path), groups=["Spain"])
    assert study.notes["left out"].startswith("2 left out")


def test_an_instruction_of_the_country_is_filled_braces_and_all(tmp_path):
    question = " ¿Qué se come {aquí}? "  # as it stands in the file
    filled = {
        "inst-1": f"{question} Responde así:\n\n{{'question':'{question}','answer':[]}}",
        "pers-1": f"Supongamos que eres de allí. {question}",
    }
    write_short(tmp_path)
    used = set()
    for seed in range(8):
        (food,) = short(tmp_path, seed=seed).identification
        assert food.prompt == filled[food.facts["instruction"]]
        assert food.prompt == short(tmp_path, seed=seed).identification[0].prompt  # the seed alone decides
        used.add(food.facts["instruction"])
    assert used == set(filled)


def test_without_a_file_of_prompts_the_instruction_is_ours_and_the_notes_say_so(tmp_path):
    study = short(write_short(tmp_path))
    assert study.evaluation[0].prompt == "What is read in the UK?\nGive one short answer, without any explanation."
    assert study.evaluation[0].facts["instruction"] == "ours"
    assert study.notes["instructions"].endswith("seed 0; no prompts file, and so ours, for UK")


def test_an_instruction_without_a_place_for_the_question_is_left_out_or_if_there_is_no_other_refused(tmp_path):
    with pytest.warns(UserWarning, match=r"1 left out, the instruction has no place \{q\} for the question \(Spain pers-9\)"):
        blend_short(write_short(tmp_path, prompts=[*PROMPTS, ["pers-9", "Go.", "Ve."]]), groups=["Spain"])
    with pytest.raises(
        GatescopeError, match=r"no instruction in column 'Translation' of .*Spain_prompts.csv has a place \{q\}"
    ):
        blend_short(write_short(tmp_path, prompts=[["pers-9", "Go.", "Ve."]]), groups=["Spain"])


def test_a_bad_copy_of_the_short_answers_is_named(tmp_path):
    write_short(tmp_path)
    with pytest.raises(GatescopeError, match=r"blend_short needs path=: the answers on the hub .* cannot be read by recent"):
        blend_short()
    with pytest.raises(GatescopeError, match=r"revision='abc' cannot be chosen"):
        blend_short(tmp_path, revision="abc")
    with pytest.raises(GatescopeError, match=r"path='.*UK_data.json' is not a directory; give a copy of https"):
        blend_short(tmp_path / "data/annotations/UK_data.json")
    with pytest.raises(
        GatescopeError, match=r"blend_short, Greece: nothing in .* is called 'data/annotations/Greece_data.json'"
    ):
        blend_short(tmp_path, groups=["Greece"])
    with pytest.raises(GatescopeError, match=r"blend_short has no 'Arveni'; it has 'USA'"):
        blend_short(tmp_path, groups=["Arveni"])
    with pytest.raises(GatescopeError, match=r"language is 'spanish'; it must be 'native' or 'english'"):
        blend_short(tmp_path, language="spanish")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"question": "?", "en_question": "?", "aggregated_answers": [], "idks": {}},
            r"question 'Ed-01' of .*Spain_data.json has no 'annotations'; the fields found are \['aggregated_answers', 'en_qu",
        ),
        ("mirto", r"question 'Ed-01' of .* has no 'question', 'en_question', 'annotations'; the fields found are \[\]"),
        (
            {"question": "?", "en_question": "?", "annotations": [{"answers": ["x"]}]},
            r"the annotations of 'Ed-01/Spain' must each have a count and a list of answers; they are \[\{'answers'",
        ),
    ],
)
def test_a_bad_annotation_is_named(tmp_path, entry, message):
    with pytest.raises(GatescopeError, match=message):
        blend_short(write_short(tmp_path, spain={"Ed-01": entry}), groups=["Spain"])


def test_files_of_the_short_answers_that_are_not_what_they_should_be_are_named(tmp_path):
    write_short(tmp_path, header=("id", "English", "Spanish"))
    with pytest.raises(
        GatescopeError, match=r"Spain_prompts.csv has no column 'Translation'; those found are \['id', 'English'"
    ):
        blend_short(tmp_path, groups=["Spain"])
    (tmp_path / "data/annotations/Spain_data.json").write_text("{", encoding="utf-8")
    write_csv(tmp_path / "data/prompts/Spain_prompts.csv", ["id", "English", "Translation"], PROMPTS)
    with pytest.raises(GatescopeError, match=r"blend_short: .*Spain_data.json is not JSON: Expecting"):
        blend_short(tmp_path, groups=["Spain"])


def test_a_short_question_without_a_topic_is_left_out(tmp_path):
    with pytest.warns(UserWarning, match=r"1 left out, the table of questions has no topic for it \(Zz-01/Spain\)"):
        blend_short(write_short(tmp_path, spain={"Zz-01": SPAIN["Ed-01"], "Ed-01": SPAIN["Ed-01"]}), groups=["Spain"])


def test_topics_are_read_from_the_csv_with_its_unnamed_index(tmp_path):
    write_topics(tmp_path)
    assert topics(tmp_path)["Wo-01"] == "Work life" and topics(tmp_path)["Sp-01"] == "Sport"
