"""MUREL: text of six cultures, for CAPE's neurons; plain files, one passage a line, in a directory for each language.

Its authors walk all files of a language and cut by tokens: the first 100,000 are for evaluation, the next 10,000,000 to
identify on. Their walk is in no fixed order; here paths are sorted. With `tokenizer=` the cut is made by its tokens, as
published; without one there is nothing to count tokens with, and it is made by characters, the same numbers of them (less
text: a token of English is about four characters). Passages stay whole: the one that reaches a limit is the last.

There is no licence, and the sources have terms of their own, so the texts are not part of gatescope.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
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
        groups: only these languages, such as ("da", "fa"); all there are if None.
        evaluation: how much of each language, from the start, is evaluated on: tokens, or characters without a tokenizer.
        identification: how much of what follows is identified on.
        tokenizer: a Hugging Face tokenizer to count with, without special tokens.

    Raises:
        GatescopeError: if there is no path, nothing in it, `groups` names none of it, or a line is not UTF-8.

    Warns:
        UserWarning: if a language has less text than that.
    """
    unit = "characters" if tokenizer is None else "tokens"
    if evaluation < 1 or identification < 1:
        raise GatescopeError(f"MUREL: evaluation and identification must be 1 or more; got {evaluation} and {identification}.")
    roots = _roots(path)
    wanted = chosen_groups("MUREL", groups, roots)
    first: list[Example] = []
    second: list[Example] = []
    for language in (name for name in roots if name in wanted):
        evaluated = identified = 0
        for id, text, file in _passages(language, roots[language]):
            size = len(text) if tokenizer is None else len(tokenizer(text, add_special_tokens=False)["input_ids"])
            passage = Example.passage(id, language, text, facts={"language": language, "file": file})
            if evaluated < evaluation:
                second.append(passage)
                evaluated += size
            else:
                first.append(passage)
                identified += size
            if identified >= identification:
                break
        else:
            warnings.warn(
                f"MUREL: {language} has {evaluated:,} {unit} to evaluate on and {identified:,} to identify on, where "
                f"{evaluation:,} and {identification:,} were asked for; what is there is used.",
                stacklevel=2,
            )
    notes = {
        "split": f"of each language {evaluation:,} {unit} are evaluated on, the next {identification:,} identified on",
        "order": "files by path, lines as they stand; a passage is never cut",
    }
    return Study("murel", first, second, notes, readout="none")


def _roots(path: str | Path | None) -> dict[str, Path]:
    if path is None:
        raise GatescopeError(f"MUREL is not on the hub: give path= with a copy of {HOME}.")
    where = Path(path)
    if not where.is_dir():
        raise GatescopeError(f"MUREL: path={str(path)!r} is no directory; a copy of {HOME} is needed.")
    found = {}
    for name in LANGUAGES:
        for root in (where / "data" / name, where / name):
            if name not in found and next(root.rglob("*.txt"), None):
                found[name] = root
    if not found:
        raise GatescopeError(
            f"MUREL: no .txt file in {where}/<language> or {where}/data/<language>, for none of {', '.join(LANGUAGES)}."
        )
    return found


def _passages(language: str, root: Path) -> Iterator[tuple[str, str, str]]:
    """Id, text and file of every line that is not empty."""
    for file in sorted(root.rglob("*.txt"), key=lambda p: p.relative_to(root).parts):
        name = file.relative_to(root).as_posix()
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if text := line.decode("utf-8").strip().strip("\ufeff"):
                        yield f"{language}/{name}:{number}", text, name
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
