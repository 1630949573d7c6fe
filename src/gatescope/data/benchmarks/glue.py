"""QNLI and MRPC of GLUE: two tasks of language alone; CULNIG evaluates on them for comparison.

QNLI: does the sentence hold the answer to the question? Its test labels are hidden (-1), so the validation split is used.
MRPC: do two sentences say the same? The labels of its test split are published, and that is what CULNIG uses.
The digits mean what the dataset says: in QNLI 0 is entailment, in MRPC 1 is equivalent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.prompts import Wording
from gatescope.data.source import Source, open_table
from gatescope.data.wordings import chosen_wordings, numbered, variant

QNLI = Source(
    "QNLI",
    "nyu-mll/glue",
    "validation",
    ("question", "sentence", "label", "idx"),
    ("qnli/validation-*.parquet", "validation-*.parquet"),
    config="qnli",
    rows=5_463,
)
MRPC = Source(
    "MRPC",
    "nyu-mll/glue",
    "test",
    ("sentence1", "sentence2", "label", "idx"),
    ("mrpc/test-*.parquet", "test-*.parquet"),
    config="mrpc",
    rows=1_725,
)


def qnli(
    path: str | Path | None = None, *, wordings: Sequence[int | Wording] | None = None, revision: str | None = None
) -> Study:
    """Load the validation split of QNLI (CULNIG, section 4.1 and Table 10); all of it is for evaluation.

    Args:
        path: a local copy of the split's parquet file, or the directory it lies in; the hub if None.
        wordings: which of the four instructions, or a Wording of your own; each makes an example of every pair.
        revision: a commit of the dataset.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, a label is neither 0 nor 1, or `wordings` names one it
            does not have.
    """
    return _pairs(QNLI, ("entailment", "not_entailment"), path, wordings, revision)


def mrpc(
    path: str | Path | None = None, *, wordings: Sequence[int | Wording] | None = None, revision: str | None = None
) -> Study:
    """Load the test split of MRPC (CULNIG, section 4.1 and Table 11); arguments and errors as `qnli`."""
    return _pairs(MRPC, ("not_equivalent", "equivalent"), path, wordings, revision)


def _pairs(
    source: Source,
    choices: tuple[str, str],
    path: str | Path | None,
    wordings: Sequence[int | Wording] | None,
    revision: str | None,
) -> Study:
    name = source.name.lower()
    chosen = chosen_wordings(name, wordings)
    examples: list[Example] = []
    for row in open_table(source, path, revision=revision):
        item, label = str(row["idx"]), int(row["label"])
        # Hidden labels are -1, which would index the last choice.
        if label not in (0, 1):
            raise GatescopeError(
                f"{source.name}: row {item!r} has the label {label}; it must be 0 or 1. Some splits hide their labels (-1): "
                f"use {source.split}, or a copy of it."
            )
        # Named by column, as the fields of the wordings are.
        sentences = {column: row[column] for column in source.columns[:2]}
        for number, wording in chosen:
            # No group but the task itself: there is no culture in it, and nothing is identified on it.
            example = Example(
                id=variant(item, number),
                group=name,
                question="\n".join(sentence.strip() for sentence in sentences.values()),
                choices=choices,
                answer=choices[label],
                labels=wording.labels,
                item=item,
                **wording.fill(choices, **sentences),
            )
            examples.append(example)
    notes = {
        "split": f"none: all of the {source.split} split is evaluated",
        "wordings": numbered(chosen),
    }
    return Study(name, [], examples, notes, readout="label")


QNLI_CARD = Card(
    "qnli",
    qnli,
    "Pairs of a question and a sentence: does the sentence hold the answer?",
    "other (GLUE: each task has its own terms)",
    "5,463 pairs (validation), 4 wordings of each",
    'by a digit, 0 (entailment) or 1 (not_entailment); readout="label"',
    "https://huggingface.co/datasets/nyu-mll/glue",
    "CULNIG: evaluation, for comparison",
)
MRPC_CARD = Card(
    "mrpc",
    mrpc,
    "Pairs of sentences: do they say the same?",
    "other (GLUE: each task has its own terms)",
    "1,725 pairs (test), 4 wordings of each",
    'by a digit, 0 (not_equivalent) or 1 (equivalent); readout="label"',
    "https://huggingface.co/datasets/nyu-mll/glue",
    "CULNIG: evaluation, for comparison",
)
