"""CULNIG's multiple-choice benchmarks from local copies with the published schemas, and the traps in them."""

from __future__ import annotations

import csv
import json
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gatescope as gs
from gatescope.data import commonsenseqa, countryrc, culturalbench, mrpc, normad, qnli
from gatescope.data.countries import BLEND, COMMON, SPELLINGS, TARGETS, display
from gatescope.data.prompts import WORDINGS

SHORT = pytest.mark.filterwarnings("ignore:.* rows, where .* were published")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_csv(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_parquet(file, rows, schema=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return file


def without(row, column):
    return {name: value for name, value in row.items() if name != column}


# --- countries


def test_the_display_names_are_spelt_as_each_benchmark_spells_them():
    spelt = {name: [SPELLINGS[b][name] for b in ("blend", "culturalbench", "normad")] for name in COMMON}
    assert spelt == {
        "China": ["China", "China", "china"],
        "Indonesia": ["Indonesia", "Indonesia", "indonesia"],
        "Iran": ["Iran", "Iran", "iran"],
        "Mexico": ["Mexico", "Mexico", "mexico"],
        "South Korea": ["South_Korea", "South Korea", "south_korea"],
        "Spain": ["Spain", "Spain", "spain"],
        "UK": ["UK", "United Kingdom", "united_kingdom"],
        "USA": ["US", "United States", "united_states_of_america"],
    }
    assert [SPELLINGS["worldvaluesbench"][name] for name in ("UK", "USA", "South Korea")] == [
        "Great Britain",
        "United States",
        "South Korea",
    ]
    assert SPELLINGS["blend"]["Nigeria"] == "Northern_Nigeria" and len(BLEND) == 16 and len(TARGETS) == 14


def test_every_spelling_leads_back_to_its_display_name():
    assert all(display(b, written) == name for b, names in SPELLINGS.items() for name, written in names.items())


def test_a_country_without_a_display_name_keeps_its_own():
    assert [display("normad", name) for name in ("north_macedonia", "timor-leste", "türkiye")] == [
        "north macedonia",
        "timor-leste",
        "türkiye",
    ]
    assert display("culturalbench", " Hong Kong ") == "Hong Kong"


# --- CulturalBench

CULTURAL = {
    "data_idx": 7, "question_idx": 7, "prompt_question": " What do the Arveni drink? ", "prompt_option_a": "None",
    "prompt_option_b": " tea", "prompt_option_c": "NA", "prompt_option_d": "{milk}", "answer": "A", "country": "South Korea",
}  # fmt: skip
CULTURAL_ROWS = [
    CULTURAL,
    CULTURAL | {"data_idx": 8, "answer": "C", "country": "United Kingdom"},
    CULTURAL | {"data_idx": 9, "answer": "D", "country": "Hong Kong"},
]


@SHORT
def test_culturalbench_is_all_evaluated_with_four_wordings_of_every_question(tmp_path):
    study = culturalbench(write_csv(tmp_path / "CulturalBench-Easy.csv", CULTURAL_ROWS), shuffle=False)
    assert list(study.identification) == [] and study.notes["split"] == "none: all of it is evaluated"
    assert Counter(e.group for e in study.evaluation) == {"South Korea": 4, "UK": 4, "Hong Kong": 4}
    assert [(e.id, e.item) for e in study.evaluation[:5]] == [
        ("7/0", "7"),
        ("7/1", "7"),
        ("7/2", "7"),
        ("7/3", "7"),
        ("8/0", "8"),
    ]
    one = study.evaluation[1]
    assert one.choices == ("None", "tea", "NA", "{milk}")  # text, none of it missing
    assert (one.answer, one.label, one.facts["country"]) == ("None", "A", "South Korea")
    assert one.prompt == (
        "Select only one option from A, B, C, or D to answer the following multiple-choice question. Do not output "
        "anything else.\nQuestion:  What do the Arveni drink? \nA. None\nB.  tea\nC. NA\nD. {milk}"  # as in the row
    )
    assert [e.answer for e in study.evaluation[4::4]] == ["NA", "{milk}"]


@SHORT
def test_the_easy_file_is_chosen_in_a_directory_with_both(tmp_path):
    write_csv(tmp_path / "CulturalBench-Easy.csv", CULTURAL_ROWS)
    write_csv(tmp_path / "CulturalBench-Hard.csv", [{"data_idx": 0, "prompt_option": "tea", "answer": True}])
    assert len(culturalbench(tmp_path, wordings=[2]).evaluation) == 3
    with pytest.raises(
        gs.GatescopeError, match=r"no column 'prompt_question', 'prompt_option_a', .*columns found are .*data_idx"
    ):
        culturalbench(tmp_path / "CulturalBench-Hard.csv")


@SHORT
def test_a_copy_in_another_format_is_read_all_the_same(tmp_path):
    assert len(culturalbench(write_parquet(tmp_path / "easy.parquet", CULTURAL_ROWS), wordings=[0]).evaluation) == 3


@SHORT
def test_options_are_shuffled_by_question_and_wording_unless_that_is_not_wanted(tmp_path):
    rows = [CULTURAL | {"data_idx": n} for n in range(6)]
    file = write_csv(tmp_path / "Easy.csv", rows)
    study = culturalbench(file)
    assert study == culturalbench(file)
    assert len({e.choices for e in study.evaluation if e.item == "0"}) > 1
    assert all(sorted(e.choices) == ["NA", "None", "tea", "{milk}"] and e.answer == "None" for e in study.evaluation)
    assert {e.label for e in study.evaluation} == set("ABCD")
    assert {e.choices for e in culturalbench(file, shuffle=False).evaluation} == {("None", "tea", "NA", "{milk}")}


@SHORT
def test_groups_are_asked_for_by_display_name(tmp_path):
    file = write_csv(tmp_path / "Easy.csv", CULTURAL_ROWS)
    assert {e.group for e in culturalbench(file, groups=["UK"]).evaluation} == {"UK"}
    with pytest.raises(
        gs.GatescopeError, match="CulturalBench has no 'United Kingdom'; it has 'South Korea', 'UK', 'Hong Kong'"
    ):
        culturalbench(file, groups=["United Kingdom"])


def test_rows_with_options_alike_are_left_out_once_each_and_told(tmp_path):
    rows = [*CULTURAL_ROWS, CULTURAL | {"data_idx": 10, "prompt_option_b": "none "}, CULTURAL]
    with pytest.warns(UserWarning) as told:
        study = culturalbench(write_csv(tmp_path / "Easy.csv", rows))
    assert {e.item for e in study.evaluation} == {"7", "8", "9"}
    assert study.notes["left out"] == (
        "1 left out, two options are the same text once case and white space are normalised (10); "
        "1 left out, its data_idx was used before (7)"
    )
    assert any("CulturalBench: 5 rows, where 1227 were published" in str(w.message) for w in told)
    assert any("1 left out" in str(w.message) for w in told)


# --- NormAd

NORM = {
    "ID": 11, "Country": "united_states_of_america", "Background": "### Greetings\n- wave", "Axis": "Etiquette",
    "Subaxis": "basic_etiquette", "Value": "courtesy", "Rule-of-Thumb": "Wave first.", "Explanation": "So it is.",
    "Story": " Ana meets Bo, and {waves}. ", "Gold Label": "yes",
}  # fmt: skip
NORM_ROWS = [
    NORM,
    NORM | {"ID": 12, "Country": "timor-leste", "Gold Label": "no"},
    NORM | {"ID": 13, "Country": "türkiye", "Subaxis": "visité", "Gold Label": "neutral"},
    NORM | {"ID": 14, "Country": "south_korea", "Gold Label": "no "},
    NORM | {"ID": 15, "Country": "hong_kong", "Gold Label": "yes"},
]


@SHORT
def test_normad_shows_its_three_answers_as_digits_in_a_stable_order(tmp_path):
    file = write_csv(tmp_path / "normad_etiquette_final_data.csv", NORM_ROWS)
    study = normad(tmp_path)
    assert list(study.identification) == [] and len(study.evaluation) == 20 and study == normad(file)
    assert [e.group for e in study.evaluation[::4]] == ["USA", "timor-leste", "türkiye", "South Korea", "hong kong"]
    assert [e.answer for e in study.evaluation[::4]] == ["yes", "no", "neutral", "no", "yes"]
    assert all(e.labels == ("1", "2", "3") and sorted(e.choices) == ["neutral", "no", "yes"] for e in study.evaluation)
    assert len({e.choices for e in study.evaluation}) > 2 and {e.label for e in study.evaluation} == set("123")
    one = study.evaluation[3]
    assert one.id == "11/3" and one.prompt == (
        WORDINGS["normad"][3].text.partition("\ncountry")[0]
        + "\ncountry: united_states_of_america\nStory:  Ana meets Bo, and {waves}. \nOptions: "
        + ", ".join(f"{n}: {choice}" for n, choice in enumerate(one.choices, 1))
        + "\n"
    )
    assert study.evaluation[8].facts == {"country": "türkiye", "axis": "Etiquette", "subaxis": "visité"}


def test_normad_reads_another_revision_with_both_row_counts_said(tmp_path):
    with pytest.warns(UserWarning, match="NormAd: 5 rows, where 2633 were published"):
        normad(write_csv(tmp_path / "n.csv", NORM_ROWS))


# --- CountryRC

PLAIN = {"id": "0", "context": "Lu moved to {country}. In {country} she found {x}.", "question": "Where does Lu live?"}
DUMMY = {"id": "1", "context": "Bo left {country_dummy} for {country}.", "question": "Where is Bo now?"}


def write_rc(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@SHORT
def test_countryrc_fills_every_template_for_every_target(tmp_path):
    rows = [PLAIN, DUMMY, DUMMY | {"id": "2"}, PLAIN | {"id": "3"}, PLAIN | {"id": "4"}]
    write_rc(tmp_path / "data" / "CountryRC" / "data.json", rows)
    study = countryrc(tmp_path)
    assert (len(study.identification), len(study.evaluation)) == (8 * 2 * 4, 8 * 3 * 4)
    assert {e.group for e in study.evaluation} == set(COMMON)
    assert {e.facts["template"] for e in study.identification} == {"0", "1"}
    assert {e.facts["template"] for e in study.evaluation} == {"2", "3", "4"}
    for e in (*study.identification, *study.evaluation):
        number = int(e.id[-1])
        assert e.answer == e.group and e.group in e.choices and len(set(e.choices)) == 4 and set(e.choices) < set(BLEND)
        assert e.labels == (tuple("ABCD") if number < 2 else tuple("1234"))
        assert e.item == f"{e.facts['template']}/{e.group}"
    ids = [e.id for e in (*study.identification, *study.evaluation)]
    assert len(set(ids)) == len(ids)

    one = next(e for e in study.identification if e.id == "0/South Korea/2")
    options = "\n".join(f"{n}. {choice}" for n, choice in enumerate(one.choices, 1))
    assert one.prompt.endswith(
        "passage: Lu moved to South Korea. In South Korea she found {x}.\nquestion: Where does Lu live?\n" + options + "\n"
    )
    other = next(e for e in study.identification if e.id == "1/UK/0")
    assert f"passage: Bo left {other.facts['dummy']} for UK.\n" in other.prompt
    assert other.facts["dummy"] in set(other.choices) - {"UK"}
    same = [e for e in study.identification if e.item == "1/UK"]
    assert len({frozenset(e.choices) for e in same}) > 1  # drawn anew for every wording, as the published code does


@SHORT
def test_countryrc_is_filled_for_any_place_of_blend(tmp_path):
    file = write_rc(tmp_path / "crc.json", [PLAIN, DUMMY])
    study = countryrc(file, groups=["Assam", "West Java"], wordings=[3])
    assert [e.id for e in study.evaluation] == ["1/Assam/3", "1/West Java/3"]
    with pytest.raises(gs.GatescopeError, match="CountryRC has no 'Germany'; it has 'USA', 'UK', 'South Korea'"):
        countryrc(file, groups=["Germany"])


def test_countryrc_with_fifty_items_is_cut_after_twenty_five_without_a_word(tmp_path, recwarn):
    study = countryrc(
        write_rc(tmp_path / "data.json", [PLAIN | {"id": str(n)} for n in range(50)]), wordings=[0], groups=["UK"]
    )
    assert [len(half) for half in (study.identification, study.evaluation)] == [25, 25]
    assert study.evaluation[0].item == "25/UK"
    assert not [w for w in recwarn if "published" in str(w.message)]


# --- CommonsenseQA

COMMON_SENSE = {
    "id": "ab12", "question": "Where is a kite kept? ", "question_concept": "kite",
    "choices": {"label": list("ABCDE"), "text": ["shed", " sky", "sea", "cup", "shoe"]}, "answerKey": "B",
}  # fmt: skip


@SHORT
def test_commonsenseqa_options_are_read_from_two_lists_or_from_a_list_of_dicts(tmp_path):
    listed = [{"label": label, "text": text} for label, text in zip("ABCDE", COMMON_SENSE["choices"]["text"], strict=True)]
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [COMMON_SENSE])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [COMMON_SENSE | {"answerKey": ""}])
    study = commonsenseqa(tmp_path)
    other = commonsenseqa(write_parquet(tmp_path / "listed.parquet", [COMMON_SENSE | {"choices": listed}]))
    assert study == other and list(study.identification) == [] and len(study.evaluation) == 4
    one = study.evaluation[0]
    assert (one.id, one.item, one.group, one.answer, one.label) == ("ab12/0", "ab12", "commonsenseqa", "sky", "B")
    assert one.labels == tuple("ABCDE") and one.facts == {"concept": "kite"}
    assert one.prompt.endswith("\nQuestion: Where is a kite kept? \nA. shed\nB.  sky\nC. sea\nD. cup\nE. shoe")


@SHORT
def test_commonsenseqa_rows_with_options_alike_are_told(tmp_path):
    alike = COMMON_SENSE | {"id": "x", "choices": {"label": list("ABCDE"), "text": ["a", "A", "b", "c", "d"]}}
    with pytest.warns(UserWarning, match="CommonsenseQA: 1 left out, two options are the same text .*x"):
        study = commonsenseqa(write_parquet(tmp_path / "c.parquet", [COMMON_SENSE, alike]))
    assert {e.item for e in study.evaluation} == {"ab12"}


# --- GLUE

ENTAIL = {"question": "Who drums? ", "sentence": "Lu {drums}.", "label": 0, "idx": 5}
SAME = {"sentence1": "Lu drums.", "sentence2": "Bo sings.", "label": 0, "idx": 5}


@SHORT
def test_zero_is_entailment_in_qnli(tmp_path):
    write_parquet(tmp_path / "qnli" / "validation-00000-of-00001.parquet", [ENTAIL, ENTAIL | {"label": 1, "idx": 6}])
    study = qnli(tmp_path)
    assert [(e.id, e.answer, e.label) for e in study.evaluation[::4]] == [
        ("5/0", "entailment", "0"),
        ("6/0", "not_entailment", "1"),
    ]
    assert {e.group for e in study.evaluation} == {"qnli"} and list(study.identification) == []
    assert study.evaluation[0].prompt == (
        "Determine whether the following context sentence contains enough information to answer the question.\n"
        "Question: Who drums? \nContext: Lu {drums}.\n"
        "Respond with:\n0 if it does (entailment)\n1 if it does not (not_entailment)\nOnly answer with 0 or 1."
    )


@SHORT
def test_one_is_equivalent_in_mrpc_also_where_the_label_is_stored_as_a_class(tmp_path):
    label = datasets.ClassLabel(names=["not_equivalent", "equivalent"])
    text = datasets.Value("string")
    features = datasets.Features({"sentence1": text, "sentence2": text, "label": label, "idx": datasets.Value("int32")})
    (tmp_path / "mrpc").mkdir()
    stored = datasets.Dataset.from_list([SAME, SAME | {"label": 1, "idx": 9}], features=features)
    stored.to_parquet(str(tmp_path / "mrpc" / "test-00000-of-00001.parquet"))
    study = mrpc(tmp_path, wordings=[1])
    assert [(e.id, e.answer, e.label) for e in study.evaluation] == [
        ("5/1", "not_equivalent", "0"),
        ("9/1", "equivalent", "1"),
    ]
    assert "\nSentence 1: Lu drums.\nSentence 2: Bo sings.\nAnswer with 1 if they are paraphrases" in study.evaluation[0].prompt


# --- bad input


def bad_csv(rows):
    return lambda tmp_path: write_csv(tmp_path / "rows.csv", rows)


def bad_parquet(rows):
    return lambda tmp_path: write_parquet(tmp_path / "rows.parquet", rows)


def bad_json(rows):
    return lambda tmp_path: write_rc(tmp_path / "rows.json", rows)


def broken(name):
    def write(tmp_path):
        (tmp_path / name).write_bytes(b'{"\xff no such thing')
        return tmp_path / name

    return write


@SHORT
@pytest.mark.parametrize(
    ("load", "write", "message"),
    [
        (
            culturalbench,
            bad_csv([without(CULTURAL, "answer")]),
            r"CulturalBench: no column 'answer'; the columns found are \['data_idx', 'question_idx', .*\(996d62a",
        ),
        (
            culturalbench,
            bad_csv([CULTURAL | {"answer": "E"}]),
            "CulturalBench: question '7' has the answer 'E'; it must be A, B",
        ),
        (culturalbench, broken("Easy.parquet"), "CulturalBench: .*Easy.parquet cannot be read: ArrowInvalid"),
        (
            normad,
            bad_csv([without(NORM, "Gold Label")]),
            r"NormAd: no column 'Gold Label'; the columns found are \['ID', 'Country', .*\(0ea94a1",
        ),
        (
            normad,
            bad_csv([NORM | {"Gold Label": "maybe"}]),
            "NormAd: story '11' has the Gold Label 'maybe'; it must be yes, no or",
        ),
        (normad, broken("n.csv"), "NormAd: .*n.csv cannot be read"),
        (
            countryrc,
            bad_json([{"ID": "0", "context": "{country}", "question": "?"}]),
            r"CountryRC: no column 'id'; the columns found are \['ID', 'context', 'question'\]",
        ),
        (
            countryrc,
            bad_json([PLAIN | {"context": "In {place}."}]),
            r"the context of item '0' has no \{country\}, so no country",
        ),
        (countryrc, broken("data.json"), "CountryRC: .*data.json cannot be read"),
        (
            commonsenseqa,
            bad_parquet([COMMON_SENSE | {"answerKey": ""}]),
            "question 'ab12' has no answerKey. The answers of the test split are not published: use validation",
        ),
        (commonsenseqa, bad_parquet([COMMON_SENSE | {"answerKey": "F"}]), "has the answerKey 'F'; it must be one of A to E"),
        (
            commonsenseqa,
            bad_parquet([COMMON_SENSE | {"choices": {"label": ["A", "B"], "text": ["x", "y"]}}]),
            r"question 'ab12' has the options \['A', 'B'\]; A to E are needed",
        ),
        (
            commonsenseqa,
            bad_parquet([without(COMMON_SENSE, "choices")]),
            r"CommonsenseQA: no column 'choices'; the columns found are \['id', 'question', 'question_concept', 'answerKey'\]",
        ),
        (
            qnli,
            bad_parquet([ENTAIL | {"label": -1}]),
            r"QNLI: row '5' has the label -1; .*hide their labels \(-1\): use validation",
        ),
        (mrpc, bad_parquet([SAME | {"label": -1}]), r"MRPC: row '5' has the label -1; .*hide their labels \(-1\): use test"),
        (
            qnli,
            bad_parquet([SAME]),
            r"QNLI: no column 'question', 'sentence'; the columns found are \['sentence1', 'sentence2', 'label', 'idx'\]",
        ),
        (qnli, lambda tmp_path: tmp_path, r"QNLI: nothing in .* is called 'qnli/validation-\*.parquet' or 'validation-"),
        (mrpc, lambda tmp_path: tmp_path / "none", "MRPC: path=.*none' does not exist. Give the file, or the directory"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, load, write, message):
    with pytest.raises(gs.GatescopeError, match=message):
        load(write(tmp_path))


@pytest.mark.parametrize("load", [culturalbench, normad, countryrc, commonsenseqa, qnli, mrpc])
def test_a_wording_that_is_not_there_is_named(tmp_path, load):
    with pytest.raises(gs.GatescopeError, match=rf"{load.__name__} has the wordings 0 to 3; \[1, 4\] were asked for"):
        load(tmp_path, wordings=[1, 4])


@pytest.mark.parametrize(
    ("load", "write", "rows", "published"),
    [
        (commonsenseqa, bad_parquet([COMMON_SENSE]), 1, 1221),
        (qnli, bad_parquet([ENTAIL]), 1, 5463),
        (mrpc, bad_parquet([SAME]), 1, 1725),
        (countryrc, bad_json([PLAIN, DUMMY]), 2, 50),
    ],
)
def test_a_part_of_a_dataset_is_loaded_with_both_row_counts_said(tmp_path, load, write, rows, published):
    with pytest.warns(UserWarning, match=f"{rows} rows, where {published} were published"):
        load(write(tmp_path))


def test_without_a_network_the_way_out_is_a_local_copy(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for load in (culturalbench, normad, countryrc, commonsenseqa, qnli, mrpc):
        with pytest.raises(gs.GatescopeError, match=r"could not be downloaded \(ConnectionError: no route\).*give path="):
            load()
