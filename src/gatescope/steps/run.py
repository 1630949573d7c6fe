"""A run directory: everything a study produced, complete without the model.

    manifest.json               what was run: model, data, token rule, batches, versions
    shards/NNNNN.safetensors    counters and answers of one shard of identification examples
    shards.STEP/...             the same of an attribution, or of a sweep
    identification.jsonl        the full model's answers to the identification examples
    selections/NAME.safetensors neuron sets, scores and provenance of a selector
    answers.jsonl               a sweep: every mask's answer to every evaluation example (answers.TASK.jsonl of several)
    questions/FINGERPRINT.jsonl the examples that were asked (see `gatescope.steps.questions`)

Counters are sums, so those of the run are its shards' in order. Files appear whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from gatescope.core import artefacts
from gatescope.core.attributions import Attributions
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.core.garbage import uncollected
from gatescope.core.layout import Layout
from gatescope.core.neurons import check_same_model
from gatescope.data.example import Example
from gatescope.select.selection import Selection
from gatescope.statistics.table import Row, Table
from gatescope.steps.manifest import Manifest
from gatescope.steps.questions import questions_of
from gatescope.steps.shards import Shards

FORMAT = "gatescope.run/2"
Sums = TypeVar("Sums", Counters, Attributions)
_ORIGIN = (
    *("site", "sites", "token_rule", "fingerprint", "only_correct", "readout", "versions", "kernel", "server"),
    *("reduce", "pad_zero", "attention"),
)


class Run(Manifest):
    """A run directory; `Run.open` reads one, `Run.at` starts or continues one."""

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
        if occupied(run.path):
            raise GatescopeError(f"{path} exists and is not a run. Choose a directory that is new or empty.")
        # Two processes may start the run at the same moment; the manifest is looked for again under the lock.
        with run.locked():
            if not run._manifest.is_file():
                run.note({"format": FORMAT, "model": dict(model)})
        return run

    @property
    def counters(self) -> Counters:
        """The counters of all shards, added in order, where one class of tokens was recorded.

        Raises:
            GatescopeError: if none were recorded, a shard the manifest plans is missing or damaged, or several classes of
                tokens were recorded (then ask for one with `counters_of`).
        """
        classes = self.manifest.get("record", {}).get("tokens", ["all"])
        if len(classes) != 1:
            raise GatescopeError(f"{self.path} has counters of {classes}; ask for one: run.counters_of({classes[0]!r}).")
        return self.counters_of(classes[0])

    def counters_of(self, tokens: str) -> Counters:
        """The counters of one class of tokens; errors as for `counters`."""

        def shard(tensors: Mapping[str, Any], metadata: Mapping[str, Any], **common: Any) -> Counters:
            sums = {name.partition("/")[2]: sum_ for name, sum_ in tensors.items() if name.startswith(f"{tokens}/")}
            return Counters(**common, **sums, provenance=_origin(metadata) | {"tokens": tokens})

        return self._added("record", shard)

    @property
    def attributions(self) -> dict[str, Attributions]:
        """The attributions of the run, by name ("" where there is one only)."""
        return {name: self.attributions_of(_step("attribute", name)) for name in self._names("attribute")}

    def attributions_of(self, step: str = "attribute") -> Attributions:
        """The attributions of one step, its shards' added in order; errors as for `counters`."""

        def shard(tensors: Mapping[str, Any], metadata: Mapping[str, Any], **common: Any) -> Attributions:
            return Attributions(**common, **tensors, items=metadata["items"], provenance=_origin(metadata))

        return self._added(step, shard)

    def _added(self, step: str, parse: Callable[..., Sums]) -> Sums:
        """The sums of a step: what `parse` makes of every shard, added in order."""
        shards = Shards.of(self, step)
        model = self.manifest["model"]
        common = {"groups": tuple(shards.metadata["groups"]), "layout": Layout.parse(shards.metadata["layout"])}
        # A server may have the model in another dtype, and says so with each shard.
        sums_of_shards = (
            parse(sums, shards.metadata, **common, model=model | about.get("model", {})) for sums, about in shards.all()
        )
        return reduce(lambda total, shard: total + shard, sums_of_shards)  # a plan has a shard at least

    def _names(self, kind: str) -> list[str]:
        """The names under which a kind of step was started, such as those of several sweeps."""
        return [key.removeprefix(kind).removeprefix(" of ") for key in self.manifest if key.split(" of ")[0] == kind]

    def questions(self, name: str = "") -> tuple[Example, ...]:
        """What the sweep of that name asked, in order; nothing in a run of an earlier version, which did not keep it.

        Pictures are read from their files when they are used; one that is gone, or has changed, cannot be opened.

        Raises:
            GatescopeError: if the questions cannot be read.
        """
        return questions_of(self, _step("sweep", name))

    @property
    def sweeps(self) -> dict[str, Table]:
        """The run's sweeps by name ("" for the one without), in the order they were begun."""
        finished = {path.name[len("answers") : -len(".jsonl")].removeprefix(".") for path in self.path.glob("answers*.jsonl")}
        # The manifest has the order in which sweeps began; files without an entry come last, by name.
        names = [name for name in self._names("sweep") if name in finished]
        return {name: self.table_of(name) for name in dict.fromkeys([*names, *sorted(finished)])}

    @property
    def steps(self) -> dict[str, Shards]:
        """The shards of every step that was started, by the step's name."""
        begun = [step for step, metadata in self.manifest.items() if isinstance(metadata, dict) and "shards" in metadata]
        return {step: Shards.of(self, step) for step in begun}

    def verify(self) -> list[str]:
        """Everything that is wrong with the run: shards that are missing, truncated, altered or another run's."""
        return [line for step, shards in self.steps.items() for line in _wrong(step, shards)]

    def add_selection(self, selection: Selection) -> None:
        """Keep a selection, under its method's name.

        Raises:
            GatescopeError: if the run holds answers under other neurons of that name, which would then be reported as
                those of these neurons.
        """
        file, name = self.path / "selections" / f"{selection.method}.safetensors", selection.method
        steps = (metadata for metadata in self.manifest.values() if isinstance(metadata, Mapping))
        # Only answers tie a name to its neurons: without any, a selection may be replaced.
        swept = any(mask.startswith(f"{name}/") for metadata in steps for mask in metadata.get("masks", ()))
        if swept and file.is_file() and dict(Selection.load(file)) != dict(selection):
            raise GatescopeError(
                f"{self.path} holds answers under other {name} neurons than these (another rate or another recording). Choose "
                f"another directory for these, so that its answers and its neurons belong together."
            )
        selection.save(file)

    def add_selections(self, selections: Iterable[Selection]) -> None:
        """Keep several selections; errors as for `add_selection`."""
        for selection in selections:
            self.add_selection(selection)

    @property
    def selections(self) -> dict[str, Selection]:
        """Selections by method."""
        return {p.stem: Selection.load(p) for p in sorted((self.path / "selections").glob("*.safetensors"))}

    def add_answers(self, table: Table, name: str = "") -> None:
        """Keep a sweep's answers; under a name where a run has several sweeps."""
        self.write_rows(_answers(name), (row.plain() for row in table.rows))

    @property
    def table(self) -> Table:
        """The sweep's answers; errors as for `table_of`."""
        return self.table_of("")

    def table_of(self, name: str) -> Table:
        """The answers of the sweep of that name.

        Raises:
            GatescopeError: if no such sweep was run.
        """
        path = self.path / _answers(name)
        if not path.is_file():
            raise GatescopeError(f"{self.path} holds no sweep yet.")
        # Line by line: of hundreds of thousands, as text and as dictionaries, each would be held for nothing.
        with uncollected(), path.open(encoding="utf-8", newline="\n") as file:
            return Table(Row.parsed(json.loads(line) for line in file if line != "\n"))

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL file of the run."""
        # Not splitlines: it also cuts at U+2028 and others, which JSON leaves as they are in an answer.
        return [json.loads(line) for line in (self.path / name).read_text(encoding="utf-8").split("\n") if line]

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file of the run."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        artefacts.write_bytes(self.path / name, text.encode())


def occupied(path: Path) -> bool:
    """Whether something is at a path that is no run; what a process killed at its very beginning leaves does not count.

    >>> occupied(Path("no such directory"))
    False
    """
    if not path.is_dir():
        return path.exists()
    return not (path / "manifest.json").is_file() and any(p.suffix not in (".lock", ".partial") for p in path.iterdir())


def _step(kind: str, name: str) -> str:
    """What a step is called in the manifest.

    >>> _step("sweep", ""), _step("sweep", "qnli")
    ('sweep', 'sweep of qnli')
    """
    return f"{kind} of {name}" if name else kind


def _answers(name: str) -> str:
    return f"answers.{name}.jsonl" if name else "answers.jsonl"


def _origin(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What a step's sums say of where they came from; texts as they are, all else as JSON."""
    return {name: v if isinstance(v, str) else json.dumps(v) for name, v in metadata.items() if name in _ORIGIN}


def _wrong(step: str, shards: Shards) -> Iterator[str]:
    """What is wrong with the shards of a step."""
    for index in range(len(shards)):
        try:
            if shards.file(index).is_file():
                shards.load(index)
        except GatescopeError as error:
            yield str(error)
    if missing := shards.missing:
        yield f"{step}: {len(missing)} of {len(shards)} shards are not done: {_ranges(missing)}."


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in words.

    >>> _ranges([0, 1, 2, 5])
    '0 to 2, 5'
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans)


open_run = Run.open
