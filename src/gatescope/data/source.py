"""Where a dataset's rows come from: the Hugging Face hub at a pinned revision, or a local copy of the same files.

Both go through Hugging Face `datasets`. What comes back is checked before anything is built from it: columns by name,
rows by count. No dataset here runs code of its own, and none is let to.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatescope.core.answers import normalise
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example

_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv"}


@dataclass(frozen=True)
class Source:
    """One table of one dataset.

    Attributes:
        name: what the dataset is called in messages.
        hub: its id on the hub; empty if it is not there.
        split: which split.
        columns: those that are read; every one must be there.
        files: where the table is in a local copy, glob patterns, the first that fits.
        config: which configuration; None for the default one.
        revision: the commit it is pinned to; None where none is known, and the newest is taken.
        rows: how many the published table has; None if that is not known.
        options: how to read the files, such as `keep_default_na`.
    """

    name: str
    hub: str
    split: str
    columns: tuple[str, ...]
    files: tuple[str, ...]
    config: str | None = None
    revision: str | None = None
    rows: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def open_table(source: Source, path: str | Path | None = None, *, revision: str | None = None):
    """The table, a `datasets.Dataset`; nothing in it is decoded yet.

    Args:
        source: which.
        path: a local copy: the file itself, or a directory with the files as they lie on the hub.
        revision: another commit than the pinned one.

    Raises:
        GatescopeError: if the hub or the copy cannot be read, or a column is missing.

    Warns:
        UserWarning: if there are more or fewer rows than were published.
    """
    table = _from_hub(source, revision) if path is None else _from_files(source, Path(path))
    missing = [name for name in source.columns if name not in table.column_names]
    if missing:
        raise GatescopeError(
            f"{source.name}: no column {', '.join(map(repr, missing))}; the columns found are {table.column_names}. "
            f"The dataset may have changed: use the pinned revision{f' ({source.revision})' if source.revision else ''}."
        )
    check_rows(source.name, len(table), source.rows)
    return table.select_columns(list(source.columns))


def check_rows(name: str, found: int, published: int | None) -> None:
    """Warn if a table has not as many rows as were published, with both numbers."""
    if published is not None and found != published:
        warnings.warn(
            f"{name}: {found} rows, where {published} were published; the result is of this copy, not of the whole.",
            stacklevel=3,
        )


def local_file(path: str | Path, *patterns: str, what: str) -> Path:
    """One file of a local copy: the path itself if it is a file, or the first match of the patterns below it.

    Raises:
        GatescopeError: naming what was looked for, and where.
    """
    return local_files(Path(path), patterns, what)[0]


def local_files(path: Path, patterns: Iterable[str], what: str) -> list[Path]:
    """All files the first fitting pattern finds, sorted; errors as for `local_file`."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise GatescopeError(f"{what}: path={str(path)!r} does not exist. Give the file, or the directory it lies in.")
    for pattern in patterns:
        if found := sorted(p for p in path.glob(pattern) if p.is_file()):
            return found
    raise GatescopeError(f"{what}: nothing in {path} is called {' or '.join(map(repr, patterns))}.")


def _from_hub(source: Source, revision: str | None):
    from datasets import load_dataset
    from datasets.utils import logging

    if not source.hub:
        raise GatescopeError(f"{source.name} is not on the hub; give path= with a copy of {' or '.join(source.files)}.")
    logging.set_verbosity_error()
    chosen: dict[str, Any] = {"name": source.config, "split": source.split, "revision": revision or source.revision}
    try:
        return load_dataset(source.hub, **chosen, **source.options)
    except Exception as error:  # whatever the hub's client, the network or a proxy came up with
        raise GatescopeError(
            f"{source.name}: {source.hub} could not be had from the hub ({type(error).__name__}: {_first_line(error)}). "
            f"Check the network and your access, or give path= with a local copy ({' or '.join(source.files)})."
        ) from error


def _from_files(source: Source, path: Path):
    from datasets import load_dataset
    from datasets.utils import logging

    found = local_files(path, source.files, source.name)
    kinds = {_FORMATS.get(file.suffix) for file in found}
    if len(kinds) != 1 or None in kinds:
        raise GatescopeError(
            f"{source.name}: {sorted({f.suffix or f.name for f in found})} in {path} cannot be read as one table; "
            f"one of {', '.join(_FORMATS)} is needed."
        )
    # How to read a csv file; a copy in another format has no use for it.
    options: dict[str, Any] = dict(source.options) if kinds == {"csv"} else {}
    options |= {"sep": "\t"} if found[0].suffix == ".tsv" else {}
    logging.set_verbosity_error()
    try:
        return load_dataset(str(kinds.pop()), data_files=[str(file) for file in found], split="train", **options)
    except Exception as error:
        cause = error.__cause__ or error
        raise GatescopeError(f"{source.name}: {path} cannot be read: {type(cause).__name__}: {_first_line(cause)}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]


class LeftOut:
    """Rows a loader leaves out, counted and told; never silently."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, list[str]] = {}
        self._seen: set[str] = set()

    def again(self, row: str, column: str) -> bool:
        """Whether a row's id was there before; the row is left out then."""
        if row in self._seen:
            self.add(row, f"its {column} was used before")
            return True
        self._seen.add(row)
        return False

    def add(self, row: str, why: str) -> None:
        """Leave a row out."""
        self.rows.setdefault(why, []).append(row)

    def example(self, row: str, **fields: Any) -> list[Example]:
        """The example, in a list; none, and counted, if its options cannot be told apart or it is not a valid one."""
        choices = fields.get("choices", ())
        if len({normalise(choice) for choice in choices}) < len(choices):
            self.add(row, "two options are the same text once case and white space are normalised")
            return []
        if any(not choice.strip() for choice in choices):
            self.add(row, "an option is empty")
            return []
        return [Example(**fields)]

    def notes(self) -> dict[str, str]:
        """What was left out, for a study's notes; warns of it too."""
        if not self.rows:
            return {}
        lines = [f"{len(rows)} left out, {why} ({_some(rows)})" for why, rows in self.rows.items()]
        warnings.warn(f"{self.name}: {'; '.join(lines)}.", stacklevel=3)
        return {"left out": "; ".join(lines)}


def _some(rows: list[str]) -> str:
    return ", ".join(rows[:3]) + (", ..." if len(rows) > 3 else "")


def spaced(name: str) -> str:
    """A country's or language's name with spaces, however it was published.

    >>> spaced("Sri_Lanka"), spaced(" South  Korea ")
    ('Sri Lanka', 'South Korea')
    """
    return " ".join(re.split(r"[_\s]+", name.strip()))
