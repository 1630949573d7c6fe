"""Reading a short answer out of generated text: it is right if an accepted answer is contained in it.

Both are normalised first: NFKC, casefold, digits of every script as 0 to 9, punctuation and pictographs as spaces (but
for `.`, `:` and `/` between digits), white space collapsed. Then, by language:

- written with spaces: the answer's words stand in the text one after the other; if not as they are, then lemmatised
  word by word by simplemma, where it has the language;
- written without (Chinese, Japanese, Thai, Lao, Khmer, Burmese): the answer's characters do;
- Korean: the answer begins at the start of a word, and nothing but particles, the copula, or after a digit its counter,
  is attached to its end; spaces within it do not count.

CULNIG uses a lemmatizer, stemmer or tokenizer for each language (spaCy, Spark NLP, hazm, qalsadi, CLTK, nlp-id, jieba,
Okt, and stemmers for Hausa, Azerbaijani and Sundanese). simplemma is one dictionary lookup for all, without context, and
has no Amharic, Assamese, Azerbaijani, Hausa or Sundanese: there inflected answers are missed and accuracies are lower.
Characters find what jieba would have cut otherwise, so Chinese ones may be higher. Compare with and without a mask; do not
compare with the paper's table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

from gatescope._typing import checked
from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError

UNSPACED = frozenset({"zh", "yue", "wuu", "ja", "th", "lo", "km", "my"})
_PARTICLES = (
    "은|는|이|가|을|를|의|에|에서|에게|께|께서|으로|로|와|과|랑|이랑|하고|도|만|까지|부터|처럼|보다|나|이나|란|이란|라고|이라고|"
    "라는|이라는|들|등|정도|다|이다|입니다|이에요|예요|에요|야|이야|이고|며|이며|요|이요"
)


@checked
def read_short(text: str, references: Sequence[str], language: str) -> Reading:
    """Read a generated text as one of the accepted answers, the first that is contained in it.

    Args:
        text: what the model wrote.
        references: the right answers, best first.
        language: ISO 639 code of both, such as "es"; a region after it does not count.

    Returns:
        The accepted answer found, as it stands there, else the normalised text; whether one was found; and, as
        `fallback`, whether none was before lemmatising.

    Raises:
        GatescopeError: if the language is no code, or simplemma is needed and not installed.

    >>> reading = read_short("I'd say **two boats**.", ["kite", "boat"], "en")
    >>> reading.predicted, reading.correct, reading.fallback
    ('boat', True, True)
    >>> read_short("我想是风筝。", ["风筝"], "zh").correct
    True
    """
    code = _code(language)
    spoken = words(text, code)
    contains = _containment(code)
    # Before anything is read: whether simplemma is missing must not depend on the answer.
    lemma = lemmatizer(code) if contains is _words else None
    answer = _contained(references, spoken, code, str.casefold, contains)
    if answer is not None:
        return Reading(answer, True, fallback=False)
    if lemma is not None:
        answer = _contained(references, spoken, code, lemma, contains)
        if answer is not None:
            return Reading(answer, True, fallback=True)
    return Reading(" ".join(word.casefold() for word in spoken), False, fallback=True)


def _contained(
    references: Sequence[str], spoken: list[str], code: str, form: Callable[[str], str], contains: Callable[..., bool]
) -> str | None:
    """The first of the accepted answers that is contained in what was said, each word in some form."""
    text = [form(word) for word in spoken]
    for answer in references:
        answer_words = [form(word) for word in words(answer, code)]
        if answer_words and contains(answer_words, text):
            return answer
    return None


def _containment(code: str) -> Callable[[list[str], list[str]], bool]:
    """How an answer is looked for in a text of a language."""
    if code in UNSPACED:
        return _characters
    return _korean if code == "ko" else _words


def words(text: str, language: str) -> list[str]:
    """The words of a text, in lower case: NFKC, digits as 0 to 9, without punctuation.

    >>> words("At 18:30, “Café-Bar” № ٣!", "en")
    ['at', '18:30', 'café', 'bar', 'no', '3']
    """
    text = unicodedata.normalize("NFKC", text)
    if language in ("az", "tr"):  # where İ is the capital of i, and I of a dotless one
        text = text.replace("İ", "i").replace("I", "\u0131")
    characters = [_normalised(text, index) for index in range(len(text))]
    return "".join(characters).lower().split()


def _normalised(text: str, index: int) -> str:
    character = text[index]
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.digit(character))
    if character in ".:/" and text[index - 1 : index].isdigit() and text[index + 1 : index + 2].isdigit():
        return character
    if kind == "Cf":  # marks of direction and the like; but the joiners are spelling, in Persian and Assamese
        return character if character in "\u200c\u200d" else ""
    return " " if kind[0] in "PZC" or kind in ("Sk", "So") else character


def _words(answer: list[str], text: list[str]) -> bool:
    # Spaces on both sides: "cat" must not be found in "category".
    return f" {' '.join(answer)} " in f" {' '.join(text)} "


def _characters(answer: list[str], text: list[str]) -> bool:
    """Containment of characters; but 3 is not in 13."""
    return re.search(rf"(?<!\d(?=\d)){_loose(answer)}(?!(?<=\d)\d)", " ".join(text)) is not None


def _korean(answer: list[str], text: list[str]) -> bool:
    """Containment from the start of a word, and to the end of one but for what may be attached to it."""
    # After a digit comes a counter ("3개"), of which there are too many to list.
    attached = r"(?:[^\d\s]\S*)?" if answer[-1][-1].isdigit() else f"(?:{_PARTICLES}){{0,3}}"
    return re.search(rf"(?<!\S){_loose(answer)}{attached}(?!\S)", " ".join(text)) is not None


def _loose(answer: list[str]) -> str:
    """A pattern for the answer's characters, with spaces between them or without; but the digits of a number together."""
    pieces = (piece for word in answer for piece in re.findall(r"\d+|\D", word))
    return r"\s*".join(map(re.escape, pieces))


def _code(language: str) -> str:
    # "pt-BR" and "zh_Hant": the region changes neither lemmas nor spaces.
    code = re.split("[-_]", str(language).strip().lower())[0]
    if not re.fullmatch("[a-z]{2,3}", code):
        raise GatescopeError(f"The language of a short answer is {language!r}; it must be an ISO 639 code, such as 'es'.")
    return code


@cache
def lemmatizer(language: str) -> Callable[[str], str] | None:
    """What gives a lower-case word's lemma, casefolded; None if simplemma does not have the language.

    Raises:
        GatescopeError: if simplemma is not installed.
    """
    try:
        from simplemma import lemmatize
        from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES
    except ImportError as error:
        raise GatescopeError("Short answers are lemmatised by simplemma: pip install gatescope[answers].") from error
    if language not in SUPPORTED_LANGUAGES:
        return None
    # Not casefolded before: the final sigma of Greek is part of the dictionary's spelling.
    return lambda word: lemmatize(word, lang=language).casefold()
