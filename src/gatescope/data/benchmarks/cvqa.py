"""CVQA: questions about pictures from 39 country-language pairs, 25 cultures in the VLM paper's count.

The pairs of India, of Indonesia and of the Spanish-speaking countries are one culture each (IND, IDN, ESP). The paper
cuts every pair in half, floor(n / 2) questions to identify on; its seed is not given, so ours is stated. (Its Table 4
prints 146 for Norway where the totals need 149.) Several questions share a picture, so a split by question shows the
same picture in both halves; `split="image"` does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.card import Card
from gatescope.data.example import Encoded, Example, Study
from gatescope.data.skipped import Skipped
from gatescope.data.source import Row, Source, Table, open_table, spaced
from gatescope.data.split import chosen_groups, halves

_TEXT = (
    "ID", "Subset", "Question", "Translated Question", "Options", "Translated Options", "Label", "Category", "License",
)  # fmt: skip
SOURCE = Source(
    "cvqa",
    "afaji/cvqa",
    "test",
    (*_TEXT, "image"),
    ("data/test-*.parquet", "test-*.parquet", "*.parquet"),
    revision="6a38d71fa391ca7a5e061bbcf48ba714a9a9f4f1",
    rows=10_374,
)
_PAIRS = {
    "BRA": "Portuguese, Brazil", "BGR": "Bulgarian, Bulgaria", "CHN": "Chinese, China", "EGY": "Egyptian Arabic, Egypt",
    "ETA": "Amharic, Ethiopia", "ETO": "Oromo, Ethiopia", "FRA": "Breton, France",
    "IND": "Bengali, India; Hindi, India; Marathi, India; Tamil, India; Telugu, India; Urdu, India",
    "IDN": "Indonesian, Indonesia; Javanese, Indonesia; Minangkabau, Indonesia; Sundanese, Indonesia",
    "IRL": "Irish, Ireland", "JPN": "Japanese, Japan", "KEN": "Swahili, Kenya", "MYS": "Malay, Malaysia",
    "MNG": "Mongolian, Mongolia", "NGA": "Igbo, Nigeria", "NOR": "Norwegian, Norway", "PAK": "Urdu, Pakistan",
    "PHL": "Filipino, Philippines", "ROU": "Romanian, Romania", "RUS": "Russian, Russia", "RWA": "Kinyarwanda, Rwanda",
    "SGP": "Chinese, Singapore", "KOR": "Korean, South Korea",
    "ESP": "Spanish, Argentina; Spanish, Chile; Spanish, Colombia; Spanish, Ecuador; Spanish, Mexico; Spanish, Spain; "
    "Spanish, Uruguay",
    "LKA": "Sinhala, Sri Lanka",
}  # fmt: skip
CULTURES = {pair: culture for culture, pairs in _PAIRS.items() for pair in pairs.split("; ")}


def cvqa(
    path: str | Path | None = None,
    *,
    language: str = "english",
    split: str = "question",
    seed: int = 0,
    groups: Iterable[str] | None = None,
    revision: str | None = None,
) -> Study:
    """Load CVQA (VLM paper, section 4.1 and Table 4).

    Args:
        path: a local copy of the ten parquet files, or one of them; the hub if None.
        language: "english" questions and options, or the "native" ones.
        split: every pair is cut in half by "question", as the paper does, or by "image".
        seed: of the split.
        groups: only these cultures, such as ("JPN", "KOR").
        revision: another commit than the pinned one.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, a `Subset` is not a known pair, a `Label` is out of
            range, or `groups` names a culture it does not have.
    """
    one_of("language", language, ("english", "native"))
    one_of("split", split, ("question", "image"))
    cultures = chosen_groups("cvqa", groups, _PAIRS)
    table = open_table(SOURCE, path, revision=revision)
    from datasets import Image  # imported late: see source.Table

    pictures = table.select_columns(["image"]).cast_column("image", Image(decode=False))
    skipped = Skipped("cvqa")
    examples: list[Example] = []
    for index, row in enumerate(table.select_columns(list(_TEXT))):
        pair = parse_subset(row["Subset"], row["ID"])
        if CULTURES[", ".join(pair)] not in cultures:
            continue
        choices, answer = _options(row, "Translated Options" if language == "english" else "Options")
        if skipped.indistinct(row["ID"], choices):
            continue
        example = Example(
            id=row["ID"],
            group=CULTURES[", ".join(pair)],
            question=row["Translated Question" if language == "english" else "Question"].strip(),
            choices=choices,
            answer=answer,
            image=_picture(pictures, index, row["ID"]),
            facts={"language": pair[0], "country": pair[1], "category": row["Category"], "licence": row["License"]},
        )
        examples.append(example)

    def block(example: Example) -> str:
        # An ID is that of the picture, and the number of the question about it.
        return example.id if split == "question" else example.id.rpartition("_")[0]

    first, second = halves(examples, lambda e: f"{e.facts['language']}, {e.facts['country']}", block, seed)
    notes = {
        "split": f"half of every country-language pair by {split}, seed {seed}",
        "language": language,
        **skipped.notes(),
    }
    return Study("cvqa", first, second, notes)


def _options(row: Row, column: str) -> tuple[tuple[str, ...], str]:
    """The options, and the right one of them."""
    choices = tuple(option.strip() for option in row[column])
    if not 0 <= row["Label"] < len(choices):
        raise GatescopeError(
            f"cvqa: question {row['ID']!r} has Label {row['Label']}; it must be 0 to {len(choices) - 1}. Older revisions "
            f"hide the answers (-1): use revision {SOURCE.revision}, or a copy of it."
        )
    return choices, choices[row["Label"]]


def parse_subset(subset: str, row: str) -> tuple[str, str]:
    """Language and country of a `Subset`, with spaces for underscores.

    Raises:
        GatescopeError: if it is not a pair, or not one that belongs to a culture.

    >>> parse_subset("('Egyptian_Arabic', 'Egypt')", "1_1")
    ('Egyptian Arabic', 'Egypt')
    """
    try:
        # The column holds Python's own print of a pair.
        language, country = ast.literal_eval(subset)
        pair = spaced(language), spaced(country)
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise GatescopeError(
            f"cvqa: question {row!r} has the Subset {subset!r}; it must read like \"('Korean', 'South Korea')\"."
        ) from error
    if ", ".join(pair) not in CULTURES:
        raise GatescopeError(f"cvqa: question {row!r} has the Subset {subset!r}, which is none of the 39 known pairs.")
    return pair


def _picture(pictures: Table, index: int, name: str) -> Encoded:
    """A picture that stays in the table until it is used: all of them, decoded, would fill the memory."""

    def read() -> bytes:
        stored = pictures[index]["image"]
        return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()

    return Encoded(f"of question {name}", read)


CARD = Card(
    "cvqa",
    cvqa,
    "Questions on pictures, four options each, in English and in the language of the place.",
    "of each picture its own (column License); all may be used for research, not all commercially",
    "10,374 questions, 5,239 pictures, 39 country-language pairs, 25 cultures",
    'by the text of an option; readout="generate" (Algorithm 1)',
    "https://huggingface.co/datasets/afaji/cvqa",
    "VLM paper: identification and evaluation",
)
