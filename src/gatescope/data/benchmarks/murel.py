"""MUREL: text of six cultures, for CAPE's neurons; plain files, one passage a line, in a directory for each language.

Its authors walk all files of a language and cut by tokens: the first 100,000 are for evaluation, the next 10,000,000 to
identify on. Their walk is in no fixed order; here paths are sorted. With `tokenizer=` the cut is made by its tokens, as
published; without one there is nothing to count tokens with, and it is made by characters, the same numbers of them (less
text: a token of English is about four characters). Passages stay whole: the one that reaches a limit is the last.

There is no licence, and each source has its own terms, so the texts are not part of gatescope.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.data.card import Card
from gatescope.data.example import Example, Study
from gatescope.data.split import chosen_groups

LANGUAGES = ("en", "de", "da", "zh", "ru", "fa")
HOME = "https://github.com/namazifard/Culture_Neurons"


def murel(
    path: str | Path | None = None,
    *,
    groups: Iterable[str] | None = None,
    evaluation: int = 100_000,
    identification: int = 10_000_000,
    tokenizer: Any = None,
) -> Study:
    """Load MUREL from a copy of its repository; record it with `readout="none"`.

    Args:
        path: the directory with <language>/ or data/<language>/ in it.
        groups: only these languages, such as ("da", "fa"); all that the copy has if None.
        evaluation: how much of each language, from the start, is evaluated on: tokens, or characters without a tokenizer.
        identification: how much of what follows is identified on.
        tokenizer: a Hugging Face tokenizer to count with, without special tokens.

    Raises:
        GatescopeError: if there is no path, it has no texts, `groups` names a language it does not have, or a line is not
            UTF-8.

    Warns:
        UserWarning: if a language has less text than was asked for.
    """
    unit = "characters" if tokenizer is None else "tokens"
    if evaluation < 1 or identification < 1:
        raise GatescopeError(f"MUREL: evaluation and identification must be 1 or more; got {evaluation} and {identification}.")
    roots = _roots(path)
    languages = chosen_groups("MUREL", groups, roots)
    measure = len if tokenizer is None else _token_counter(tokenizer)
    first: list[Example] = []
    second: list[Example] = []
    for language, root in roots.items():
        if language not in languages:
            continue
        passages = _passages(language, root)
        evaluated, evaluated_size = _take(passages, evaluation, measure)
        identified, identified_size = _take(passages, identification, measure)
        if identified_size < identification:
            warnings.warn(
                f"MUREL: {language} has {evaluated_size:,} {unit} to evaluate on and {identified_size:,} to identify on, where "
                f"{evaluation:,} and {identification:,} were asked for; what is there is used.",
                stacklevel=2,
            )
        first += identified
        second += evaluated
    notes = {
        "split": f"of each language {evaluation:,} {unit} are evaluated on, the next {identification:,} identified on",
        "order": "files by path, lines as they stand; a passage is never cut",
    }
    return Study("murel", first, second, notes, readout="none")


def _token_counter(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _take(passages: Iterator[Example], limit: int, measure: Callable[[str], int]) -> tuple[list[Example], int]:
    """The next passages, up to the one that reaches what is wanted, and how much text they are."""
    taken: list[Example] = []
    size = 0
    for passage in passages:
        taken.append(passage)
        size += measure(passage.prompt or "")
        if size >= limit:
            break
    return taken, size


def _roots(path: str | Path | None) -> dict[str, Path]:
    """The directory of each language that has texts."""
    if path is None:
        raise GatescopeError(f"MUREL is not on the hub: give path= with a copy of {HOME}.")
    where = Path(path)
    if not where.is_dir():
        raise GatescopeError(f"MUREL: path={str(path)!r} is not a directory; a copy of {HOME} is needed.")
    roots: dict[str, Path] = {}
    for language in LANGUAGES:
        for root in (where / language, where / "data" / language):  # the second wins, as in the repository
            if next(root.rglob("*.txt"), None):
                roots[language] = root
    if not roots:
        raise GatescopeError(
            f"MUREL: no .txt file in {where}/<language> or {where}/data/<language>, for none of {', '.join(LANGUAGES)}."
        )
    return roots


def _passages(language: str, root: Path) -> Iterator[Example]:
    """Every line that is not empty."""
    for file in sorted(root.rglob("*.txt"), key=lambda file: file.relative_to(root).parts):
        name, number = file.relative_to(root).as_posix(), 0
        try:
            # Bytes: a line ends at \n alone, and the error can name the line that is not UTF-8.
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    # strip() keeps a byte order mark, with which a file may begin.
                    if text := line.decode("utf-8").strip().strip("\ufeff"):
                        facts = {"language": language, "file": name}
                        yield Example.passage(f"{language}/{name}:{number}", language, text, facts=facts)
        except UnicodeDecodeError as error:
            raise GatescopeError(f"MUREL: {file}, line {number}: not UTF-8 ({error.reason}).") from error
        except OSError as error:
            raise GatescopeError(f"MUREL: {file} cannot be read: {error}.") from error


CARD = Card(
    "murel",
    murel,
    "Text of six cultures (idioms, proverbs, values, fiction), one passage a line.",
    "none stated; the sources have terms of their own",
    "85.2M tokens, 6 cultures",
    'not at all, it is read; readout="none"',
    HOME,
    "CAPE, which CULNIG compares with: identification and perplexity",
)
