"""BLEnD's short-answer questions: the question alone, in the country's language or in English, and what people answered.

The answers are in files only: recent `datasets` cannot read the `annotations` configuration on the hub, since its `idks`
have keys that participants made up. As CULNIG does (its appendix on BLEnD SAQs), every answer that someone gave is right,
questions that no one answered are skipped, and each question gets one of the country's instructions; which one depends on
a hash of its id, where CULNIG draws at random. BLEnD itself also skips questions that many people could not answer.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.benchmarks.blend import COUNTRIES, EVALUATION, SPLIT_NOTE, topics
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.prompts import SHORT_ANSWER
from gatescope.data.skipped import Skipped
from gatescope.data.source import local_file, missing
from gatescope.data.split import chosen_groups, shuffled

LANGUAGES = {
    "US": "en", "UK": "en", "South_Korea": "ko", "Algeria": "ar", "Indonesia": "id", "Spain": "es", "Iran": "fa",
    "Mexico": "es", "Assam": "as", "Greece": "el", "Ethiopia": "am", "Northern_Nigeria": "ha", "North_Korea": "ko",
    "West_Java": "su", "China": "zh", "Azerbaijan": "az",
}  # fmt: skip
_HOME = "https://github.com/nlee0212/BLEnD"


# What the files call the question, its answers and the instruction, in either language.
_NATIVE = ("question", "answers", "Translation")
_ENGLISH = ("en_question", "en_answers", "English")


def blend_short(
    path: str | Path | None = None,
    *,
    groups: Iterable[str] | None = None,
    language: str = "native",
    seed: int = 0,
    revision: str | None = None,
) -> Study:
    """Load BLEnD's short-answer questions, with the accepted answers, those of most people first.

    Args:
        path: a copy of the GitHub repository, or of its `data`: `annotations/Spain_data.json`,
            `questions/US_questions.csv` for the topics of all countries, and `prompts/Spain_prompts.csv`; for a country
            without the last, the instruction is ours.
        groups: only these countries, by CULNIG's names, such as ("USA", "Nigeria").
        language: questions, instructions and answers in the "native" language, or in "english".
        seed: of the choice of instructions.
        revision: none can be chosen: the files are those under `path`.

    Raises:
        GatescopeError: without `path` or with `revision`; if a file is missing or cannot be read, a field or column is
            missing, no instruction has a place for the question, or `groups` names a country it does not have.

    Warns:
        UserWarning: for questions that are skipped.
    """
    one_of("language", language, ("native", "english"))
    names = chosen_groups("blend_short", groups, COUNTRIES.values())
    countries = [country for country, group in COUNTRIES.items() if group in names]
    root = _copy(path, revision)
    topic_of = topics(root)
    skipped = Skipped("blend_short")
    identification: list[Example] = []
    evaluation: list[Example] = []
    for country in countries:
        for example in _examples(root, country, language, topic_of, skipped, seed):
            (evaluation if example.facts["topic"] in EVALUATION else identification).append(example)
    instructions = f"one of the country's by a hash of the id, seed {seed}"
    if ours := [COUNTRIES[country] for country in countries if _prompts_file(root, country) is None]:
        instructions += f"; no prompts file, and so ours, for {', '.join(ours)}"
    notes = {"split": SPLIT_NOTE, "language": language, "instructions": instructions, **skipped.notes()}
    return Study("blend_short", identification, evaluation, notes, readout="short")


def _examples(
    root: Path, country: str, language: str, topic_of: Mapping[str, str], skipped: Skipped, seed: int
) -> Iterator[Example]:
    """A country's questions, but for those without a topic or an answer."""
    # Where English is the language of the place, `question` has the better text: "in the US", not "in US".
    native = language == "native" or LANGUAGES[country] == "en"
    question_field, answers_field, instruction_column = _NATIVE if native else _ENGLISH
    templates = _templates(root, country, instruction_column, skipped)
    for key, entry in _annotations(root, country).items():
        key = key.strip()
        id = f"{key}/{country}"
        references = _references(entry["annotations"], answers_field, id)
        if key not in topic_of:
            skipped.add(id, "the table of questions has no topic for it")
            continue
        if not references:
            skipped.add(id, "no answer to it was annotated")
            continue
        instruction, prompt = _prompt(entry[question_field], templates, id, seed)
        yield Example(
            id=id,
            group=COUNTRIES[country],
            question=entry[question_field].strip(),
            choices=(),
            answer=references[0],
            prompt=prompt,
            references=references,
            facts={
                "language": LANGUAGES[country] if native else "en",
                "topic": topic_of[key],
                "country": COUNTRIES[country],
                "question id": key,
                "instruction": instruction,
            },
        )


def _prompt(question: str, templates: Sequence[tuple[str, str]], id: str, seed: int) -> tuple[str, str]:
    """The name of the instruction that a question gets, and its prompt."""
    if not templates:
        return "ours", SHORT_ANSWER.fill(question=question)["prompt"]
    # By the id's hash: a question keeps its instruction whichever others are loaded.
    name, template = shuffled(templates, "blend_short", seed, id)[0]
    return name, template.replace("{q}", question)


def _copy(path: str | Path | None, revision: str | None) -> Path:
    if path is None:
        raise GatescopeError(
            "blend_short needs path=: the answers on the hub (configuration 'annotations') cannot be read by recent versions "
            f"of `datasets`, whose tables have fixed keys. Copy {_HOME} and give its directory."
        )
    if revision is not None:
        raise GatescopeError(
            f"blend_short reads the files under path= as they are; revision={revision!r} cannot be chosen. Check out that "
            f"commit."
        )
    if not Path(path).is_dir():
        raise GatescopeError(f"blend_short: path={str(path)!r} is not a directory; give a copy of {_HOME}, or of its `data`.")
    return Path(path)


def _annotations(root: Path, country: str) -> dict[str, dict[str, Any]]:
    """What was asked and answered in a country, by question; each has every field that is used."""
    file = local_file(
        root, f"data/annotations/{country}_data.json", f"**/{country}_data.json", what=f"blend_short, {COUNTRIES[country]}"
    )
    try:
        entries: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise GatescopeError(f"blend_short: {file} is not JSON: {error}.") from error
    # Something else than an object is refused like a question without fields.
    for key, entry in entries.items() if isinstance(entries, dict) else [("", entries)]:
        fields = sorted(entry) if isinstance(entry, dict) else []
        if absent := missing(("question", "en_question", "annotations"), fields):
            raise GatescopeError(
                f"blend_short: question {key!r} of {file} has no {absent}; the fields found are {fields}. "
                f"Other commits of the repository have other names for them."
            )
    return entries


def _references(annotations: list[dict[str, Any]], field: str, id: str) -> tuple[str, ...]:
    """Every answer that someone gave, once, those of most people first."""
    try:
        answered = [group for group in annotations if group["count"] >= 1]
        answered.sort(key=lambda group: -group["count"])
        answers = [answer.strip() for group in answered for answer in group[field]]
        return tuple(dict.fromkeys(filter(None, answers)))
    except (KeyError, TypeError, AttributeError) as error:
        raise GatescopeError(
            f"blend_short: the annotations of {id!r} must each have a count and a list of {field}; they are {annotations}."
        ) from error


def _templates(root: Path, country: str, column: str, skipped: Skipped) -> list[tuple[str, str]]:
    """The instructions of a country with their ids; none if it has no file."""
    file = _prompts_file(root, country)
    if file is None:
        return []
    rows = _csv_rows(file, ("id", column))
    usable: list[tuple[str, str]] = []
    for row in rows:
        if "{q}" in (row[column] or ""):
            usable.append((row["id"], row[column]))
        else:
            skipped.add(f"{country} {row['id']}", "the instruction has no place {q} for the question")
    if not usable:
        raise GatescopeError(f"blend_short: no instruction in column {column!r} of {file} has a place {{q}} for the question.")
    return usable


def _csv_rows(file: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    # utf-8-sig: with or without a byte order mark.
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))
    columns = list(rows[0]) if rows else []
    if absent := missing(needed, columns):
        raise GatescopeError(f"blend_short: {file} has no column {absent}; those found are {columns}.")
    return rows


def _prompts_file(root: Path, country: str) -> Path | None:
    return min(root.glob(f"**/{country}_prompts.csv"), default=None)


CARD = Card(
    "blend_short",
    blend_short,
    "BLEnD's questions without options, in the language of the country or in English, with what people answered.",
    "CC-BY-SA-4.0 on the hub; the repository has no licence file",
    "500 questions for each of 16 countries, 13 languages; 5 to 41 a country have no answer",
    'by text; read by gatescope.traces.readouts.short (whole words, lemmatised); readout="short"',
    _HOME,
    "CULNIG: evaluation on the topics Education, Family, Holidays/Celebration/Leisure",
)
