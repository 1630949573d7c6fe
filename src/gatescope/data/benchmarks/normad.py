"""NormAd: short stories, and whether what is done in them is acceptable in a country; CULNIG evaluates on it.

An answer is yes, no or neutral (the story has nothing to do with the norm it was written for; the country of such a row
is not always the story's own). The three are shown as digits, in the order CULNIG's code draws for the row and the
wording; the prompt names the country as the dataset spells it, as there. Later revisions were seen with 2,615 rows, so
the one of the paper's time is pinned.
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
from gatescope.data.source import Source, open_table
from gatescope.data.wordings import chosen_wordings, drawn, numbered, variant

ANSWERS = ("yes", "no", "neutral")
SOURCE = Source(
    "NormAd",
    "akhilayerukola/NormAd",
    "train",
    ("ID", "Country", "Axis", "Subaxis", "Story", "Gold Label"),
    ("normad_etiquette_final_data.csv", "*.csv"),
    revision="0ea94a1eb4a9c9495cd7c3248a6e8dd9a307feb0",
    rows=2_633,
    options={"keep_default_na": False},  # nothing is read as missing
)


def normad(
    path: str | Path | None = None,
    *,
    groups: Iterable[str] | None = None,
    wordings: Sequence[int | Wording] | None = None,
    revision: str | None = None,
) -> Study:
    """Load NormAd (CULNIG, section 4.1 and Table 6); all of it is for evaluation.

    Args:
        path: a local copy of the csv file, or its directory; the hub if None.
        groups: only these countries, by display name, such as `countries.TARGETS`, the 14 of CULNIG; all 75 if None.
        wordings: which of the four instructions, or a Wording of your own; each makes an example of every story.
        revision: another commit than the pinned one.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, a `Gold Label` is not yes, no or neutral, or `groups` or
            `wordings` names one it does not have.
    """
    chosen = chosen_wordings("normad", wordings)
    table = open_table(SOURCE, path, revision=revision)
    countries = chosen_countries("normad", groups, table["Country"])
    skipped = Skipped("NormAd")
    examples: list[Example] = []
    for row in table:
        item, group = str(row["ID"]), display("normad", row["Country"])
        if group not in countries or skipped.repeated(item, "ID"):
            continue
        gold = str(row["Gold Label"]).strip()
        if gold not in ANSWERS:
            raise GatescopeError(f"NormAd: story {item!r} has the Gold Label {gold!r}; it must be yes, no or neutral.")
        for number, wording in chosen:
            choices = _choices(item, wording)
            example = Example(
                id=variant(item, number),
                group=group,
                question=row["Story"].strip(),
                choices=choices,
                answer=gold,
                labels=wording.labels,
                item=item,
                facts={"country": row["Country"], "axis": str(row["Axis"]), "subaxis": str(row["Subaxis"])},
                # The dataset's spelling in the prompt, though the group has the display name: CULNIG's code does so.
                **wording.fill(choices, country=row["Country"], story=row["Story"]),
            )
            examples.append(example)
    notes = {
        "split": "none: all of it is evaluated",
        "wordings": numbered(chosen),
        "order of options": "as CULNIG's code draws it for the row and the wording",
        "country": "in the prompt as the dataset spells it, as in CULNIG's code",
        **skipped.notes(),
    }
    return Study("normad", [], examples, notes, readout="label")


def _choices(item: str, wording: Wording) -> tuple[str, ...]:
    """The answers in the order of their digits: the first digit drawn stands for yes, the second for no."""
    # Seeded by the wording too, so that what a digit means changes from one to the next.
    digits = [1, 2, 3]
    drawn(item, wording.text).shuffle(digits)
    return tuple(answer for _, answer in sorted(zip(digits, ANSWERS, strict=True)))


CARD = Card(
    "normad",
    normad,
    "Short stories, each to be judged by the etiquette of a country: acceptable, not acceptable, or neither.",
    "CC-BY-4.0",
    "2,633 stories, 75 countries, 4 wordings of each",
    'by a digit, 1 to 3, for yes, no and neutral; readout="label"',
    "https://huggingface.co/datasets/akhilayerukola/NormAd",
    "CULNIG: evaluation",
)
