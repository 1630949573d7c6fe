"""Rows of a dataset that a loader skips: counted, named in the study's notes, and shown in a warning; never silently."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from gatescope.core.answers import normalise


class Skipped:
    """The rows that one loader skipped, by the reason for it.

    Args:
        name: of the dataset, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows: dict[str, list[str]] = {}  # by reason
        self._seen: set[str] = set()

    def add(self, row: str, reason: str) -> None:
        """Count a row as skipped."""
        self._rows.setdefault(reason, []).append(row)

    def repeated(self, row: str, column: str) -> bool:
        """Whether a row has the id of an earlier one; it is counted as skipped then."""
        if row in self._seen:
            self.add(row, f"its {column} was used before")
            return True
        self._seen.add(row)
        return False

    def indistinct(self, row: str, choices: Collection[str]) -> bool:
        """Whether a row's options are blank or indistinguishable; it is counted as skipped then.

        An Example refuses some of these too. A user's own file should fail there; a published benchmark should load.
        """
        if len({normalise(choice) for choice in choices}) < len(choices):
            self.add(row, "two options are the same text once case and white space are normalised")
            return True
        if not all(choice.strip() for choice in choices):
            self.add(row, "an option is empty")
            return True
        return False

    def notes(self) -> dict[str, str]:
        """What was skipped, for a study's notes; empty if nothing was.

        Warns:
            UserWarning: with the same text, if a row was skipped.
        """
        if not self._rows:
            return {}
        summary = "; ".join(f"{len(rows)} left out, {reason} ({_first_few(rows)})" for reason, rows in self._rows.items())
        warnings.warn(f"{self.name}: {summary}.", stacklevel=3)
        # The key is in the manifests of earlier runs.
        return {"left out": summary}


def _first_few(rows: list[str]) -> str:
    return ", ".join(rows[:3]) + (", ..." if len(rows) > 3 else "")
