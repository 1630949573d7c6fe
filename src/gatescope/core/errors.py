"""The one error a user's mistake ends in: a sentence that says what was given, what is allowed, what to do."""


class GatescopeError(ValueError):
    """A mistake a user can make and fix; the command line prints it without a traceback."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted in another; its kind where it has no message.

    >>> first_line(MemoryError()), first_line(OSError("no room\\nleft"))
    ('MemoryError', 'no room')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def quoted(value: object) -> str:
    """What a file says, for a message: a short text as it stands if it can be printed, and all else as Python writes it.

    >>> quoted("gatescope.run/9"), quoted("\\0"), quoted(None)
    ('gatescope.run/9', "'\\\\x00'", 'None')
    """
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """The value, if it is allowed.

    Raises:
        GatescopeError: naming what was given and what is allowed.
    """
    if value not in allowed:
        raise GatescopeError(f"{name} is {value!r}; it must be {' or '.join(map(repr, allowed))}.")
    return value
