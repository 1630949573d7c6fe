"""What Transformers says about a checkpoint that does not fit its config, which it writes to its log and nowhere else.

A weight that is not in the checkpoint is filled with random numbers; the model answers all the same, and nothing that is found
in it means anything.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

from gatescope.core.errors import GatescopeError

_LOGGER = "transformers.modeling_utils"
_LONGEST = 400  # characters of a message
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """The reports on what is loaded meanwhile; those that end in an error are not shown as well."""
    logger = logging.getLogger(_LOGGER)
    reports: list[str] = []
    level, shown = logger.level, logger.isEnabledFor(logging.WARNING)

    def listen(record: logging.LogRecord) -> bool:
        text = _COLOUR.sub("", record.getMessage())
        if "LOAD REPORT" not in text:
            return shown
        reports.append(text)
        return shown and not (missing([text]) or mismatched([text]))

    logger.addFilter(listen)
    if not shown:
        logger.setLevel(logging.WARNING)
    try:
        yield reports
    finally:
        logger.setLevel(level)
        logger.removeFilter(listen)


def missing(reports: list[str]) -> list[str]:
    """The weights that a checkpoint lacks; those of several layers in one, as the report has them."""
    return [name for report in reports for name in re.findall(r"^(\S.*?)\s*\|\s*MISSING\b", report, re.MULTILINE)]


def mismatched(reports: list[str]) -> list[str]:
    """The weights of another shape than the config says, each with both shapes."""
    row = r"^(\S.*?)\s*\|\s*MISMATCH\s*\|.*ckpt: (?:torch\.Size\()?(\[[^\]]*\])\)? vs model:\s*(?:torch\.Size\()?(\[[^\]]*\])"
    found = [match for report in reports for match in re.findall(row, report, re.MULTILINE)]
    return [f"{name} is {there} there and {here} by the config" for name, there, here in found]


def unconverted(reports: list[str]) -> list[str]:
    """Why weights could not be quantised, or otherwise converted: the errors themselves, each once."""
    rows = (row for report in reports if "CONVERSION" in report for row in report.splitlines())
    errors = (row for row in rows if re.match(r"\w*(Error|Exception): ", row))
    return [error for error in dict.fromkeys(errors) if not error.startswith("RuntimeError: We encountered")]


def refuse_untrusted(name: str, error: BaseException) -> None:
    """Say that a checkpoint brings code, if that is why it could not be loaded.

    Raises:
        GatescopeError: with what to do.
    """
    if "trust_remote_code=True" in str(error):
        raise GatescopeError(
            f"{name} needs code that comes with it, which would run on this machine. Read it; if you trust it, give "
            f"trust_remote_code=True (--trust-remote-code), and for a hub id the revision= that you have read."
        ) from error


def cause(error: BaseException) -> str:
    """What went wrong, in a line; of a message that holds other errors' tracebacks, as a pipeline's does, the last line."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        return text.splitlines()[-1]
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    # Others' messages may be a name alone, which says nothing without the kind of error.
    return line if isinstance(error, OSError | ValueError | RuntimeError | ImportError) else f"{type(error).__name__}: {line}"
