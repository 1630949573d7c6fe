"""Numbers in environment variables, as accelerate, torchrun and schedulers set them; and numbers that a user typed."""

from __future__ import annotations

import os

from gatescope.core.errors import GatescopeError

_DIGITS = 18  # of a number of 64 bits; Python refuses to read thousands of them


def number(name: str, otherwise: int) -> int:
    """The whole number in an environment variable; `otherwise` if it is not set, or empty.

    Raises:
        GatescopeError: if it holds something else.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return otherwise
    value = whole(text)
    if value is None:
        raise GatescopeError(
            f"The environment variable {name} is {text!r}; it must be a whole number, as accelerate and torchrun set it. Unset "
            f"it to run one process."
        )
    return value


def whole(text: str) -> int | None:
    """The whole number that a text is; None if it is none.

    >>> whole("16"), whole("\u00b2"), whole("-1")
    (16, None, None)
    """
    # isdigit() alone also accepts superscripts, which int() refuses.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
