"""CountryRC: CULNIG's reading comprehension with country names in it, to find neurons that only respond to the name.

A template has {country} in its context, and sometimes {country_dummy}; the right answer is always the country. For every
target country each template is filled: the options are the target and three of the other 15 places of BLEnD, and one of the
wrong ones is the dummy. Places, order and dummy are drawn as CULNIG's code draws them, anew for every wording. The first
half of the templates, in the file's order, is for identification.

On the hub its columns were never seen; they are checked when it is loaded. CULNIG's repository has it as a JSON file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.countries import BLEND, COMMON
from gatescope.data.example import Example, Study
from gatescope.data.prompts import Wording
from gatescope.data.source import Row, Source, open_table
from gatescope.data.split import chosen_groups
from gatescope.data.wordings import chosen_wordings, drawn, numbered, variant

SOURCE = Source(
    "CountryRC",
    "Taise228/CountryRC",
    "train",
    ("id", "context", "question"),
    ("data.json", "data/CountryRC/data.json", "CountryRC/data.json"),
    rows=50,
)


def countryrc(
    path: str | Path | None = None,
    *,
    groups: Iterable[str] | None = None,
    wordings: Sequence[int | Wording] | None = None,
    revision: str | None = None,
) -> Study:
    """Load CountryRC (CULNIG, section 3.3, Appendix A and Table 8).

    Args:
        path: `data.json` of CULNIG's repository, or a directory it lies in; the hub if None.
        groups: the target countries, any of `countries.BLEND`; CULNIG's eight (`countries.COMMON`) if None.
        wordings: which of the four instructions (two with letters, two with digits), or a Wording of your own.
        revision: a commit of the hub's copy.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, a context has no {country}, or `groups` or `wordings`
            names one it does not have.
    """
    chosen = chosen_wordings("countryrc", wordings)
    countries = chosen_groups("CountryRC", COMMON if groups is None else groups, BLEND)
    rows = list(open_table(SOURCE, path, revision=revision))
    for row in rows:
        if "{country}" not in row["context"]:
            raise GatescopeError(
                f"CountryRC: the context of item {row['id']!r} has no {{country}}, so no country is its answer."
            )

    targets = [name for name in BLEND if name in countries]

    def filled(half: Sequence[Row]) -> list[Example]:
        return [_example(row, target, number, wording) for target in targets for row in half for number, wording in chosen]

    # Split by template: a template filled for two countries must not be in both halves.
    middle = len(rows) // 2
    notes = {
        "split": f"the first {middle} items of the file to identify on, the other {len(rows) - middle} to evaluate on",
        "wordings": numbered(chosen),
        "options": "the target and three other places of BLEnD, as CULNIG's code draws them for item, target and wording",
        "order of options": "as CULNIG's code draws it, with them",
    }
    return Study("countryrc", filled(rows[:middle]), filled(rows[middle:]), notes, readout="label")


def _example(row: Row, country: str, number: int, wording: Wording) -> Example:
    item = f"{row['id']}/{country}"
    # One generator for all three draws, in the order of CULNIG's code; otherwise they would not come out as published.
    draw = drawn(row["context"], row["question"], wording.text, country)
    choices = [*draw.sample([name for name in BLEND if name != country], 3), country]
    draw.shuffle(choices)
    dummy = ""
    if "{country_dummy}" in row["context"]:
        dummy = draw.choice([name for name in choices if name != country])
    # str.replace, not format: a context may have other braces, and a placeholder more than once.
    passage = row["context"].replace("{country_dummy}", dummy).replace("{country}", country)
    return Example(
        id=variant(item, number),
        group=country,
        question=row["question"],
        choices=tuple(choices),
        answer=country,
        labels=wording.labels,
        item=item,
        facts={"template": str(row["id"]), "dummy": dummy},
        **wording.fill(choices, passage=passage, question=row["question"]),
    )


CARD = Card(
    "countryrc",
    countryrc,
    "Reading comprehension about any country: the answer is the country's name, and no knowledge of it is needed.",
    "MIT (in CULNIG's repository)",
    "50 templates, 16 places (8 by default), 4 wordings of each",
    'by a letter, A to D, or a digit, 1 to 4; readout="label"',
    "https://github.com/ynklab/CULNIG (data/CountryRC), https://huggingface.co/datasets/Taise228/CountryRC",
    "CULNIG: identification (neurons of a country's name) and evaluation",
)
