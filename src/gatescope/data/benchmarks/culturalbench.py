"""CulturalBench-Easy: questions about 45 countries and regions, four options each; CULNIG evaluates on it.

The dataset's default configuration is another one (CulturalBench-Hard: true or false for every option), so ours is always
named. Options are shuffled as CULNIG's code does for question and wording; `shuffle=False` keeps the order of the file. An
option may be the text "None" or "NA": nothing is read as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.countries import chosen_countries, display
from gatescope.data.example import Example, Study
from gatescope.data.prompts import Wording
from gatescope.data.skipped import Skipped
from gatescope.data.source import Row, Source, open_table
from gatescope.data.wordings import chosen_wordings, drawn, numbered, variant

_LETTERS = "ABCD"
_OPTIONS = tuple(f"prompt_option_{letter.lower()}" for letter in _LETTERS)
SOURCE = Source(
    "CulturalBench",
    "kellycyy/CulturalBench",
    "test",
    ("data_idx", "prompt_question", *_OPTIONS, "answer", "country"),
    ("*Easy*.csv", "*easy*.csv", "*.csv"),
    config="CulturalBench-Easy",
    revision="996d62a55f6a49c13596f0a31b772812a1aacd67",
    rows=1_227,
    options={"keep_default_na": False},  # "None" and "NA" are options
)


def culturalbench(
    path: str | Path | None = None,
    *,
    groups: Iterable[str] | None = None,
    wordings: Sequence[int | Wording] | None = None,
    shuffle: bool = True,
    revision: str | None = None,
) -> Study:
    """Load CulturalBench-Easy (CULNIG, section 4.1 and Table 5); all of it is for evaluation.

    Args:
        path: a local copy of the csv file, or its directory; the hub if None.
        groups: only these countries, by display name (`gatescope.data.countries`), such as ("UK", "Japan").
        wordings: which of the four instructions, or a Wording of your own; each makes an example of every question.
        shuffle: put the options in the order of CULNIG's code, which depends on the question and the wording.
        revision: another commit than the pinned one.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, an answer is not A to D, or `groups` or `wordings` names
            one it does not have.
    """
    chosen = chosen_wordings("culturalbench", wordings)
    table = open_table(SOURCE, path, revision=revision)
    countries = chosen_countries("culturalbench", groups, table["country"])
    skipped = Skipped("CulturalBench")
    examples: list[Example] = []
    for row in table:
        item, group = str(row["data_idx"]), display("culturalbench", row["country"])
        if group not in countries or skipped.repeated(item, "data_idx"):
            continue
        options, answer = _options(row)
        if skipped.indistinct(item, options):
            continue
        for number, wording in chosen:
            # A fresh copy: every wording shuffles the published order.
            shown = list(options)
            if shuffle:
                drawn(item, wording.text).shuffle(shown)
            examples.append(_example(row, number, wording, shown, answer))
    notes = {
        "split": "none: all of it is evaluated",
        "wordings": numbered(chosen),
        "order of options": "as CULNIG's code draws it for the question and the wording" if shuffle else "as in the file",
        **skipped.notes(),
    }
    return Study("culturalbench", [], examples, notes, readout="label")


def _example(row: Row, number: int, wording: Wording, shown: Sequence[str], answer: str) -> Example:
    item = str(row["data_idx"])
    return Example(
        id=variant(item, number),
        group=display("culturalbench", row["country"]),
        question=row["prompt_question"].strip(),
        choices=tuple(option.strip() for option in shown),
        answer=answer.strip(),
        labels=wording.labels,
        item=item,
        facts={"country": row["country"]},
        **wording.fill(shown, question=row["prompt_question"]),
    )


def _options(row: Row) -> tuple[list[str], str]:
    """The options as published, their white space included, which the prompt shows; and the right one of them."""
    options = [str(row[column]) for column in _OPTIONS]
    letter = str(row["answer"]).strip()
    if letter not in tuple(_LETTERS):  # a tuple: "AB" is in the string
        raise GatescopeError(
            f"CulturalBench: question {str(row['data_idx'])!r} has the answer {row['answer']!r}; it must be A, B, C or D."
        )
    return options, options[_LETTERS.index(letter)]


CARD = Card(
    "culturalbench",
    culturalbench,
    "Questions about the daily life of 45 countries and regions, four options each, in English (the Easy configuration).",
    "CC-BY-4.0",
    "1,227 questions, 45 countries and regions, 4 wordings of each",
    'by a letter, A to D; readout="label"',
    "https://huggingface.co/datasets/kellycyy/CulturalBench",
    "CULNIG: evaluation",
)
