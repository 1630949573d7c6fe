"""The one error a user's mistake ends in: a sentence that says what was given, what is allowed, what to do."""


class GatescopeError(ValueError):
    """A mistake a user can make and mend; the command line prints it without a traceback."""
