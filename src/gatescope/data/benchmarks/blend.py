"""BLEnD: everyday questions asked of 16 countries, four options each, and the same without the question (CULNIG's control).

A question (`ID`) has up to several hundred rows a country that differ in the wrong options only. CULNIG keeps five of
each, in its code the first five in the file, and splits by topic: Food, Work life and Sport to identify on, Education,
Family and Holidays/Celebration/Leisure to evaluate on (12,701 and 10,331 rows, its section 3.3). A row has no topic; that
is in the table of short-answer questions. The control is CULNIG's prompt of the instruction and a row's options.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.countries import SPELLINGS
from gatescope.data.example import Example, Study
from gatescope.data.prompts import BLEND_CONTROL, BLEND_PREFIX
from gatescope.data.skipped import Skipped
from gatescope.data.source import Row, Source, Table, local_file, open_table
from gatescope.data.split import chosen_groups

SOURCE = Source(
    "blend",
    "nayeon212/BLEnD",
    "test",
    ("MCQID", "ID", "country", "prompt", "choices", "choice_countries", "answer_idx"),
    (
        "**/mc_questions_file_v1.1.json",
        "**/v1.1/mc_questions_file*.csv",
        "**/mc_questions_file*.json",
        "**/mc_questions_file*.csv",
        "**/multiple-choice-questions/test-*.parquet",
    ),
    config="multiple-choice-questions",
    rows=305_939,
)
TOPICS = Source(
    "blend's short-answer questions",
    "nayeon212/BLEnD",
    "US",
    ("ID", "Topic"),
    (
        "**/US_questions.csv",
        "**/US_questions.json",
        "**/questions_hf/US*.json",
        "**/short-answer-questions/US-*.parquet",
    ),
    config="short-answer-questions",
    rows=500,
)
COUNTRIES = {spelling: name for name, spelling in SPELLINGS["blend"].items()}
IDENTIFICATION = ("Food", "Work life", "Sport")
EVALUATION = ("Education", "Family", "Holidays/Celebration/Leisure")
SPLIT_NOTE = f"by topic: {', '.join(IDENTIFICATION)} to identify on; {', '.join(EVALUATION)} to evaluate on"
_INSTRUCTION = "Without any explanation, choose only one from the given alphabet choices"


def blend(
    path: str | Path | None = None, *, groups: Iterable[str] | None = None, cap: int = 5, revision: str | None = None
) -> Study:
    """Load BLEnD's multiple-choice questions (CULNIG, section 3.3).

    A row is an example with the id of its `MCQID`; its `item` is empty, since CULNIG divides by the number of those ids.
    The question it is a variant of is in its facts. A row that is skipped is not replaced by a sixth one.

    Args:
        path: a local copy: a directory with the table and that of the short-answer questions, or the table's file with
            the other beside it; the hub if None.
        groups: only these countries, by CULNIG's names, such as ("USA", "Nigeria").
        cap: how many rows of one question and country, the first in the file.
        revision: a commit; the one that holds these rows is not known, so the newest is taken, and its rows are counted.

    Raises:
        GatescopeError: if it cannot be read, a column is missing, an `MCQID` is repeated, a country or topic is unknown,
            `choices` is not JSON, the answer is not one of its letters, the prompt lacks the known instruction, `cap` is
            below 1, or `groups` names a country it does not have.

    Warns:
        UserWarning: for a number of rows that was not published, and for rows that are skipped.
    """
    return _load("blend", path, groups, cap, revision, control=False)


def blend_control(
    path: str | Path | None = None, *, groups: Iterable[str] | None = None, cap: int = 5, revision: str | None = None
) -> Study:
    """Load the same rows without their questions: the instruction, the options, and "Answer:" (CULNIG, Table 4, its code).

    The ids are those of `blend`, so that the two pair; arguments, errors and warnings are too.
    """
    return _load("blend_control", path, groups, cap, revision, control=True)


def topics(path: str | Path | None = None, *, revision: str | None = None) -> dict[str, str]:
    """The topic of every question, by its `ID`; one country's table is enough, since all have the same questions.

    Raises:
        GatescopeError: if the table cannot be read, or a topic is not one of the six.
    """
    if path is not None:
        # A path to the one table: the other lies beside it.
        root = Path(path)
        path = local_file(root.parent if root.is_file() else root, *TOPICS.files, what=TOPICS.name)
    table = open_table(TOPICS, path, revision=revision)[:]
    by_question = {_clean(key): _clean(topic) for key, topic in zip(table["ID"], table["Topic"], strict=True)}
    for key, topic in by_question.items():
        if topic not in IDENTIFICATION + EVALUATION:
            known = ", ".join(map(repr, IDENTIFICATION + EVALUATION))
            raise GatescopeError(f"{TOPICS.name}: question {key!r} has the Topic {topic!r}; it must be one of {known}.")
    return by_question


def country_name(published: str, row: str) -> str:
    """CULNIG's name of a country.

    Raises:
        GatescopeError: if it is not one of the 16.

    >>> country_name(" Northern_Nigeria", "row 1"), country_name("South Korea", "row 2")
    ('Nigeria', 'South Korea')
    """
    # Published both with spaces and with underscores.
    key = "_".join(_clean(published).split())
    if key not in COUNTRIES:
        raise GatescopeError(f"blend: question {row!r} has the country {published!r}; known are {', '.join(COUNTRIES)}.")
    return COUNTRIES[key]


def _load(
    name: str, path: str | Path | None, groups: Iterable[str] | None, cap: int, revision: str | None, *, control: bool
) -> Study:
    if cap < 1:
        raise GatescopeError(f"{name}: cap is {cap}; at least one row of each question and country is needed.")
    countries = chosen_groups(name, groups, COUNTRIES.values())
    table = open_table(SOURCE, path, revision=revision)
    topic_of = topics(path, revision=revision)
    skipped = Skipped(name)
    identification: list[Example] = []
    evaluation: list[Example] = []
    for row in table.select(_first(table, countries, cap)):
        topic = topic_of.get(_clean(row["ID"]))
        if topic is None:
            skipped.add(row["MCQID"], "the table of short-answer questions has no topic for the question")
            continue
        example = _example(row, topic, skipped, control=control)
        if example is not None:
            (evaluation if topic in EVALUATION else identification).append(example)
    notes = {
        "split": SPLIT_NOTE,
        "rows": f"the first {cap} of every question and country, of {len(table)}",
        **skipped.notes(),
    }
    return Study(name, identification, evaluation, notes, readout="label")


def _first(table: Table, countries: frozenset[str], cap: int) -> list[int]:
    """The indices of the first `cap` rows of every question and wanted country, in the order of the file.

    Only three columns are read: most rows are over the cap, and their prompts are never looked at.
    """
    columns = table.select_columns(["MCQID", "ID", "country"])[:]
    indices: list[int] = []
    ids: set[str] = set()
    counts: Counter[tuple[str, str]] = Counter()
    for index, (id, key, country) in enumerate(zip(columns["MCQID"], columns["ID"], columns["country"], strict=True)):
        if id in ids:
            raise GatescopeError(f"blend: MCQID {id!r} appears twice; two versions of the table may have been put together.")
        ids.add(id)
        group = country_name(country, id)
        counts[group, key] += 1
        if group in countries and counts[group, key] <= cap:
            indices.append(index)
    return indices


def _example(row: Row, topic: str, skipped: Skipped, *, control: bool) -> Example | None:
    """The example of a row; None, and counted, if its options are indistinguishable."""
    published = _letters(row, "choices")
    letter = _clean(row["answer_idx"])
    if letter not in published:
        raise GatescopeError(
            f"blend: question {row['MCQID']!r} has the answer_idx {row['answer_idx']!r}; its choices are "
            f"{', '.join(published)}."
        )
    question = _question(row)
    group = country_name(row["country"], row["MCQID"])
    facts = _facts(row) | {"topic": topic}
    choices = tuple(choice.strip() for choice in published.values())
    if skipped.indistinct(row["MCQID"], choices):
        return None
    labels = tuple(published)
    # The control shows the options as published, their white space included, as CULNIG's code does.
    prompt = BLEND_CONTROL.fill(tuple(published.values()), labels)["prompt"] if control else row["prompt"]
    return Example(
        id=row["MCQID"],
        group=group,
        question="" if control else question,
        choices=choices,
        answer=published[letter].strip(),
        labels=labels,
        prompt=prompt,
        prefix=BLEND_PREFIX,
        facts=facts,
    )


def _question(row: Row) -> str:
    """The question alone: what stands in the prompt before the instruction."""
    question, instruction, _ = (row["prompt"] or "").partition(_INSTRUCTION)
    if not instruction:
        raise GatescopeError(
            f"blend: the prompt of question {row['MCQID']!r} has no {_INSTRUCTION!r}, where its question would end."
        )
    return question.strip()


def _facts(row: Row) -> dict[str, str]:
    """The question a row is a variant of, and whose answer each of its options is ("dummy": no country's)."""
    origins: list[str] = []
    for letter, country in _letters(row, "choice_countries").items():
        spelling = country.strip()
        origins.append(f"{letter}: {COUNTRIES.get(spelling, spelling)}")
    return {"question id": _clean(row["ID"]), "options from": ", ".join(origins)}


def _letters(row: Row, column: str) -> dict[str, str]:
    """A column that holds a JSON object from letters to texts, verbatim, in the order of the letters."""
    try:
        by_letter = json.loads(row[column])
        if not all(isinstance(text, str) for text in by_letter.values()):
            raise TypeError("an option is not a string")
        # Sorted: JSON promises no order, and labels and choices are paired by position.
        return {letter: by_letter[letter] for letter in sorted(by_letter)}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # not JSON; not a string; not an object of strings
        raise GatescopeError(
            f"blend: {column} of question {row['MCQID']!r} is {row[column]!r}; it must be a string of JSON such as "
            f'\'{{"A": "rice", "B": "soup"}}\'.'
        ) from error


def _clean(text: str | None) -> str:
    return (text or "").strip()


_LICENCE, _HOME = "CC-BY-SA-4.0", "https://huggingface.co/datasets/nayeon212/BLEnD"
_SIZE = "305,939 rows, 16 countries; 12,701 and 10,331 with at most five of a question and country"
_ANSWERED = f'by a letter, A to D, after {BLEND_PREFIX}; readout="label"'
CARD = Card(
    "blend",
    blend,
    "Questions on everyday life in 16 countries, in English, four options each.",
    _LICENCE,
    _SIZE,
    _ANSWERED,
    _HOME,
    "CULNIG: identification (Food, Work life, Sport) and evaluation (the other three topics)",
)
CONTROL_CARD = Card(
    "blend_control",
    blend_control,
    "BLEnD's options and instruction without its questions.",
    _LICENCE,
    _SIZE,
    _ANSWERED,
    _HOME,
    "CULNIG: its scores are subtracted from those of blend",
)
