"""CommonsenseQA: questions that need no culture, five options each; CULNIG evaluates on it for comparison.

The answers of its test split are not published, so it is the validation split that is used, as CULNIG does. `choices` is
a dict of two lists, or, in some copies, a list of dicts; both are read. The options keep their published order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.prompts import LETTERS, Wording
from gatescope.data.skipped import Skipped
from gatescope.data.source import Row, Source, open_table
from gatescope.data.wordings import chosen_wordings, numbered, variant

SOURCE = Source(
    "CommonsenseQA",
    "tau/commonsense_qa",
    "validation",
    ("id", "question", "question_concept", "choices", "answerKey"),
    ("data/validation-*.parquet", "validation-*.parquet"),
    rows=1_221,
)


def commonsenseqa(
    path: str | Path | None = None, *, wordings: Sequence[int | Wording] | None = None, revision: str | None = None
) -> Study:
    """Load the validation split of CommonsenseQA (CULNIG, section 4.1 and Table 9); all of it is for evaluation.

    Args:
        path: a local copy of the split's parquet file, or the directory it lies in; the hub if None.
        wordings: which of the four instructions, or a Wording of your own; each makes an example of every question.
        revision: a commit of the dataset.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, the options are not A to E, an answer is not published
            or is not one of them, or `wordings` names one it does not have.
    """
    chosen = chosen_wordings("commonsenseqa", wordings)
    skipped = Skipped("CommonsenseQA")
    examples: list[Example] = []
    for row in open_table(SOURCE, path, revision=revision):
        options = _options(row["choices"])
        _check(row, options)
        # Stripped to be compared with answers; the prompt shows the options as published.
        choices = tuple(option.strip() for option in options.values())
        if skipped.indistinct(row["id"], choices):
            continue
        for number, wording in chosen:
            example = Example(
                id=variant(row["id"], number),
                group="commonsenseqa",
                question=row["question"].strip(),
                choices=choices,
                answer=options[row["answerKey"]].strip(),
                labels=wording.labels,
                item=row["id"],
                facts={"concept": row["question_concept"]},
                **wording.fill(tuple(options.values()), question=row["question"]),
            )
            examples.append(example)
    notes = {
        "split": "none: all of the validation split is evaluated",
        "wordings": numbered(chosen),
        "order of options": "as published",
        **skipped.notes(),
    }
    return Study("commonsenseqa", [], examples, notes, readout="label")


def _check(row: Row, options: dict[str, str]) -> None:
    # The wordings name A to E in their text; other labels would not be asked for.
    if tuple(options) != LETTERS:
        raise GatescopeError(f"CommonsenseQA: question {row['id']!r} has the options {list(options)}; A to E are needed.")
    if not row["answerKey"]:
        raise GatescopeError(
            f"CommonsenseQA: question {row['id']!r} has no answerKey. The answers of the test split are not published: "
            f"use validation, or a copy of it."
        )
    if row["answerKey"] not in options:
        raise GatescopeError(
            f"CommonsenseQA: question {row['id']!r} has the answerKey {row['answerKey']!r}; it must be one of A to E."
        )


def _options(choices: Any) -> dict[str, str]:
    # `datasets` makes a dict of lists of it; a copy as JSON keeps the list of dicts.
    if isinstance(choices, list):
        return {choice["label"]: choice["text"] for choice in choices}
    return dict(zip(choices["label"], choices["text"], strict=True))


CARD = Card(
    "commonsenseqa",
    commonsenseqa,
    "Questions of common sense, five options each, in English.",
    "MIT",
    "1,221 questions (validation), 4 wordings of each",
    'by a letter, A to E; readout="label"',
    "https://huggingface.co/datasets/tau/commonsense_qa",
    "CULNIG: evaluation, for comparison",
)
