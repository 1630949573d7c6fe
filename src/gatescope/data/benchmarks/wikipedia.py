"""Wikipedia: articles in several languages, for LAPE and for perplexity; a language is a group.

Only the first articles of a language are taken, in the order they are published, streamed from the hub, so that no whole
language is fetched: the first half of them to identify on, the second to evaluate on. An article is cut after `max_chars`
characters. (LAPE's authors read up to 100 million tokens of a language; ask for as many articles as that needs.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.source import local_files

LAPE = ("en", "zh", "fr", "es", "vi", "id", "ja")
HUB = "wikimedia/wikipedia"
COLUMNS = ("id", "url", "title", "text")


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
        articles: how many of each language, both halves together; those without text are not counted.
        max_chars: an article is cut after so many characters.
        date: of the dump.
        revision: a commit of the dataset.

    Raises:
        GatescopeError: if a language cannot be read, a column is missing, or nothing is asked for.

    Warns:
        UserWarning: if a language has fewer articles than that.
    """
    asked = tuple(dict.fromkeys(languages))
    if not asked or articles < 2 or max_chars < 1:
        raise GatescopeError(
            f"wikipedia needs a language, two articles and one character at least; "
            f"got languages={asked}, articles={articles}, max_chars={max_chars}."
        )
    if path is not None and Path(path).is_file() and len(asked) > 1:
        raise GatescopeError(f"wikipedia: {path} is one file; name its one language, not {', '.join(asked)}.")
    first: list[Example] = []
    second: list[Example] = []
    for language in asked:
        passages = [
            Example.passage(
                f"{language}/{row['id']}",
                language,
                row["text"][:max_chars].strip(),
                facts={"language": language, "title": row["title"], "url": row["url"]},
            )
            for row in _rows(path, language, articles, max_chars, date, revision)
        ]
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


def _rows(
    path: str | Path | None, language: str, articles: int, max_chars: int, date: str, revision: str | None
) -> list[dict[str, str]]:
    """The first articles with text."""
    from datasets import load_dataset
    from datasets.utils import logging

    logging.set_verbosity_error()
    name = f"{date}.{language}"
    if path is None:
        source = f"{HUB} ({name}) from the hub"
    else:
        patterns = [f"{folder}/*.parquet" for folder in (name, language)]
        files = [str(file) for file in local_files(Path(path), patterns, "wikipedia")]
        source = f"{path} ({language})"
    try:
        if path is None:
            stream = load_dataset(HUB, name, split="train", streaming=True, revision=revision)
        else:
            stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
        head = iter(stream)
        row = next(head, None)
        missing = [] if row is None else [column for column in COLUMNS if column not in row]
        if row is None or not missing:
            rows = chain([] if row is None else [row], head)
            return list(islice((one for one in rows if one["text"][:max_chars].strip()), articles))
    except Exception as error:  # whatever the hub's client, the network, a proxy or the parquet reader came up with
        cause = error.__cause__ or error
        line = (str(cause).splitlines() or [""])[0][:300]
        raise GatescopeError(
            f"wikipedia: {source} cannot be read: {type(cause).__name__}: {line}. "
            f"Check the network and the language, or give path= with a local copy."
        ) from error
    raise GatescopeError(
        f"wikipedia: {source} has no column {', '.join(map(repr, missing))}; the columns found are {list(row)}."
    )


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
