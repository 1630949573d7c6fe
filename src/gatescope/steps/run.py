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
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from gatescope.core import foreign
from gatescope.core.attributions import Attributions
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.relatives import check_same_model
from gatescope.data.example import Example
from gatescope.steps.damage import problems
from gatescope.steps.manifest import FORMAT
from gatescope.steps.questions import questions_of
from gatescope.steps.results import Results
from gatescope.steps.schema import MEND, Attributed, Summed
from gatescope.steps.shards import Shards

_ORIGIN = (
    *("site", "sites", "token_rule", "fingerprint", "only_correct", "readout", "versions", "kernel", "server"),
    *("reduce", "pad_zero", "attention"),
)


class Run(Results):
    """A run directory; `Run.open` reads one, `Run.at` starts or continues one."""

    alone = ""  # what the manifest holds as long as nobody but who started the run has come to it

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run to read.

        Raises:
            GatescopeError: if there is none, or it is of another format.
        """
        run = cls(path)
        if not os.path.isfile(run._manifest):  # Path.is_file raises for a name that is too long
            raise GatescopeError(f"No run at {path}: there is no {run._manifest.name}.")
        if "model" not in run.manifest:
            raise GatescopeError(f"{run._manifest} does not say which model the run is of. {MEND}")
        return run

    @classmethod
    def at(cls, path: str | Path | Run, model: Mapping[str, str], *, alone: str = "") -> Run:
        """The run at `path`, started if it is not there yet.

        Args:
            path: the run, or its directory.
            model: the identity of the model it is of.
            alone: noted if the run is started here, and taken out again by whoever comes to it without it: as long as it
                is there, nobody else has.

        Raises:
            GatescopeError: if it is there and belongs to another model, or the path holds something else.
        """
        run = path if isinstance(path, Run) else cls(path)
        run.alone = run.alone or alone
        if occupied(run.path):
            raise GatescopeError(f"{run.path} exists and is not a run. Choose a directory that is new or empty.")
        # Two processes may start the run at the same moment: all is looked at under the lock.
        with run.locked():
            if not run._manifest.is_file():
                run.note({"format": FORMAT, "model": dict(model), "files": {}, "alone": alone})
                return run
            manifest = run.manifest
            check_same_model(manifest["model"], model, f"continue the run {run.path}")
            if manifest.get("alone", run.alone) != run.alone:
                run.note({"alone": ""})
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
        counters, _ = self.recorded((tokens,))
        return counters[tokens]

    def recorded(self, classes: Sequence[str]) -> tuple[dict[str, Counters], list[dict[str, Any]]]:
        """The counters of several classes of tokens, and the answers, as rows; errors as for `counters`."""
        totals: dict[str, Counters] = {}
        rows: list[dict[str, Any]] = []
        stored = Shards.of(self, "record")
        provenance = _origin(stored.metadata)
        # Once through the shards for all of it: of a large model they are gigabytes together.
        for tensors, about, common in self._sums(stored):
            rows += about.get("rows", ())
            for tokens in classes:
                sums = {name.partition("/")[2]: sum_ for name, sum_ in tensors.items() if name.startswith(f"{tokens}/")}
                counters = Counters(**common, **sums, provenance=provenance | {"tokens": tokens})
                if tokens in totals:
                    totals[tokens].add(counters)
                else:
                    totals[tokens] = counters
        return totals, rows

    @property
    def attributions(self) -> dict[str, Attributions]:
        """The attributions of the run, by name ("" where there is one only)."""
        return {name: self.attributions_of(_step("attribute", name)) for name in self.names("attribute")}

    def attributions_of(self, step: str = "attribute") -> Attributions:
        """The attributions of one step, its shards' added in order; errors as for `counters`."""
        stored = Shards.of(self, step)
        foreign.check(stored.metadata, Attributed, f"{self._manifest} cannot be read: {step!r}", MEND)
        more: dict[str, Any] = {"items": stored.metadata["items"], "provenance": _origin(stored.metadata)}
        shards = (Attributions(**common, **tensors, **more) for tensors, _, common in self._sums(stored))
        return reduce(add, shards)  # a plan has a shard at least

    def _sums(self, stored: Shards) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """Each shard's tensors and metadata, in order, and what its sums are of: groups, layout, model."""
        foreign.check(stored.metadata, Summed, f"{self._manifest} cannot be read: {stored.step!r}", MEND)
        model = self.manifest["model"]
        common = {"groups": tuple(stored.metadata["groups"]), "layout": Layout.parse(stored.metadata["layout"])}
        for tensors, about in stored.all():
            # All but the dtype is the run's: a model may lie in another directory today, and is the same.
            yield tensors, about, {**common, "model": model | _dtype(about)}

    def questions(self, name: str = "") -> tuple[Example, ...]:
        """What the sweep of that name asked, in order; nothing in a run of an earlier version, which did not keep it.

        Pictures are read from their files when they are used; one that is gone, or has changed, cannot be opened.

        Raises:
            GatescopeError: if the questions cannot be read.
        """
        return questions_of(self, _step("sweep", name))

    @property
    def steps(self) -> dict[str, Shards]:
        """The shards of every step that was started, by the step's name."""
        begun = [step for step, metadata in self.manifest.items() if isinstance(metadata, dict) and "shards" in metadata]
        return {step: Shards.of(self, step) for step in begun}

    def verify(self) -> list[str]:
        """Everything that is wrong with the run: files that are missing, truncated, altered, or another run's.

        Of a run of the first release, whose manifest has no table of files, shards alone.
        """
        return list(problems(self, self.steps))


def occupied(path: Path) -> bool:
    """Whether something is at a path that is no run; what a process killed at its very beginning leaves does not count.

    >>> occupied(Path("no such directory"))
    False
    """
    if not os.path.isdir(path):
        return os.path.lexists(path)
    return not (path / "manifest.json").is_file() and any(p.suffix not in (".lock", ".partial") for p in path.iterdir())


def _step(kind: str, name: str) -> str:
    """What a step is called in the manifest.

    >>> _step("sweep", ""), _step("sweep", "qnli")
    ('sweep', 'sweep of qnli')
    """
    return f"{kind} of {name}" if name else kind


def _dtype(about: Mapping[str, Any]) -> dict[str, str]:
    """What a shard says of the dtype it was computed in: a server may have the model in another than the run's first."""
    return {name: value for name, value in about.get("model", {}).items() if name == "dtype"}


def _origin(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What a step's sums say of where they came from; texts as they are, all else as JSON."""
    return {name: v if isinstance(v, str) else json.dumps(v) for name, v in metadata.items() if name in _ORIGIN}


open_run = Run.open
