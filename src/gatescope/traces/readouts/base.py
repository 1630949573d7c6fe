"""A read-out: how a model is asked, and how its answers are read.

Each is an object that says what an example must have, puts a batch to the model, reads what came back, and does the same
for a server: there the batch is plain data, and who can tell whether an answer is right depends on the read-out. What
comes back from a model, here or there, is an `Outcome`: generated ids [b, t], each row's next token [b], each row's
log-probabilities of its options, or None. Where the model gave NaN, ids are -1 and log-probabilities NaN: the row is a hole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nnsight import TransformersModel

from gatescope.core.answers import HOLE, Reading
from gatescope.core.errors import GatescopeError
from gatescope.data.example import Example
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import Batch
from gatescope.traces.jobs import Asked, Forward
from gatescope.traces.passes import Masks

Answer = tuple[str, Reading]  # the text (or label, or option), and what it was read as
NO_ANSWER: Answer = ("", HOLE)


@dataclass(frozen=True)
class Asking:
    """What happens while a batch is asked.

    Attributes:
        masks: what is changed.
        inside: called once in a trace of the prompts; None if nothing is to be kept.
        max_new_tokens: at most this many tokens a generated answer.
    """

    masks: Masks
    inside: Callable[[], Any] | None
    max_new_tokens: int

    def work(self) -> Any:
        """What runs inside a trace of all rows' prompts."""
        # First the changes: what `inside` reads must be what the masked model computes.
        self.masks.together()
        return self.inside() if self.inside is not None else None


class Readout(ABC):
    """One way to ask and to read.

    Attributes:
        name: what `readout=` is given.
        generates: whether the model writes its answer token by token.
        decides: what a server goes by to tell whether an answer is right: "text", "token", "option"; or "client", where it
            cannot.
    """

    name: ClassVar[str]
    generates: ClassVar[bool] = False
    decides: ClassVar[str] = "option"

    @abstractmethod
    def lacks(self, example: Example) -> str | None:
        """What an example lacks for this read-out; None if nothing."""

    @abstractmethod
    def put(self, model: TransformersModel, batch: Batch, asking: Asking) -> tuple[Any, Any]:
        """Put a batch to the model: what came back, and what `asking.inside` returned."""

    @abstractmethod
    def job(self, model: TransformersModel, batch: Batch) -> Asked:
        """A batch as plain data for `gatescope.traces.shipped`."""

    @abstractmethod
    def read(self, model: TransformersModel, examples: Sequence[Example], outcome: Any) -> list[Answer]:
        """Each example's answer out of what came back."""

    def check(self, example: Example) -> None:
        """Refuse an example that this read-out cannot read.

        Raises:
            GatescopeError: saying what it lacks, and which read-out fits it.
        """
        lacks = self.lacks(example)
        if lacks is None:
            return
        hint = " Labels are given with the example: labels=('A', 'B', ...), one for each choice." if lacks == "labels" else ""
        raise GatescopeError(
            f"Example {example.id!r} has no {lacks}, which readout={self.name!r} needs; "
            f"{_fitting(example)!r} can read it.{hint}"
        )

    def readable(self, model: TransformersModel, examples: Sequence[Example]) -> None:
        """Refuse examples that this read-out cannot read with this model, before anything is run.

        Raises:
            GatescopeError: as `check` does; and for labels that the tokenizer has no tokens for.
        """
        for example in examples:
            self.check(example)


def _fitting(example: Example) -> str:
    if example.references:
        return "short"
    if not example.choices:
        return "none"
    return "label" if example.labels else "generate"


def forward_data(model: TransformersModel, batch: Batch) -> Forward:
    """A batch that is put to the model in one plain forward pass, as plain data."""
    # keep=1: the next token is predicted at the last position, since prompts are padded on the left.
    return {"inputs": dict(batch.inputs), "options": forward_options(model, batch.inputs, keep=1)}
