"""What a run keeps beside its shards: selections and answers, each file under a name that tells whose it is.

    selections/NAME.safetensors neuron sets, scores and provenance of a selector
    answers.NAME.jsonl          a sweep's answers, and answers.jsonl those of the one without a name

Answers and the selection they were given under belong together: neither is replaced as long as the other is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gatescope.core import foreign
from gatescope.core.answers import ALL
from gatescope.core.errors import GatescopeError
from gatescope.core.filenames import decoded, distinct, spellings
from gatescope.core.garbage import uncollected
from gatescope.core.neurons import NeuronSet
from gatescope.core.relatives import check_same_model
from gatescope.select.selection import Selection
from gatescope.statistics.table import Row, Table
from gatescope.steps.manifest import Manifest
from gatescope.steps.schema import Answer

_AGAIN = "Delete it, and run the command that wrote it again: the shards are kept."


class Results(Manifest):
    """The selections and answers of a run."""

    def names(self, kind: str) -> list[str]:
        """The names under which a kind of step was started, such as those of several sweeps."""
        return [key.removeprefix(kind).removeprefix(" of ") for key in self.manifest if key.split(" of ")[0] == kind]

    @property
    def sweeps(self) -> dict[str, Table]:
        """The run's sweeps by name ("" for the one without), in the order they were begun."""
        files = [*self._files("answers.jsonl"), *self._files("answers.*.jsonl")]
        # The manifest has the order in which sweeps began, and names in full; files without an entry come last.
        begun = {self._answers(name): name for name in self.names("sweep")}
        named = {name: file for file, name in begun.items() if file in files}
        for file in files:
            if file not in begun:
                # Of answers.NAME.jsonl the name; of answers.jsonl nothing.
                named[decoded(file.removeprefix("answers.").removesuffix("jsonl")[:-1])] = file
        return {name: self._table(file) for name, file in named.items()}

    def add_selection(self, selection: Selection) -> None:
        """Keep a selection, under its method's name.

        Raises:
            GatescopeError: if its neurons are another model's, if the run is a study at another rate, or if it holds answers
                under other neurons of that name, which would then be reported as those of these neurons.
        """
        self.add_selections([selection])

    def add_selections(self, selections: Iterable[Selection]) -> None:
        """Keep several selections, or, if one of them is refused, none; errors as for `add_selection`."""
        packed = [(selection, selection.packed()) for selection in selections]
        # From the look at what was swept to the writing: a sweep that begins in between would have other neurons.
        with self.locked():
            for selection, content in packed:
                self._check_selection(selection, content)
            for selection, content in packed:
                self.store(self._selection_file(selection.method), content)

    def _check_selection(self, selection: Selection, content: bytes) -> None:
        method, manifest = selection.method, self.manifest
        for neurons in selection.values():
            check_same_model(manifest["model"], neurons.model, f"keep the selection {method} in {self.path}")
        steps = (metadata for metadata in manifest.values() if isinstance(metadata, Mapping))
        # Only answers tie a name to its neurons: without any, a selection may be replaced.
        swept = any(mask.startswith(mask_name(method, "")) for metadata in steps for mask in metadata.get("masks", ()))
        if swept and not self._the_same(self._selection_file(method), selection, content):
            raise GatescopeError(
                f"{self.path} holds answers under other {method} neurons than these (another rate or another recording). "
                f"Choose another directory for these, so that its answers and its neurons belong together."
            )
        self._refuse_rate(manifest.get("study", {}), selection)

    def _refuse_rate(self, study: Mapping[str, Any], selection: Selection) -> None:
        """Refuse a selection at another rate than that of the study the run is of: it would seem to be one of the study's."""
        rates = {float(neurons.provenance["rate"]) for neurons in selection.values() if "rate" in neurons.provenance}
        # Only a comparison of selectors, which has options for each of them, is at one rate.
        if "options" in study and rates - {study["rate"]}:
            raise GatescopeError(
                f"{self.path} is a study with rate {study['rate']}, and {selection.method} was selected at rate {rates.pop()}. "
                f"Select at the study's rate, or choose another directory."
            )

    def _the_same(self, file: str, selection: Selection, content: bytes) -> bool:
        """Whether a selection is the one that the run holds, or held until its file was deleted."""
        path = self.path / file
        if path.is_file():
            return dict(Selection.load(path)) == dict(selection)
        digest = hashlib.sha256(content).hexdigest()
        return (self.files or {}).get(file, digest) == digest

    def check_masks(self, selector: str, masks: Mapping[str, NeuronSet]) -> None:
        """Refuse masks under a selection's name that are of other neurons, by group: they would be reported as its own.

        Raises:
            GatescopeError: saying what to do.
        """
        file = self.path / self._selection_file(selector)
        if not file.is_file():
            return
        stored = Selection.load(file)
        for group, neurons in masks.items():
            own = stored.values() if group == ALL else [stored[group]] if group in stored else []
            if any(chosen != neurons for chosen in own):
                raise GatescopeError(
                    f"{self.path} holds other {selector} neurons than these masks are of (another rate or another recording). "
                    f"Sweep those it holds, give these masks another name, or choose another directory."
                )

    def _selection_file(self, method: str) -> str:
        taken = [Path(file).stem for file in self._files("selections/*.safetensors")]
        return f"selections/{distinct(method, taken)}.safetensors"

    def _answers(self, name: str) -> str:
        taken = [file[len("answers.") : -len(".jsonl")] for file in self._files("answers.*.jsonl")]
        return f"answers.{distinct(name, taken)}.jsonl" if name else "answers.jsonl"

    def _files(self, pattern: str) -> list[str]:
        """The run's files of a pattern, as the manifest has them; in a run of the first release those that are there."""
        found = self.files
        if found is None:
            found = [path.relative_to(self.path).as_posix() for path in self.path.glob(pattern)]
        return sorted(file for file in found if Path(file).match(pattern) and file.count("/") == pattern.count("/"))

    @property
    def selections(self) -> dict[str, Selection]:
        """Selections by method.

        Raises:
            GatescopeError: if one is missing, altered, or not the one its file is named after.
        """
        selections: dict[str, Selection] = {}
        for file in self._files("selections/*.safetensors"):
            self.refuse_altered(file)
            selection = Selection.load(self.path / file)
            # The first release wrote names as they are.
            if Path(file).stem not in (*spellings(selection.method), selection.method):
                raise GatescopeError(
                    f"{self.path / file} holds the neurons of {selection.method}: it was put in the place of another file. Put "
                    f"the two back, or select again."
                )
            selections[selection.method] = selection
        return selections

    def add_answers(self, table: Table, name: str = "") -> None:
        """Keep a sweep's answers; under a name where a run has several sweeps."""
        with self.locked():  # its name depends on those that are there
            self.write_rows(self._answers(name), (row.plain() for row in table.rows))

    @property
    def table(self) -> Table:
        """The sweep's answers; errors as for `table_of`."""
        return self.table_of("")

    def table_of(self, name: str) -> Table:
        """The answers of the sweep of that name.

        Raises:
            GatescopeError: if no such sweep was run.
        """
        file = self._answers(name)
        if file not in self._files("answers*.jsonl"):
            raise GatescopeError(f"{self.path} holds no sweep yet.")
        return self._table(file)

    def _table(self, file: str) -> Table:
        self.refuse_altered(file)
        # Line by line: of hundreds of thousands, as text and as dictionaries, each would be held for nothing.
        with uncollected():
            return Table(Row.parsed(foreign.lines(self.path / file, Answer, advice=_AGAIN, ours=True)))

    def read_rows(self, name: str) -> list[Answer]:
        """The rows of a JSONL file of the run.

        Raises:
            GatescopeError: if it was altered, or cannot be read, naming the line and the field.
        """
        self.refuse_altered(name)
        return foreign.read_lines(self.path / name, Answer, advice=_AGAIN, ours=True)

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file of the run."""
        lines = (foreign.encoded(row, str(self.path / name)) for row in rows)
        self.store(name, b"".join(line + b"\n" for line in lines))


def mask_name(selector: str, group: str) -> str:
    """What a mask is called in the manifest: its selector, without the slash that divides the two, and its group.

    >>> mask_name("CAS", "a/b"), mask_name("CAS/a", "b")
    ('CAS/a/b', 'CAS%2Fa/b')
    """
    return f"{selector.replace('%', '%25').replace('/', '%2F')}/{group}"
