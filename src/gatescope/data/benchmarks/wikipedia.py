"""Wikipedia: articles in several languages, for LAPE and for perplexity; a language is a group.

Only the first articles of a language are taken, in the order they are published, streamed from the hub, so that no whole
language is downloaded: the first half of them to identify on, the second to evaluate on. An article is cut after `max_chars`
characters. (LAPE's authors read up to 100 million tokens of a language; ask for as many articles as that needs.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.source import Row, brief, load_dataset, local_files, missing

LAPE = ("en", "zh", "fr", "es", "vi", "id", "ja")
HUB = "wikimedia/wikipedia"
COLUMNS = ("id", "url", "title", "text")


@dataclass(frozen=True)
class _Dump:
    """Where one language of one dump is: on the hub, or in the files of a local copy."""

    path: str | Path | None
    language: str
    date: str
    revision: str | None

    def __str__(self) -> str:
        if self.path is None:
            return f"{HUB} ({self.date}.{self.language}) from the hub"
        return f"{self.path} ({self.language})"

    def rows(self) -> Iterator[Row]:
        """The articles as they come in; what is not asked for is never downloaded."""
        config = f"{self.date}.{self.language}"
        if self.path is None:
            return iter(load_dataset(HUB, config, split="train", streaming=True, revision=self.revision))
        patterns = [f"{folder}/*.parquet" for folder in (config, self.language)]
        files = [str(file) for file in local_files(Path(self.path), patterns, "wikipedia")]
        return iter(load_dataset("parquet", data_files=files, split="train", streaming=True))


def wikipedia(
    path: str | Path | None = None,
    *,
    languages: Iterable[str] = LAPE,
    articles: int = 1_000,
    max_chars: int = 2_000,
    date: str = "20231101",
    revision: str | None = None,
) -> Study:
    """Load the first articles of each language; record them with `readout="none"`.

    Args:
        path: a local copy, with parquet files in <date>.<language>/ or <language>/; the hub if None.
        languages: their codes, as Wikipedia has them; LAPE's seven by default.
        articles: how many of each language, both halves together; articles without text are not counted.
        max_chars: an article is cut after so many characters.
        date: of the dump.
        revision: a commit of the dataset.

    Raises:
        GatescopeError: if a language cannot be read, a column is missing, or nothing is asked for.

    Warns:
        UserWarning: if a language has fewer articles than were asked for.
    """
    codes = tuple(dict.fromkeys(languages))  # each once, in the order given
    _check(path, codes, articles, max_chars)
    first: list[Example] = []
    second: list[Example] = []
    for language in codes:
        passages = _passages(_Dump(path, language, date, revision), articles, max_chars)
        if len(passages) < articles:
            warnings.warn(
                f"wikipedia: {len(passages)} articles in {language!r}, where {articles} were asked for; what is there is used.",
                stacklevel=2,
            )
        first += passages[: len(passages) // 2]
        second += passages[len(passages) // 2 :]
    notes = {
        "split": f"of the first {articles} articles of each language half to identify on, the rest to evaluate on",
        "dump": date,
        "cut": f"after {max_chars} characters",
    }
    return Study("wikipedia", first, second, notes, readout="none")


def _check(path: str | Path | None, codes: tuple[str, ...], articles: int, max_chars: int) -> None:
    if not codes or articles < 2 or max_chars < 1:  # two: one for each half
        raise GatescopeError(
            f"wikipedia needs a language, two articles and one character at least; "
            f"got languages={codes}, articles={articles}, max_chars={max_chars}."
        )
    if path is not None and Path(path).is_file() and len(codes) > 1:
        raise GatescopeError(f"wikipedia: {path} is one file; name its one language, not {', '.join(codes)}.")


def _passages(dump: _Dump, articles: int, max_chars: int) -> list[Example]:
    """The first articles with text, each cut after `max_chars` characters."""
    passages: list[Example] = []
    for row in islice(_with_text(dump, max_chars), articles):
        facts = {"language": dump.language, "title": row["title"], "url": row["url"]}
        text = row["text"][:max_chars].strip()
        passages.append(Example.passage(f"{dump.language}/{row['id']}", dump.language, text, facts=facts))
    return passages


def _with_text(dump: _Dump, max_chars: int) -> Iterator[Row]:
    """The rows that have text, in the order they are published."""
    try:
        for row in dump.rows():
            if absent := missing(COLUMNS, row):
                raise GatescopeError(f"wikipedia: {dump} has no column {absent}; the columns found are {list(row)}.")
            if row["text"][:max_chars].strip():
                yield row
    except GatescopeError:
        raise
    except Exception as error:  # whatever the hub's client, the network, a proxy or the parquet reader raised
        raise GatescopeError(
            f"wikipedia: {dump} cannot be read: {brief(error.__cause__ or error)}. "
            f"Check the network and the language, or give path= with a local copy."
        ) from error


CARD = Card(
    "wikipedia",
    wikipedia,
    "The first articles of Wikipedia in each of several languages.",
    "CC-BY-SA-3.0 and GFDL",
    "streamed; 1,000 articles of each language by default",
    'not at all, it is read; readout="none"',
    "https://huggingface.co/datasets/wikimedia/wikipedia",
    "LAPE and CAPE, which both papers compare with: identification and perplexity",
)
