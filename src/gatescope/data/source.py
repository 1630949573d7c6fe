"""Where a dataset's rows come from: the Hugging Face hub at a pinned revision, or a local copy of the same files.

Both go through Hugging Face `datasets`. What comes back is checked before anything is built from it: columns by name,
rows by count. No dataset here runs its own code, and none is allowed to.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError

_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv"}

Row = Mapping[str, Any]
"""One row of a table, by column."""


Table = Any
"""A `datasets.Dataset`: importing it takes seconds, and its rows and columns are untyped."""


@dataclass(frozen=True)
class Source:
    """One table of one dataset.

    Attributes:
        name: what the dataset is called in messages.
        hub: its id on the hub; empty if it is not there.
        split: which split.
        columns: those that are read; each is required.
        files: glob patterns of the table's files in a local copy; the first that matches is taken.
        config: which configuration; None for the default one.
        revision: the commit it is pinned to; None where none is known, so that the newest is loaded.
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
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def open_table(source: Source, path: str | Path | None = None, *, revision: str | None = None) -> Table:
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
    if absent := missing(source.columns, table.column_names):
        pinned = f" ({source.revision})" if source.revision else ""
        raise GatescopeError(
            f"{source.name}: no column {absent}; the columns found are {table.column_names}. "
            f"The dataset may have changed: use the pinned revision{pinned}."
        )
    check_rows(source.name, len(table), source.rows)
    return table.select_columns(list(source.columns))


def missing(needed: Iterable[str], present: Container[str]) -> str:
    """The names that are needed and not present, as a message lists them; empty if all are.

    >>> missing(("id", "text", "url"), ["text"])
    "'id', 'url'"
    """
    return ", ".join(repr(name) for name in needed if name not in present)


def check_rows(name: str, count: int, published: int | None) -> None:
    """Warn if a table has more or fewer rows than were published, with both numbers."""
    if published is not None and count != published:
        warnings.warn(
            f"{name}: {count} rows, where {published} were published; the results are of this copy, not of the whole.",
            stacklevel=3,  # the loader that opened the table
        )


def local_file(path: str | Path, *patterns: str, what: str) -> Path:
    """One file of a local copy: the path itself if it is a file, or the first match of the patterns below it.

    Raises:
        GatescopeError: naming what was looked for, and where.
    """
    return local_files(Path(path), patterns, what)[0]


def local_files(path: Path, patterns: Iterable[str], what: str) -> list[Path]:
    """All files the first fitting pattern finds, sorted; errors as for `local_file`."""
    if os.path.isfile(path):  # unlike Path's, it takes names that are too long
        return [path]
    if not os.path.exists(path):
        raise GatescopeError(f"{what}: path={str(path)!r} does not exist. Give the file, or the directory it lies in.")
    for pattern in patterns:
        if files := sorted(p for p in path.glob(pattern) if p.is_file()):
            return files
    raise GatescopeError(f"{what}: nothing in {path} is called {' or '.join(map(repr, patterns))}.")


def load_dataset(*args: Any, **options: Any) -> Any:
    """`datasets.load_dataset` without its log, which repeats what its exceptions say."""
    # Imported here: it takes seconds, and most commands load no benchmark.
    import datasets
    from datasets.utils import logging

    logging.set_verbosity_error()
    return datasets.load_dataset(*args, **options)


def brief(error: BaseException) -> str:
    """The type of an error and its first line, to be quoted in another message.

    >>> brief(ConnectionError("no route\\nto host"))
    'ConnectionError: no route'
    """
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:300]}"


def _from_hub(source: Source, revision: str | None) -> Table:
    if not source.hub:
        raise GatescopeError(f"{source.name} is not on the hub; give path= with a copy of {' or '.join(source.files)}.")
    try:
        return load_dataset(
            source.hub,
            name=source.config,
            split=source.split,
            revision=revision or source.revision,
            **source.options,
        )
    except Exception as error:  # whatever the hub's client, the network or a proxy raised
        raise GatescopeError(
            f"{source.name}: {source.hub} could not be downloaded ({brief(error)}). "
            f"Check the network and your access, or give path= with a local copy ({' or '.join(source.files)})."
        ) from error


def _from_files(source: Source, path: Path) -> Table:
    files = local_files(path, source.files, source.name)
    kind = _format(source, path, files)
    options: dict[str, Any] = {}
    if kind == "csv":  # source.options are of csv files; a copy in another format has no use for them
        options.update(source.options)
        if files[0].suffix == ".tsv":
            options["sep"] = "\t"
    try:
        return load_dataset(kind, data_files=[str(file) for file in files], split="train", **options)
    except Exception as error:
        # `datasets` wraps what the reader of the format says in another error, which says less.
        raise GatescopeError(f"{source.name}: {path} cannot be read: {brief(error.__cause__ or error)}.") from error


def _format(source: Source, path: Path, files: Iterable[Path]) -> str:
    """The name `datasets` has for the format of all these files."""
    kinds = {_FORMATS.get(file.suffix) for file in files}
    kind = kinds.pop()
    if kinds or kind is None:
        suffixes = sorted({file.suffix or file.name for file in files})
        raise GatescopeError(
            f"{source.name}: {suffixes} in {path} cannot be read as one table; one of {', '.join(_FORMATS)} is needed."
        )
    return kind


def spaced(name: str) -> str:
    """A country's or language's name with spaces, however it was published.

    >>> spaced("Sri_Lanka"), spaced(" South  Korea ")
    ('Sri Lanka', 'South Korea')
    """
    return " ".join(re.split(r"[_\s]+", name.strip()))
