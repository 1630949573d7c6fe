"""BLEnD's short-answer questions: the question alone, in the country's language or in English, and what people answered.

The answers are in files only: the `annotations` configuration on the hub cannot be read by recent `datasets`, since its
`idks` have keys of people's own. As CULNIG does (its appendix on BLEnD SAQs), every answer that someone gave is right,
questions no one answered are left out, and each question gets one of the country's instructions; which one depends on a
hash of its id, where CULNIG draws at random. BLEnD itself also leaves out questions that many people could not answer.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from gatescope.core.errors import GatescopeError, one_of
from gatescope.data.benchmarks.blend import COUNTRIES, EVALUATION, SPLIT_NOTE, topics
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.prompts import SHORT_ANSWER
from gatescope.data.source import LeftOut, local_file
from gatescope.data.split import chosen_groups, shuffled

LANGUAGES = {
    "US": "en", "UK": "en", "South_Korea": "ko", "Algeria": "ar", "Indonesia": "id", "Spain": "es", "Iran": "fa",
    "Mexico": "es", "Assam": "as", "Greece": "el", "Ethiopia": "am", "Northern_Nigeria": "ha", "North_Korea": "ko",
    "West_Java": "su", "China": "zh", "Azerbaijan": "az",
}  # fmt: skip
_HOME = "https://github.com/nlee0212/BLEnD"


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
            `questions/US_questions.csv` for the topics of all countries, and `prompts/Spain_prompts.csv`, without which
            the instruction is ours.
        groups: only these countries, by CULNIG's names, such as ("USA", "Nigeria").
        language: questions, instructions and answers in the "native" language, or in "english".
        seed: of the choice of instructions.
        revision: none can be chosen: the files are those under `path`.

    Raises:
        GatescopeError: without `path` or with `revision`, if a file is missing or cannot be read, a field or column is
            missing, no instruction has a place for the question, or `groups` names no country of it.

    Warns:
        UserWarning: for questions left out.
    """
    native = one_of("language", language, ("native", "english")) == "native"
    wanted = chosen_groups("blend_short", groups, COUNTRIES.values())
    root = _copy(path, revision)
    topic, left, ours = topics(root), LeftOut("blend_short"), []
    halves: tuple[list[Example], list[Example]] = ([], [])
    for country, group in COUNTRIES.items():
        if group not in wanted:
            continue
        # Where English is the language of the place, `question` has the better text: "in the US", not "in US".
        own = native or LANGUAGES[country] == "en"
        templates = _templates(root, country, "Translation" if own else "English", left)
        ours += [] if templates else [group]
        for key, asked in _annotations(root, country).items():
            id, key = f"{key.strip()}/{country}", key.strip()
            accepted = _accepted(asked["annotations"], "answers" if own else "en_answers", id)
            if key not in topic:
                left.add(id, "the table of questions has no topic for it")
            elif not accepted:
                left.add(id, "no answer to it was annotated")
            else:
                question = asked["question" if own else "en_question"]
                name, template = shuffled(templates, "blend_short", seed, id)[0] if templates else ("ours", "")
                prompt = template.replace("{q}", question) if template else SHORT_ANSWER.fill(question=question)["prompt"]
                facts = {"language": LANGUAGES[country] if own else "en", "topic": topic[key], "country": group}
                facts |= {"question id": key, "instruction": name}
                example = Example(id, group, question.strip(), (), accepted[0], prompt=prompt, accepted=accepted, facts=facts)
                halves[topic[key] in EVALUATION].append(example)
    notes = {
        "split": SPLIT_NOTE,
        "language": language,
        "instructions": f"one of the country's by a hash of the id, seed {seed}",
    }
    if ours:
        notes["instructions"] += f"; no prompts file, and so ours, for {', '.join(ours)}"
    return Study("blend_short", *halves, notes | left.notes(), readout="short")


def _copy(path: str | Path | None, revision: str | None) -> Path:
    if path is None:
        raise GatescopeError(
            "blend_short needs path=: the answers on the hub (configuration 'annotations') cannot be read by recent versions "
            f"of `datasets`, whose tables have no place for keys of people's own. Copy {_HOME} and give its directory."
        )
    if revision is not None:
        raise GatescopeError(
            f"blend_short reads the files under path=; revision={revision!r} cannot be had from them. Check out that commit."
        )
    if not Path(path).is_dir():
        raise GatescopeError(f"blend_short: path={str(path)!r} is no directory; give a copy of {_HOME}, or of its `data`.")
    return Path(path)


def _annotations(root: Path, country: str) -> dict[str, dict]:
    """What was asked and answered in a country, by question; every field that is used is there."""
    file = local_file(
        root, f"data/annotations/{country}_data.json", f"**/{country}_data.json", what=f"blend_short, {COUNTRIES[country]}"
    )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GatescopeError(f"blend_short: {file} is no JSON: {error}.") from error
    for key, asked in found.items() if isinstance(found, dict) else [("", found)]:
        fields = sorted(asked) if isinstance(asked, dict) else []
        missing = [name for name in ("question", "en_question", "annotations") if name not in fields]
        if missing:
            raise GatescopeError(
                f"blend_short: question {key!r} of {file} has no {', '.join(map(repr, missing))}; the fields found are "
                f"{fields}. Other commits of the repository call them otherwise."
            )
    return found


def _accepted(annotations: list[dict], field: str, id: str) -> tuple[str, ...]:
    """Every answer that someone gave, once, those of most people first."""
    try:
        given = sorted((group for group in annotations if group["count"] >= 1), key=lambda group: -group["count"])
        return tuple(dict.fromkeys(answer.strip() for group in given for answer in group[field] if answer.strip()))
    except (KeyError, TypeError, AttributeError) as error:
        raise GatescopeError(
            f"blend_short: the annotations of {id!r} must each have a count and a list of {field}; they are {annotations}."
        ) from error


def _templates(root: Path, country: str, column: str, left: LeftOut) -> list[tuple[str, str]]:
    """The instructions of a country with their ids; none if there is no file."""
    file = next(iter(sorted(root.glob(f"**/{country}_prompts.csv"))), None)
    if file is None:
        return []
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))
    found = list(rows[0]) if rows else []
    if missing := [name for name in ("id", column) if name not in found]:
        raise GatescopeError(f"blend_short: {file} has no column {', '.join(map(repr, missing))}; those found are {found}.")
    fit = [(row["id"], row[column]) for row in rows if "{q}" in (row[column] or "")]
    for row in rows:
        if "{q}" not in (row[column] or ""):
            left.add(f"{country} {row['id']}", "the instruction has no place {q} for the question")
    if not fit:
        raise GatescopeError(f"blend_short: no instruction in column {column!r} of {file} has a place {{q}} for the question.")
    return fit


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
