"""CULNIG's prompts are those of its published code, to the byte; and a wording of one's own.

The digests were made by the published code (github.com/ynklab/CULNIG, commit 323d480: `dataset.py`, `prompts.py`), run on
the rows below with a tokenizer whose chat template hands the turns back as they are. One digest is of all prompts of a
benchmark under one wording, each with its system turn, the prefix of its answer and the right label.
"""

from __future__ import annotations

import csv
import hashlib
import json

import datasets
import datasets.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gatescope as gs
from gatescope.data import registry
from gatescope.data.prompts import Wording

pytestmark = pytest.mark.filterwarnings("ignore:.*were published.*:UserWarning")

NORM = {"Background": "### Greetings", "Axis": "Etiquette", "Subaxis": "eating", "Value": "v", "Rule-of-Thumb": "r"}
OPTIONS = {"A": "brellin", "B": " mossel pie ", "C": "\u201ctarn\u201d cake", "D": "ulvu {raw}"}
ROWS = {
    "normad": [
        NORM | {"ID": 11, "Country": "united_states_of_america", "Gold Label": "yes"}
        | {"Story": " Ana meets Bo\u2019s aunt, and {waves}. \nShe leaves."},
        NORM | {"ID": 12, "Country": "timor-leste", "Story": "Lu eats.", "Gold Label": "no"},
        NORM | {"ID": 13, "Country": "t\u00fcrkiye", "Story": "Lu eats.", "Gold Label": "neutral"},
    ],
    "culturalbench": [
        {"data_idx": 7, "prompt_question": " What do the Arveni drink? ", "prompt_option_a": "None", "prompt_option_b": " tea",
         "prompt_option_c": "NA", "prompt_option_d": "{milk} \u2013 \u201chot\u201d", "answer": "A", "country": "South Korea"},
        {"data_idx": 8, "prompt_question": "Who drums?\nAt dusk.", "prompt_option_a": "elders", "prompt_option_b": "the young",
         "prompt_option_c": "no one", "prompt_option_d": "Lu", "answer": "C", "country": "United Kingdom"},
    ],
    "blend": [
        {"MCQID": "Fo-01_1", "ID": "Fo-01", "country": "US", "answer_idx": "B",
         "prompt": "What is eaten (e.g. {x})?  Without any explanation, choose only one from the given alphabet choices"
         '(e.g., A, B, C). Provide as JSON format: {"answer_choice":""}\n\n'
         + "".join(f"{letter}. {option}\n" for letter, option in OPTIONS.items()) + "\nAnswer:",
         "choices": json.dumps(OPTIONS), "choice_countries": json.dumps(dict.fromkeys("ABCD", "US"))},
    ],
    "countryrc": [
        {"id": "0", "context": "Lu moved to {country}. In {country} she found \u201cwork\u201d.",
         "question": "Where does Lu live?"},
        {"id": "1", "context": "Bo left {country_dummy} for {country}. ", "question": " Where is Bo now?"},
    ],
    "commonsenseqa": [
        {"id": "ab12", "question": "Where is a kite kept? ", "question_concept": "kite", "answerKey": "B",
         "choices": {"label": list("ABCDE"), "text": ["shed", " sky", "sea", "cup \u2013 {x}", "shoe"]}},
    ],
    "qnli": [{"question": "Who drums? ", "sentence": "Lu {drums} \u2013 \u201cloudly\u201d.", "label": 0, "idx": 5}],
    "mrpc": [{"sentence1": "Lu drums.", "sentence2": " Bo {sings}.", "label": 1, "idx": 5}],
}  # fmt: skip
VALUES = {
    "Q1": {"question": " How important is family? 1 is \u201cvery\u201d, 4 not at all. ", "answer_scale_max": 4},
    "Q2": {"question": "On a scale of 1 to 10, how {good} is it?", "answer_scale_max": 10},
}
PEOPLE = [("Great Britain", 1, 10)] * 10 + [("China", 3, 2)] * 10
PUBLISHED = {
    "normad": [
        "838301b7d49e1dd73589a74911998fbf17ab2d55081d6138d33254116ac5e77a",
        "e4c63301bed6e25a4bb4ce45269ff93dd80579ea3f6e8b542f4062291ecc8f10",
        "483cdf6c0d8ff2b894f62466d2e1a3c10ba56d16d522da7d6a3ffc6b8c749c7b",
        "53f7dd917c1fefe1096b74e4c4f9d7e7d27cf5ccf12a20617595e8344a391655",
    ],
    "culturalbench": [
        "68be55474ebe179e726f27148ef1c0027eea25ff41e5be13a9b4cca2ce4e315d",
        "9031422f187e0b60e45d25faf8216f76b1ebb2fe23b82a86187185fa9b6069c8",
        "957e3f48a6c86352f4ae226b5c006f7613573e2e960b99d34fe78921230dcbde",
        "6bc3d6410bdfcbcf2a3c5685b0b106c9119d3800fdef660a602d27b65e99a4f9",
    ],
    "blend": [
        "040a0e423707add962a05e60efe01c9fe1ba72d60ea977111a449679904cf3d3",
    ],
    "blend_control": [
        "ac95915b9c17f0349de587360cf9f37fbfa1e7201bcf99c1eecf94e83a1825b8",
    ],
    "worldvaluesbench": [
        "da9dc633bf2771a4b90ee032ae1725e6c63fb2454fcd541a7666b9e5a2a21584",
        "3ee50f40c646ca2fef2c6d3fc7bc7bfe972e75b5d993182580657b64908682e5",
        "276e1b3b88a7df640b2e2b1583db98c4122cd91b17b0eea1859e494563a935af",
        "a9b50d2c856add777685784d874b484afd54d5713470768d82e1937cb2a52526",
    ],
    "countryrc": [
        "2e8331cf51453882cb9143f927caf0f3dc298f3e365bca413860935f4797db02",
        "42732dc1f3ed310110b4b503693d481e819c236d06b5790b9aca4ef5257206a0",
        "1542c2631f366dbdf09fc1ff3bb26c9b6751faf3ecb8cb4d256b60822e301988",
        "7af4bc256976e6b43e4ddaf99a383dd35f03c784a4b4ee198b29264bd97172e8",
    ],
    "commonsenseqa": [
        "d631c7e2677d6a5f8f0d0aa361a859b9ca49f28ca4f72ea67d4ba922733bbe6e",
        "6cddcb8089521a448680c47d84b439c70856a3037835736ee9cbf2a1fc7c7e32",
        "89ed6630070ee9668ae386911c47bce394f1776820733c0bab7ba1f039ef9d3f",
        "75f64a1aeacf05b7d88177a073a1f9903489e14abea0efcab35dc521a1909e7f",
    ],
    "qnli": [
        "5dcbe4abf1fed407400d7687fe3f5d5292072b2bb75b3e9ba6948f8c65b9b13c",
        "933802ce0bf16f295ce437571f70916c7b36cabc8403fd9bbc404d195cd912bf",
        "4a759600a65aeff6963b9bb602e75837a66c40254656c840ef22b8843b38d917",
        "e66216626b0ee934a7ce27761a2266e907cf6124cf9dc3aec6ceaa0217bdd208",
    ],
    "mrpc": [
        "03f5408c29abc83675e20f62a7c21f54202af1c24bb9975353c16821b890b83a",
        "0ae666a424994c1d95cb4bfb69f11b4aefd158d487e41ff3720f7ff43a51d442",
        "16d02177272f28246e5d92d267cfb03bac248f60cf5c9f2f4eb72e93f42e963a",
        "bc292bebb9ab18df34f418f0dd9336a67a6de2585e7ab47540943c145bfe90cf",
    ],
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_csv(file, rows):
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def copy_of(name, where):
    """A local copy of a benchmark, with the rows above, in its published format."""
    rows = ROWS.get(name, [])
    if name in ("normad", "culturalbench"):
        return write_csv(where / "rows.csv", rows)
    if name == "countryrc":
        (where / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    elif name.startswith("blend"):
        (where / "mc_questions_file_v1.1.json").write_text(json.dumps(ROWS["blend"]), encoding="utf-8")
        write_csv(where / "US_questions.csv", [{"ID": "Fo-01", "Topic": "Food"}])
    elif name == "worldvaluesbench":
        about = {"category": "c", "use_case": "value", "answer_scale_min": 1}
        (where / "question_metadata.json").write_text(json.dumps({q: about | more for q, more in VALUES.items()}))
        values = [{"D_INTERVIEW": n, "Q1": one, "Q2": two} for n, (_, one, two) in enumerate(PEOPLE)]
        people = [{"D_INTERVIEW": n, "B_COUNTRY": country} for n, (country, _, _) in enumerate(PEOPLE)]
        for table, found in (("value", values), ("demographic", people)):
            lines = ["\t".join(found[0]), *("\t".join(map(str, row.values())) for row in found)]
            (where / f"full_{table}_qa.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), where / "validation-rows.parquet")
        return where / "validation-rows.parquet"
    return where


def digest(examples):
    asked = ("\x1f".join((e.system, e.prompt, e.prefix, e.label)) for e in examples)
    return hashlib.sha256("\x1e".join(sorted(asked)).encode()).hexdigest()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_prompt_is_the_published_one_to_the_byte(name, tmp_path):
    options = {"groups": ["UK", "South Korea"]} if name == "countryrc" else {}
    study = registry.load(name, copy_of(name, tmp_path), **options)
    examples = (*study.identification, *study.evaluation)
    several = len(PUBLISHED[name]) > 1
    by_wording = [[e for e in examples if not several or e.id.endswith(f"/{n}")] for n in range(len(PUBLISHED[name]))]
    assert [digest(each) for each in by_wording] == PUBLISHED[name]
    assert sum(map(len, by_wording)) == len(examples) > 0


def test_another_wording_is_asked_for_by_giving_it(tmp_path):
    own = Wording("In {country}: {story}\n{options}\nOne digit:", ("1", "2", "3"))
    study = gs.data.normad(copy_of("normad", tmp_path), wordings=[2, own])
    assert [e.id for e in study.evaluation] == ["11/2", "11/4", "12/2", "12/4", "13/2", "13/4"]
    assert study.notes["wordings"] == "2, 4 (one's own)"
    one = study.evaluation[3]
    assert sorted(one.choices) == ["neutral", "no", "yes"]
    shown = "\n".join(f"{digit}. {choice}" for digit, choice in zip("123", one.choices, strict=True))
    assert one.prompt == f"In timor-leste: Lu eats.\n{shown}\nOne digit:"


@pytest.mark.parametrize(
    ("wordings", "message"),
    [
        (
            [Wording("{story} {place}", ("1", "2", "3"))],
            r"^A wording of normad asks for \{place\}; its rows have \{country\}, ",
        ),
        ([Wording("{story}", ("1", "2"))], r"^A wording of normad has the labels \['1', '2'\]; 3 are needed, such as \['1', "),
        ([4], r"^normad has the wordings 0 to 3; \[4\] were asked for"),
        ([], r"^normad has the wordings 0 to 3; \[\] were asked for"),
    ],
)
def test_a_wording_that_does_not_fit_is_refused(tmp_path, wordings, message):
    with pytest.raises(gs.GatescopeError, match=message):
        gs.data.normad(copy_of("normad", tmp_path), wordings=wordings)


def test_two_wordings_of_one_s_own_are_told_apart(tmp_path):
    first, second = (Wording(f"{text} {{question}} {{sentence}}", ("0", "1")) for text in ("Does it?", "Is it so?"))
    study = gs.data.qnli(copy_of("qnli", tmp_path), wordings=[first, second])
    assert [e.id for e in study.evaluation] == ["5/4", "5/5"]
    assert study.evaluation[1].prompt == "Is it so? Who drums?  Lu {drums} \u2013 \u201cloudly\u201d."
