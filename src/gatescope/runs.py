"""A run directory: everything a study produced, complete without the model.

    manifest.json               what was run: model, data, token rule, batches, versions
    shards/NNNNN.CLASS.safetensors  counters of one shard of examples, for one class of tokens
    identification.jsonl        the full model's answers to the identification examples
    selections/NAME.safetensors neuron sets, scores and provenance of a selector
    answers.jsonl               a sweep: every mask's answer to every evaluation example

Counters are sums, so those of the run are its shards' in order. Files appear whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from gatescope import artefacts
from gatescope.counters import Counters
from gatescope.errors import GatescopeError
from gatescope.evaluate.table import Row, Table
from gatescope.neurons import check_same_model
from gatescope.select.selection import Selection

FORMAT = "gatescope.run/1"


class Run:
    """A run directory; `Run.open` reads one, `Run.at` starts or continues one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run to read.

        Raises:
            GatescopeError: if there is none, or it is of another format.
        """
        run = cls(path)
        if not run._manifest.is_file():
            raise GatescopeError(f"No run at {path}: there is no {run._manifest.name}.")
        if run.manifest.get("format") != FORMAT:
            raise GatescopeError(f"{path} is {run.manifest.get('format')}; this version reads {FORMAT}.")
        return run

    @classmethod
    def at(cls, path: str | Path | Run, model: Mapping[str, str]) -> Run:
        """The run at `path`, started if it is not there yet.

        Raises:
            GatescopeError: if it is there and belongs to another model, or the path holds something else.
        """
        if isinstance(path, Run):
            path = path.path
        run = cls(path)
        if run._manifest.is_file():
            check_same_model(cls.open(path).manifest["model"], model, f"continue the run {path}")
            return run
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise GatescopeError(f"{path} exists and is not a run. Choose a directory that is new or empty.")
        run.note({"format": FORMAT, "model": dict(model)})
        return run

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run.

        Raises:
            GatescopeError: if it cannot be read.
        """
        try:
            return json.loads(self._manifest.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise GatescopeError(f"{self._manifest} cannot be read: {error}.") from error

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add facts to the manifest."""
        before = self.manifest if self._manifest.is_file() else {}
        text = json.dumps(before | dict(facts), indent=1, ensure_ascii=False)
        artefacts.write_bytes(self._manifest, text.encode())

    def shard(self, index: int, tokens: str = "all") -> Path:
        """Where a shard's counters of one class of tokens are, or will be."""
        return self.path / "shards" / f"{index:05d}.{tokens}.safetensors"

    @property
    def counters(self) -> Counters:
        """The counters of all shards, added in order, where one class of tokens was recorded.

        Raises:
            GatescopeError: if none were recorded, a shard the manifest plans is missing, or several classes of tokens
                were recorded (then ask for one with `counters_of`).
        """
        classes = self.manifest.get("record", {}).get("tokens", ["all"])
        if len(classes) != 1:
            raise GatescopeError(f"{self.path} has counters of {classes}; ask for one: run.counters_of({classes[0]!r}).")
        return self.counters_of(classes[0])

    def counters_of(self, tokens: str) -> Counters:
        """The counters of one class of tokens; errors as for `counters`."""
        planned = len(self.manifest.get("record", {}).get("shards", []))
        missing = [i for i in range(planned) if not self.shard(i, tokens).is_file()]
        if not planned or missing:
            raise GatescopeError(
                f"{self.path} has {planned - len(missing)} of {planned} recorded shards; record it to the end."
            )
        return reduce(add, (Counters.load(self.shard(i, tokens)) for i in range(planned)))

    def add_selection(self, selection: Selection) -> None:
        """Keep a selection, under its method's name."""
        selection.save(self.path / "selections" / f"{selection.method}.safetensors")

    @property
    def selections(self) -> dict[str, Selection]:
        """Selections by method."""
        return {p.stem: Selection.load(p) for p in sorted((self.path / "selections").glob("*.safetensors"))}

    def add_answers(self, table: Table, facts: Mapping[str, Any]) -> None:
        """Keep a sweep's answers."""
        self.write_rows("answers.jsonl", (row.plain() for row in table.rows))
        self.note({"sweep": dict(facts)})

    @property
    def table(self) -> Table:
        """The sweep's answers.

        Raises:
            GatescopeError: if no sweep was run.
        """
        path = self.path / "answers.jsonl"
        if not path.is_file():
            raise GatescopeError(f"{self.path} holds no sweep yet.")
        return Table(Row.parse(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file of the run."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        artefacts.write_bytes(self.path / name, text.encode())
