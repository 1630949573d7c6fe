"""Running a batch of questions: where answers, counts and masks meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnsight import TransformersModel

from gatescope.core.errors import one_of
from gatescope.traces.encoding import Batch
from gatescope.traces.passes import UNMASKED, Masks
from gatescope.traces.readouts.argmax import Argmax
from gatescope.traces.readouts.base import Answer, Asking, Readout
from gatescope.traces.readouts.choices import Label, LikertLabel, Loglik, LoglikMean
from gatescope.traces.readouts.generated import Generate, Likert, Short
from gatescope.traces.readouts.passages import Passages

# Read-outs hold no state, so one object each is enough.
_ALL = (Generate(), Short(), Likert(), LikertLabel(), Label(), Argmax(), Loglik(), LoglikMean(), Passages())
READOUTS: dict[str, Readout] = {readout.name: readout for readout in _ALL}
GENERATED = tuple(name for name, readout in READOUTS.items() if readout.generates)


def readout_named(name: str) -> Readout:
    """The read-out of a name.

    Raises:
        GatescopeError: for an unknown one, with those there are.
    """
    return READOUTS[one_of("readout", name, tuple(READOUTS))]


def run_batch(
    model: TransformersModel,
    batch: Batch,
    *,
    masks: Masks = UNMASKED,
    inside: Callable[[], Any] | None = None,
    readout: str = "generate",
    max_new_tokens: int = 20,
) -> tuple[list[Answer], Any]:
    """Put a batch to the model and read its answers.

    Args:
        model: from `load_model`, or an edited copy.
        batch: the encoded prompts.
        masks: what is changed meanwhile; of several, each in its own block of rows (see `vision.repeated`).
        inside: called once in a trace of the prompts; what it reads is the prefill, what it returns is kept.
        readout: how the answers are read; see `gatescope.traces.readouts`.
        max_new_tokens: at most this many tokens a generated answer (the paper: 20).

    Returns:
        Each row's text (or label, or option) and how it was read, and what `inside` returned.

    Raises:
        GatescopeError: for an unknown read-out, or an example it cannot read.
    """
    reader = readout_named(readout)
    # Before the model runs: an example that cannot be read must not cost a forward pass.
    reader.readable(model, batch.examples)
    outcome, returned = reader.put(model, batch, Asking(masks, inside, max_new_tokens))
    return reader.read(model, batch.examples, outcome), returned
