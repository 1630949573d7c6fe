"""What may be given as examples, and the sentence anything else ends in."""

from __future__ import annotations

import json

import pytest

from processes import python

GIVEN = {
    "dicts": "rows",
    "one dict among examples": "[*examples, rows[0]]",
    "texts": "['The drums are heard at dusk.']",
    "a text": "'questions.jsonl'",
    "a path": "pathlib.Path('questions.jsonl')",
    "pandas": "pandas.DataFrame(rows)",
    "polars": "polars.DataFrame(rows)",
    "datasets": "datasets.Dataset.from_list(rows)",
    "splits": "datasets.DatasetDict({'train': datasets.Dataset.from_list(rows)})",
    "groups": "{'north': examples}",
    "one": "examples[0]",
    "generator": "(example for example in examples)",
    "array": "numpy.array(['a'])",
    "none": "None",
}
ROW = "[Example(row['id'], row['group'], row['question'], tuple(row['choices']), row['answer']) for row in {}]."
TEXT = "Make one of each text: [Example.passage(id, group, text)], recorded with readout='none' and only_correct=False."
LIST = "Examples must be a list, and {} was given. "
SAID = {
    "dicts": "Item 0 of the examples is a dict, and each must be an Example. Make one of each row: " + ROW.format("rows"),
    "one dict among examples": "Item 2 of the examples is a dict, and each must be an Example. Make one of each row: "
    + ROW.format("rows"),
    "texts": f"Item 0 of the examples is the text 'The drums are heard at dusk.', and each must be an Example. {TEXT}",
    "a text": LIST.format("the text 'questions.jsonl'")
    + f"Questions in a file: gatescope.data.jsonl(path), and one of its halves, such as .evaluation. {TEXT}",
    "a path": LIST.format("a Path ('questions.jsonl')")
    + f"Questions in a file: gatescope.data.jsonl(path), and one of its halves, such as .evaluation. {TEXT}",
    "pandas": LIST.format("a DataFrame (pandas)") + "Make one of each row: " + ROW.format("frame.to_dict('records')"),
    "polars": LIST.format("a DataFrame (polars)") + "Make one of each row: " + ROW.format("frame.to_dicts()"),
    "datasets": LIST.format("a Dataset (datasets)") + "Make one of each row: " + ROW.format("dataset"),
    "splits": LIST.format("a DatasetDict (datasets)") + "Give one list; each Example says its own group.",
    "groups": LIST.format("a dict") + "Give one list; each Example says its own group.",
    "one": LIST.format("an Example") + "Put it in a list: [example].",
    "generator": LIST.format("a generator") + "Give list(...) of its Examples.",
    "array": LIST.format("a ndarray (numpy)") + "Give list(...) of its Examples.",
    "none": LIST.format("None") + "Each is a gatescope.data.Example.",
}
CODE = """
import json, pathlib, sys
import datasets, numpy, pandas, polars
import gatescope as gs
model = gs.load_model(sys.argv[1])
rows = [{"id": str(i), "group": "north", "question": "Which?", "choices": ["a", "b"], "answer": "a"} for i in range(2)]
examples = [gs.data.Example(row["id"], row["group"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows]
said = {}
def tried(name, call, *given):
    try:
        call(model, *given)
        said[name] = "nothing"
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
for name, text in json.loads(sys.argv[2]).items():
    for call in (gs.record, gs.attribute, gs.sweep, gs.mean_activation):
        tried(f"{call.__name__} of {name}", call, eval(text), *([{}] if call is gs.sweep else []))
tried("perplexity of a text", gs.perplexity, "The drums", {})
tried("perplexity of examples", gs.perplexity, examples, {})
frame, dataset = pandas.DataFrame(rows), datasets.Dataset.from_list(rows)
Example = gs.data.Example
sources = {"pandas": "frame.to_dict('records')", "polars": "polars.DataFrame(rows).to_dicts()", "datasets": "dataset"}
for name, source in sources.items():
    said["made from " + name] = str(eval(sys.argv[3].format(source)) == examples)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(llama_path):
    """By step and by what it was given; in a process of its own, without the type checker the tests have."""
    done = python(CODE, str(llama_path), json.dumps(GIVEN), ROW.removesuffix("."))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", ["record", "attribute", "sweep", "mean_activation"])
@pytest.mark.parametrize("name", GIVEN)
def test_what_is_no_list_of_examples_is_named_with_what_to_make_of_it(said, step, name):
    assert said[f"{step} of {name}"] == f"GatescopeError: {SAID[name]}"


@pytest.mark.parametrize("source", ["pandas", "polars", "datasets"])
def test_the_line_a_message_gives_makes_examples_of_rows(said, source):
    assert said[f"made from {source}"] == "True"


def test_perplexity_of_one_text_or_of_examples_is_refused(said):
    assert said["perplexity of a text"].startswith("GatescopeError: texts must be a list of strings; one string was given.")
    assert said["perplexity of examples"].startswith(
        "GatescopeError: texts must be a list of strings; a list of something else"
    )
