"""The one error a user's mistake ends in: a sentence that says what was given, what is allowed, what to do."""


class GatescopeError(ValueError):
    """A mistake a user can make and fix; the command line prints it without a traceback."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted in another; its kind where it has no message.

    >>> first_line(MemoryError()), first_line(OSError("no room\\nleft"))
    ('MemoryError', 'no room')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """The value, if it is allowed.

    Raises:
        GatescopeError: naming what was given and what is allowed.
    """
    if value not in allowed:
        raise GatescopeError(f"{name} is {value!r}; it must be {' or '.join(map(repr, allowed))}.")
    return value
