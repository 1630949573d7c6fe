"""Your own questions: a JSONL file, one example a line.

    {"id": "1", "group": "Arveni", "image": "1.png", "question": "...", "choices": ["a", "b"], "answer": "a"}

`image` is optional, a path relative to the file; so are `labels`, `prompt`, `prefix`, `item`, `system` and `facts` (see
Example). A question with short answers has `accepted`, a list of them, in place of `choices` and `answer`.
`split` is optional, "identification" or "evaluation", for every row or for none; without it each group is cut in half
(the odd one to evaluation) after a seeded shuffle; rows of one `item`, or with one question and no picture, stay together.
"""

from __future__ import annotations

import operator
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatescope.core import foreign
from gatescope.core.errors import GatescopeError
from gatescope.core.garbage import uncollected
from gatescope.core.progress import bar
from gatescope.data.example import Example, Study, readout_of
from gatescope.data.rows import SHAPE, Shared, example_of, row_of
from gatescope.data.split import halves

SPLITS = ("identification", "evaluation")
_PIECE = 2**20  # bytes
_TOLD = 1000  # lines between two movements of the progress bar


@dataclass
class _Rows:
    """The file as read, a column each: a million lines must not be a million objects more than they need to be.

    Attributes:
        examples: one for each line that is not blank.
        numbers: of these lines, counted from 1.
        splits: the halves that they ask to be in.
    """

    examples: list[Example] = field(default_factory=list[Example])
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    splits: list[Any] = field(default_factory=list[Any])

    def line_of(self, id: str) -> int:
        """The number of the line that has an id."""
        return next(number for number, example in zip(self.numbers, self.examples, strict=True) if example.id == id)

    def only(self, groups: set[str]) -> _Rows:
        """The rows of some groups."""
        places = [place for place, example in enumerate(self.examples) if example.group in groups]
        numbers = array("Q", [self.numbers[place] for place in places])
        return _Rows([self.examples[place] for place in places], numbers, [self.splits[place] for place in places])


def jsonl(path: str | Path, *, seed: int = 0, groups: Iterable[str] | None = None) -> Study:
    """Read a study from a JSONL file; every row and every picture is checked before anything is run.

    Args:
        path: the file.
        seed: of the halves, where the rows have no `split`.
        groups: only these; all of the file's if None.

    Raises:
        GatescopeError: naming file and line, for a file that cannot be read, a line that is not JSON, a missing or
            ill-typed field, an answer that is not among the choices, an id used twice, an image that cannot be
            opened, a `split` that is unknown or given for some rows only; for a group that the file does not have.

    Warns:
        UserWarning: for fields that an example does not have.
    """
    with uncollected():
        return _study(Path(path), seed, groups)


def _study(path: Path, seed: int, groups: Iterable[str] | None) -> Study:
    rows = _checked_rows(path)
    _check_labels(path, rows)
    rows = _in_groups(path, rows, groups)
    _check_splits(path, rows)
    # Either all rows have a split now, or none has.
    halved = None in rows.splits
    identification, evaluation, notes = _halved(rows.examples, seed) if halved else _by_split(rows)
    return Study(path.stem, identification, evaluation, notes, readout_of(rows.examples))


def _checked_rows(path: Path) -> _Rows:
    """Every row of the file, each of them checked, with one warning for all fields that are not used."""
    rows, shared, folder = _Rows(), Shared(), path.parent
    ids: set[str] = set()
    unused: set[str] = set()
    with bar(_count(path), f"checking {path.name}", "rows") as progress:
        for number, line in _lines(path):
            if number % _TOLD == 0:
                progress.update(number - progress.n)
            try:
                row = row_of(line, unused)
                id = str(row.id)
                ids.add(id)
                if len(ids) == len(rows.examples):  # it was there before
                    raise GatescopeError(f"id {row.id!r} was used before, on line {rows.line_of(id)}. Ids must be unique.")
                rows.examples.append(example_of(id, row, folder, shared))
            except GatescopeError as error:
                raise GatescopeError(f"{path}, line {number}: {error}") from error
            rows.numbers.append(number)
            rows.splits.append(row.split)
    if unused:
        names = ", ".join(map(repr, sorted(unused)))
        warnings.warn(
            f"{path}: {names} are not fields of an example and are ignored; put what a reader may want to know into 'facts'.",
            stacklevel=4,
        )
    return rows


def _count(path: Path) -> int:
    """How many lines a file has, blank ones too."""
    with _opened(path) as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_PIECE), b""))


def _opened(path: Path) -> Any:
    try:
        return foreign.open_file(path)
    except OSError as error:
        raise GatescopeError(f"{path} cannot be read as a JSONL file: {error.strerror or error}.") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; one at a time, for a file may be larger than memory."""
    empty = True
    with _opened(path) as file:
        # A file of bytes is cut at line feeds alone; one of text also where a carriage return is.
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(foreign.UTF8_MARK)
            if not line or line.isspace():
                continue
            if empty and line.lstrip().startswith(b"["):
                raise GatescopeError(f"{path} holds a JSON array; one JSON object a line is needed, without brackets. {SHAPE}")
            empty = False
            yield number, line
    if empty:
        raise GatescopeError(f"{path} holds no examples. {SHAPE}")


def _check_labels(path: Path, rows: _Rows) -> None:
    if not any(example.labels for example in rows.examples):
        return
    for number, example in zip(rows.numbers, rows.examples, strict=True):
        if example.choices and not example.labels:
            raise GatescopeError(
                f"{path}, line {number}: no 'labels', though other rows have them. Give them to all rows or to none."
            )


def _in_groups(path: Path, rows: _Rows, groups: Iterable[str] | None) -> _Rows:
    if groups is None:
        return rows
    chosen = set(groups)
    present = {example.group for example in rows.examples}
    if unknown := sorted(chosen - present):
        raise GatescopeError(f"{path} has no group {unknown[0]!r}; it has {', '.join(map(repr, sorted(present)))}.")
    return rows.only(chosen)


def _check_splits(path: Path, rows: _Rows) -> None:
    for number, split in zip(rows.numbers, rows.splits, strict=True):
        if split is not None and split not in SPLITS:
            raise GatescopeError(
                f"{path}, line {number}: split is {split!r}; it must be one of {', '.join(map(repr, SPLITS))}."
            )
    without = [number for number, split in zip(rows.numbers, rows.splits, strict=True) if split is None]
    if 0 < len(without) < len(rows.splits):
        raise GatescopeError(
            f"{path}, line {without[0]}: no 'split', though other rows have one. Give it to all rows or to none."
        )


def _by_split(rows: _Rows) -> tuple[list[Example], list[Example], dict[str, str]]:
    """The halves the file asks for; a question that is in both is counted in the notes."""
    asked = list(zip(rows.examples, rows.splits, strict=True))
    identification, evaluation = ([example for example, split in asked if split == half] for half in SPLITS)
    notes = {"split": "as the file says"}
    known = {_item(example) for example in identification}
    shared = sum(_item(example) in known for example in evaluation)
    if shared:
        notes["shared"] = f"{shared} of {len(evaluation)} evaluation examples ask what an identification example asks"
    return identification, evaluation, notes


def _halved(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example], dict[str, str]]:
    """Each group cut in half, variants of one question in one of the halves."""
    # The question itself, where it is all of them: sorted as with the group before it, and not written a million times.
    bare = all(example.image is None and not example.item for example in examples)
    item: Callable[[Example], str] = operator.attrgetter("question") if bare else _item
    items: dict[str, set[str]] = {}  # by group, up to two
    for example in examples:
        known = items.setdefault(example.group, set())
        if len(known) < 2:
            known.add(item(example))

    # A group that asks one thing only (an instruction, the question being in the prompt) cannot be kept together.
    alone = {group for group, asked in items.items() if len(asked) == 1}

    def block(example: Example) -> str:
        return example.id if example.group in alone else item(example)

    identification, evaluation = halves(examples, operator.attrgetter("group"), block if alone else item, seed)
    notes = {"split": f"half of each group at random, variants of one question together, seed {seed}"}
    return identification, evaluation, notes


def _item(example: Example) -> str:
    """What examples that ask the same share: their item, or, where there is no picture, the question."""
    if example.item or example.image is not None:
        return example.item or example.id
    return f"{example.group}: {example.question}"
