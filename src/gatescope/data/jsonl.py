"""Your own questions: a JSONL file, one example a line.

    {"id": "1", "group": "Arveni", "image": "1.png", "question": "...", "choices": ["a", "b"], "answer": "a"}

`image` is optional, a path relative to the file; so are `labels`, `prompt`, `prefix`, `item`, `system` and `facts` (see
Example). A question with short answers has `accepted`, a list of them, in place of `choices` and `answer`.
`split` is optional, "identification" or "evaluation", for every row or for none; without it each group is cut in half
(the odd one to evaluation) after a seeded shuffle; rows of one `item`, or with one question and no picture, stay together.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.data.example import Example, Study, readout_of
from gatescope.data.split import halves

SPLITS = ("identification", "evaluation")
_TEXTS = ("image", "prompt", "prefix", "item", "system")
_KNOWN = {*_TEXTS, "id", "group", "question", "choices", "answer", "labels", "accepted", "chat", "facts", "split"}
_NEEDED = {"id": (str, int), "group": str, "question": str, "choices": list, "answer": str}


def jsonl(path: str | Path, *, seed: int = 0, groups: Iterable[str] | None = None) -> Study:
    """Read a study from a JSONL file; every row and every picture is checked before anything is run.

    Args:
        path: the file.
        seed: of the halves, where the rows have no `split`.
        groups: only these; all there are if None.

    Raises:
        GatescopeError: naming file and line, for a file that cannot be read, a line that is not JSON, a missing or
            ill-typed field, an answer that is not among the choices, an id used twice, an image that cannot be
            opened, a `split` that is unknown or given for some rows only; for a group that is not there.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GatescopeError(f"{path} cannot be read as a JSONL file: {error}.") from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise GatescopeError(f"{path} holds no examples. {_shape()}")
    if rows[0][1].lstrip().startswith("["):
        raise GatescopeError(f"{path} holds a JSON array; one JSON object a line is needed, without brackets. {_shape()}")
    examples, splits, seen, unknown = [], [], {}, {}
    shown = bar(len(rows), f"checking {path.name}", "rows")
    for number, line in rows:
        shown.update()
        where = f"{path}, line {number}"
        row = _row(where, line)
        for name in row.keys() - _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.75)
            if near and near[0] not in row:  # question_id beside question is a field of the user's own
                raise GatescopeError(f"{where}: there is no field {name!r}; {near[0]!r} may be meant.")
            unknown.setdefault(name, number)
        if (first := seen.setdefault(str(row["id"]), number)) != number:
            raise GatescopeError(f"{where}: id {row['id']!r} was used before, on line {first}. Ids must be unique.")
        examples.append(_example(where, row, path.parent))
        splits.append(row.get("split"))
    shown.close()
    if unknown:
        names = ", ".join(map(repr, sorted(unknown)))
        warnings.warn(f"{path}: {names} are no fields of an example and are not used; put what a reader may want to know into "
                      f"'facts'.", stacklevel=2)  # fmt: skip
    bare = [number for (number, _), e in zip(rows, examples, strict=True) if e.choices and not e.labels]
    if bare and any(example.labels for example in examples):
        raise GatescopeError(
            f"{path}, line {bare[0]}: no 'labels', though other rows have them. Give them to all rows or to none."
        )
    there = {example.group for example in examples}
    wanted = there if groups is None else set(groups)
    if missing := sorted(wanted - there):
        raise GatescopeError(f"{path} has no group {missing[0]!r}; it has {', '.join(map(repr, sorted(there)))}.")
    kept = [i for i, example in enumerate(examples) if example.group in wanted]
    return _split(path, [rows[i][0] for i in kept], [examples[i] for i in kept], [splits[i] for i in kept], seed)


def _row(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise GatescopeError(f"{where}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise GatescopeError(f"{where}: a JSON object is needed, this is a {type(row).__name__}. {_shape()}")
    if accepted := row.get("accepted"):
        if not isinstance(accepted, list) or not all(isinstance(answer, str) and answer.strip() for answer in accepted):
            raise GatescopeError(f"{where}: the field 'accepted' is {accepted!r}; it must be a list of answers, text.")
        row = {"choices": [], "answer": accepted[0]} | row
    for name, kind in _NEEDED.items():
        if name not in row:
            raise GatescopeError(f"{where}: the field {name!r} is missing (found {sorted(row)}). {_shape()}")
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise GatescopeError(f"{where}: the field {name!r} is {row[name]!r}. {_shape()}")
    if not all(isinstance(choice, str) for choice in row["choices"]):
        raise GatescopeError(f"{where}: every choice must be text, these are {row['choices']!r}.")
    for name in _TEXTS:
        if not isinstance(row.get(name) or "", str):
            raise GatescopeError(f"{where}: the field {name!r} is {row[name]!r}; it must be text, or left out.")
    return row


def _example(where: str, row: dict[str, Any], folder: Path) -> Example:
    image = folder / row["image"] if row.get("image") else None
    try:
        example = Example(
            str(row["id"]),
            row["group"],
            row["question"],
            tuple(row["choices"]),
            row["answer"],
            image,
            labels=tuple(row.get("labels") or ()),
            prompt=row.get("prompt"),
            prefix=row.get("prefix") or "",
            item=row.get("item") or "",
            system=row.get("system") or "",
            accepted=tuple(row.get("accepted") or ()),
            facts=row.get("facts") or {},
            chat=row.get("chat") is not False,
        )
        example.picture()
    except GatescopeError as error:
        raise GatescopeError(f"{where}: {error}") from error
    return example


def _split(path: Path, numbers: list[int], examples: list[Example], splits: list[str | None], seed: int) -> Study:
    for number, split in zip(numbers, splits, strict=True):
        if split is not None and split not in SPLITS:
            raise GatescopeError(
                f"{path}, line {number}: split is {split!r}; it must be one of {', '.join(map(repr, SPLITS))}."
            )
    if None not in splits:
        first, second = ([e for e, s in zip(examples, splits, strict=True) if s == split] for split in SPLITS)
        return Study(path.stem, first, second, {"split": "as the file says"} | _shared(first, second), readout_of(examples))
    if set(splits) != {None}:
        number = numbers[splits.index(None)]
        raise GatescopeError(f"{path}, line {number}: no 'split', though other rows have one. Give it to all rows or to none.")
    asked = {group: {_asked(e) for e in examples if e.group == group} for group in {e.group for e in examples}}
    # A group that asks one thing only (an instruction, the question being in the prompt) cannot be kept together.
    identification, evaluation = halves(
        examples, lambda e: e.group, lambda e: _asked(e) if len(asked[e.group]) > 1 else e.id, seed
    )
    notes = {"split": f"half of each group at random, variants of one question together, seed {seed}"}
    return Study(path.stem, identification, evaluation, notes, readout_of(examples))


def _asked(example: Example) -> str:
    """What examples share that ask the same: their item, or a question without a picture."""
    if example.item or example.image is not None:
        return example.item or example.id
    return f"{example.group}: {example.question}"


def _shared(identification: list[Example], evaluation: list[Example]) -> dict[str, str]:
    known = {_asked(example) for example in identification}
    count = sum(_asked(example) in known for example in evaluation)
    if not count:
        return {}
    return {"shared": f"{count} of {len(evaluation)} evaluation examples ask what an identification example asks"}


def _shape() -> str:
    return "A row is {id, group, question, choices: [text, ...], answer: one of the choices, image: optional path}."
