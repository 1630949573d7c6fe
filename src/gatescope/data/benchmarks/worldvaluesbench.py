"""WorldValuesBench: what most people of a country answered to the questions of the World Values Survey, wave 7.

The answers may not be passed on, so all users make the files for themselves (`HOW`). From them, for every country and
every value question with at least ten answers there, the right answer is the most frequent one (the smallest of equally
frequent ones), on the question's own scale, which may end in 10.

CULNIG identifies on the 40 questions of a country whose answers are furthest from everyone's, and evaluates on the rest:

    KL(country || all) = sum over answers a of  p(a | country) log( p(a | country) / p(a | all) )

where "all" are all participants in the file, those of the country among them. So p(a | all) > 0 wherever
p(a | country) > 0, and nothing needs smoothing; an answer nobody in the country gave adds 0. Of equal distances the
question that comes first goes first, in the order of the questions' numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.countries import chosen_countries, display
from gatescope.data.example import Example, Study
from gatescope.data.prompts import Wording
from gatescope.data.skipped import Skipped
from gatescope.data.source import check_rows, local_file, missing
from gatescope.data.wordings import chosen_wordings, numbered, variant

HOW = (
    "The World Values Survey's answers may not be passed on: fill in the form for the 'WVS Cross-National Wave 7 csv' at "
    "https://www.worldvaluessurvey.org/WVSDocumentationWV7.jsp, run dataset_construction/data_preparation.py of "
    "https://github.com/Demon702/WorldValuesBench on it, and give path= with the directory WorldValuesBench it writes."
)
ROWS = 93_278
FEWEST = 10  # answers to a question in a country
FURTHEST = 40  # questions of a country that are identified on
_SHARED_ID = 858069901  # a D_INTERVIEW of several people; the dataset's own script leaves them out

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class _Question:
    name: str
    text: str
    category: str
    low: int
    high: int


@dataclass(frozen=True)
class _Answered:
    """A question in one country: how often each answer on its scale was given there, and by everyone."""

    question: _Question
    country: Counts
    everyone: Counts


def worldvaluesbench(
    path: str | Path | None = None, *, groups: Iterable[str] | None = None, wordings: Sequence[int | Wording] | None = None
) -> Study:
    """Load WorldValuesBench from the files its own script wrote (CULNIG, section 4.1 and Table 7).

    Args:
        path: the directory with `question_metadata.json`, `full/full_value_qa.tsv` and `full/full_demographic_qa.tsv`; the
            two tables may also lie beside the first.
        groups: only these countries, by display name, such as ("UK", "Japan"); all that have answers if None.
        wordings: which of the four (two system turns, two instructions), or a Wording of your own; each makes an example of
            every question.

    Raises:
        GatescopeError: if there is no path, a file is missing or cannot be read, a column is missing, or `groups` or
            `wordings` names one it does not have.
    """
    chosen = chosen_wordings("worldvaluesbench", wordings)
    directory = _directory(path)
    questions = _questions(_file(directory, "question_metadata.json"))
    skipped = Skipped("WorldValuesBench")
    surveyed = _surveyed(directory, questions, skipped)
    if not surveyed:
        raise GatescopeError(f"WorldValuesBench: no country in {path} has {FEWEST} answers to a question.")
    countries = chosen_countries("worldvaluesbench", groups, [country for country, _ in surveyed])

    identification: list[Example] = []
    evaluation: list[Example] = []
    for country, answered in surveyed:
        if display("worldvaluesbench", country) not in countries:
            continue
        furthest = _furthest(answered)
        for index, counts in enumerate(answered):
            half = identification if index in furthest else evaluation
            half.extend(_examples(counts, country, chosen))
    notes = {
        "split": f"the {FURTHEST} questions of a country with answers furthest from everyone's (KL) to identify on",
        "questions": f"those with at least {FEWEST} answers in a country",
        "answer": "the most frequent one, the smallest of equally frequent ones",
        "wordings": numbered(chosen),
        **skipped.notes(),
    }
    return Study("worldvaluesbench", identification, evaluation, notes, readout="likert")


def divergence(country: Counts, everyone: Counts) -> float:
    """KL(country || everyone) of two rows of counts, in nats; `everyone` has the country's answers among them.

    >>> round(divergence(np.array([2, 0]), np.array([5, 5])), 4)  # 1 log(1 / 0.5)
    0.6931
    """
    # 0 log 0 is 0: an answer nobody in the country gave adds nothing.
    given = country > 0
    p, q = country[given] / country.sum(), everyone[given] / everyone.sum()
    return float((p * np.log(p / q)).sum())


def _directory(path: str | Path | None) -> Path:
    if path is None:
        raise GatescopeError(f"WorldValuesBench: path= is needed. {HOW}")
    if not Path(path).is_dir():
        raise GatescopeError(f"WorldValuesBench: {path} is not a directory. {HOW}")
    return Path(path)


def _furthest(answered: Sequence[_Answered]) -> set[int]:
    """Which of a country's questions have the answers furthest from everyone's."""
    distances = [divergence(counts.country, counts.everyone) for counts in answered]
    # Stable: of equal distances the question that comes first goes first.
    order = np.argsort(-np.array(distances), kind="stable")
    return set(order[:FURTHEST].tolist())


def _examples(answered: _Answered, country: str, chosen: Sequence[tuple[int, Wording]]) -> list[Example]:
    """The question once for each wording."""
    question, counts = answered.question, answered.country
    scale = tuple(str(answer) for answer in range(question.low, question.high + 1))
    group = display("worldvaluesbench", country)
    item = f"{group}/{question.name}"
    facts = {"country": country, "question": question.name, "category": question.category, "answers": str(counts.sum())}
    return [
        Example(
            id=variant(item, number),
            group=group,
            question=question.text.strip(),
            choices=scale,
            answer=scale[int(counts.argmax())],  # the first of equal counts is the smallest answer
            labels=scale,
            item=item,
            facts=facts,
            **wording.fill(question=question.text, min_option=question.low, max_option=question.high, country=country),
        )
        for number, wording in chosen
    ]


def _questions(file: Path) -> list[_Question]:
    """The value questions, in the order of their numbers: Q2, Q10, Q234, Q234A."""
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        values = {name: about for name, about in metadata.items() if about["use_case"] == "value"}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise GatescopeError(f"WorldValuesBench: {file} cannot be read: {type(error).__name__}: {error}. {HOW}") from error
    return [_question(file, name, values[name]) for name in sorted(values, key=_number)]


def _question(file: Path, name: str, about: Mapping[str, Any]) -> _Question:
    try:
        low, high = about["answer_scale_min"], about["answer_scale_max"]
        if isinstance(low, int) and isinstance(high, int) and 0 <= low < high:
            return _Question(name, about["question"], about["category"], low, high)
        problem = f"has the scale {low!r} to {high!r}; two numbers are needed, the first the smaller"
    except KeyError as error:
        problem = f"has no {error}; the fields found are {list(about)}"
    raise GatescopeError(f"WorldValuesBench: {name} of {file.name} {problem}.")


def _number(name: str) -> tuple[int, str]:
    number = re.search(r"\d+", name)
    return (int(number[0]) if number else 0, name)


def _surveyed(path: Path, questions: Sequence[_Question], skipped: Skipped) -> list[tuple[str, list[_Answered]]]:
    """Every country that has questions with enough answers, each with those questions."""
    countries, counts = _counted(path, questions, skipped)
    surveyed: list[tuple[str, list[_Answered]]] = []
    for index, country in enumerate(countries):
        answered = [
            _Answered(question, counted[index], counted.sum(0))
            for question, counted in zip(questions, counts, strict=True)
            if counted[index].sum() >= FEWEST
        ]
        if answered:
            surveyed.append((country, answered))
    return surveyed


def _counted(path: Path, questions: Sequence[_Question], skipped: Skipped) -> tuple[list[str], list[Counts]]:
    """The countries, and for every question how often each of its answers was given: [countries + 1, answers].

    The last row is of participants whose country is not known: they belong to everyone, and to no group.
    """
    people = _interviews(path, "full_demographic_qa.tsv", ["B_COUNTRY"])
    answers = _interviews(path, "full_value_qa.tsv", [question.name for question in questions])
    check_rows("WorldValuesBench", len(answers), ROWS)
    # An empty table has columns of no type at all; that no country has answers is said later.
    if len(answers) and (wrong := list(answers.select_dtypes(exclude="number").columns)):
        raise GatescopeError(
            f"WorldValuesBench: the column {wrong[0]!r} of full_value_qa.tsv has answers that are not numbers."
        )
    # Joined by interview: the two tables are not in the same order.
    home = people.set_index("D_INTERVIEW")["B_COUNTRY"].reindex(answers["D_INTERVIEW"])
    codes, countries = home.factorize(sort=True)
    # factorize gives -1 where the country is not known; a histogram needs a row for those.
    codes = np.where(codes < 0, len(countries), codes)
    counts = [
        _histogram(question, answers[question.name].to_numpy(float), codes, len(countries) + 1, skipped)
        for question in questions
    ]
    return [str(country).strip() for country in countries], counts


def _interviews(path: Path, name: str, columns: Sequence[str]) -> Any:  # a DataFrame
    """Some columns of one of the two tables, a row for each participant."""
    table = _table(_file(path, f"full/{name}", name), ["D_INTERVIEW", *columns])
    table = table[table["D_INTERVIEW"] != _SHARED_ID]
    repeated = table["D_INTERVIEW"].duplicated()
    if repeated.any():
        raise GatescopeError(
            f"WorldValuesBench: D_INTERVIEW {table['D_INTERVIEW'][repeated].iloc[0]} appears twice in a table."
        )
    return table


def _histogram(
    question: _Question, answers: NDArray[np.float64], codes: NDArray[np.int64], countries: int, skipped: Skipped
) -> Counts:
    """How often each answer was given in each country; NaN is no answer."""
    width = question.high - question.low + 1
    offset = answers - question.low
    given = ~np.isnan(answers)
    on_scale = given & (offset >= 0) & (offset < width) & (offset == np.floor(offset))
    if off_scale := int((given & ~on_scale).sum()):
        skipped.add(f"{off_scale} of {question.name}", f"answers off the scale {question.low} to {question.high}")
    # Country and answer as one number, so that a single count does for all countries.
    cells = codes[on_scale] * width + offset[on_scale].astype(np.int64)
    return np.bincount(cells, minlength=countries * width).reshape(countries, width)


def _table(file: Path, columns: list[str]) -> Any:  # a DataFrame; pandas is imported only where it is used
    import pandas as pd

    try:
        # The header first, for a message that names the columns; pandas' own lists all that are missing in one long line.
        header = list(pd.read_csv(file, sep="\t", nrows=0).columns)
        absent = missing(columns, header)
        if not absent:
            return pd.read_csv(file, sep="\t", usecols=columns, low_memory=False)
    except (OSError, ValueError) as error:
        raise GatescopeError(f"WorldValuesBench: {file} cannot be read: {type(error).__name__}: {error}.") from error
    shown = f"{header[:10]}" + (f" and {len(header) - 10} more" if len(header) > 10 else "")
    raise GatescopeError(f"WorldValuesBench: {file.name} has no column {absent}; it has {shown}.")


def _file(path: str | Path, *names: str) -> Path:
    patterns = [pattern for name in names for pattern in (name, f"WorldValuesBench/{name}")]
    try:
        return local_file(path, *patterns, what="WorldValuesBench")
    except GatescopeError as error:
        raise GatescopeError(f"{error} {HOW}") from error


CARD = Card(
    "worldvaluesbench",
    worldvaluesbench,
    "Questions on values with a scale of answers; the right one is what most participants of a country said.",
    "World Values Survey terms: not to be passed on; every user fetches it (a form)",
    "239 questions, about 64 countries, 93,278 participants, 4 wordings of each",
    'by a number on a scale, 1 to 10 the longest, scored by distance; readout="likert"',
    "https://github.com/Demon702/WorldValuesBench",
    "CULNIG: evaluation (score_c, equation 11)",
)
