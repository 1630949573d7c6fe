"""Names of methods, groups and steps as names of files: safe on every file system, and reversible.

A name may be any text, and a file's may not: it has no `/`, must not be `..`, is cut short by NUL, and on many disks `a` and
`A` are one file. So every character that some file system refuses is written as the bytes of its UTF-8 in percent, as in an
address, and ordinary names (CAS, Arveni, without exclusion) stay what they are:

    a/b  ->  a%2Fb        ../x  ->  %2E.%2Fx        CON  ->  %43ON        (no name)  ->  %

A name of more than `LONGEST` bytes is cut, and its digest put in the place of the rest: which one it is, the file or the
manifest has to say.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

LONGEST = 180  # bytes; a file's name has 255, for what is put before and after it too
_PLAIN = frozenset(" !#$&'()+,-.;=@[]^_`{}")  # what may stand beside letters, digits and the marks over letters
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\.|$)", re.I)  # devices, wherever they lie, to Windows


def encoded(name: str, *, but: str = "", longest: int = LONGEST) -> str:
    """A name as (part of) a file's.

    Args:
        name: any text.
        but: characters to write in percent as well.
        longest: bytes.

    >>> [encoded(name) for name in ("Arveni", "a b", "a-b", "a/b", "..", "", "50%")]
    ['Arveni', 'a b', 'a-b', 'a%2Fb', '%2E%2E', '%', '50%25']
    >>> len(encoded("n" * 300))
    180
    """
    # What one keyboard writes as two characters and another as one: some disks take the two for the same name.
    composed = unicodedata.normalize("NFC", name) == name
    return _whole(name, [c if _safe(c, composed) and c not in but else _percent(c) for c in name], longest)


def distinct(name: str, taken: Iterable[str], *, but: str = "", longest: int = LONGEST) -> str:
    """A name as a file's, where there are others: of two that differ in capitals alone, the second has its own in percent.

    Args:
        name: any text.
        taken: what other names were encoded as; it makes no difference whether this one's is among them.
        but, longest: as for `encoded`.

    >>> distinct("arveni", ["Arveni"]), distinct("Arveni", ["Arveni"]), decoded("%61rveni")
    ('%61rveni', 'Arveni', 'arveni')
    """
    plain, marked = spellings(name, but=but, longest=longest)
    return marked if any(other != plain and other.casefold() == plain.casefold() for other in taken) else plain


def spellings(name: str, *, but: str = "", longest: int = LONGEST) -> tuple[str, str]:
    """The two ways in which a name may be that of a file: as it usually is, and where another differs in capitals alone."""
    # The first character too: a name without capitals would otherwise stay as it is.
    kept = [i and c == c.casefold() and c not in but and _safe(c, False) for i, c in enumerate(name)]
    marked = [c if keep else _percent(c) for c, keep in zip(name, kept, strict=True)]
    return encoded(name, but=but, longest=longest), _whole(name, marked, longest)


def decoded(text: str) -> str:
    """The name that was encoded, unless it was cut.

    >>> decoded("a%2Fb"), decoded("%")
    ('a/b', '')
    """
    return "" if text == "%" else unquote(text, errors="surrogatepass")


def _whole(name: str, characters: list[str], longest: int) -> str:
    if not name:
        return "%"  # a percent sign alone is written %25
    # Hidden to Unix at the beginning; dropped by Windows at the end.
    for place in (0, -1):
        if characters[place] in ". ":
            characters[place] = _percent(characters[place])
    text = "".join(characters)
    if _RESERVED.match(text):
        text = _percent(text[0]) + text[1:]
    if len(text.encode()) <= longest:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    # In whole characters; `~` is never written otherwise, so that no short name ends like this.
    return text.encode()[: longest - 33].decode(errors="ignore") + "~" + digest


def _safe(character: str, composed: bool) -> bool:
    """Whether a character can stand in any file's name as it is."""
    if character.isascii():
        return character.isalnum() or character in _PLAIN
    return composed and unicodedata.category(character)[0] in "LNM"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
