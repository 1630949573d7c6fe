"""Sweep: answer the same questions with the full model and under every intervention.

Masks go side by side: a batch's rows are put to the model several times at once, each time under another mask, and a
picture's features are computed once for all of them. The answers are those of one mask at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError
from gatescope.core.renamed import renamed
from gatescope.data.example import Example, fingerprint, listed, readout_of
from gatescope.interventions.apply import masks_of
from gatescope.interventions.intervention import Intervention
from gatescope.models.identity import identity, versions
from gatescope.statistics.table import FULL, Row, Table
from gatescope.steps.batches import Batches, Plan
from gatescope.steps.finite import refuse_holes
from gatescope.steps.masks import Interventions, Masks, by_selector, different, found_on, touching, used_on
from gatescope.steps.plan import split_on_oom
from gatescope.steps.remote.sweep import sweep_shards
from gatescope.steps.results import mask_name
from gatescope.steps.run import Run
from gatescope.steps.runner import run_step
from gatescope.steps.shards import Shards
from gatescope.steps.step import Executor, Options, Step
from gatescope.traces import vision
from gatescope.traces.batch import readout_named, run_batch
from gatescope.traces.encoding import Batch
from gatescope.traces.readouts.generated import check_new_tokens

Answer = tuple[str, Reading]
Answers = list[list[Answer]]  # by mask, then by example
ROWS = {"cpu": 64, "cuda": 256}  # at most so many rows side by side, unless a batch alone has more


@renamed(together="masks_per_batch")
def sweep(
    model: TransformersModel,
    examples: Sequence[Example],
    interventions: Interventions,
    *,
    run: str | Path | Run | None = None,
    name: str = "",
    batch_size: int | str = 16,
    shard_size: int = 256,
    masks_per_batch: int | None = None,
    readout: str | None = None,
    max_new_tokens: int = 20,
    workers: int = 0,
    remote: Any = None,
    executor: Executor | None = None,
    allow: str | None = None,
    progress: bool = True,
) -> Table:
    """Generate every example's answer with the full model and under each intervention.

    Interventions that are equal are run once; a selector whose masks are all the same (RND) has one, named "*". One that
    changes no neuron has the full model's answers.

    Args:
        model: from `load_model`; without weights if the work is done remotely.
        examples: what to ask.
        interventions: by the group the neurons were found on, or by selector and then by group.
        run: directory for shards, answers and manifest. What is done there already is not done again.
        name: of this sweep in the run, where it has several.
        batch_size, shard_size, workers, remote, executor: as for `record`.
        masks_per_batch: masks side by side in one batch; as many as fit well if None, 1 for one at a time.
        readout: how an answer is read (see `gatescope.traces.readouts`): "generate", "label", "loglik", "short", ...; None
            takes what fits the examples, as for `record`.
        max_new_tokens: at most this many tokens an answer (the paper: 20).
        allow: "same layout" where neurons may have been found on another model, such as the one that this is a fine-tune of;
            the run's manifest and its report name both.
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        The table of answers. Where the model gives NaN under a mask there is no answer but a hole (`Reading.hole`), which no
        effect includes.

    Raises:
        GatescopeError: without examples, for an example that the read-out cannot read, if neurons belong to another model, if
            `run` was started with something else, or if the model gives NaN without a mask.
    """
    readout = readout or readout_of(listed(examples))
    if allow is not None:
        interventions = used_on(model, interventions, allow)
    step = Sweeping(model, examples, interventions, masks_per_batch, readout, max_new_tokens, name)
    outcome = run_step(step, Options(run, batch_size, shard_size, workers, remote, progress=progress, executor=executor))
    shards = [outcome.total] if outcome.total is not None else step.unpacked(outcome.stored)
    by_mask = [[answer for shard in shards for answer in shard[which]] for which in range(len(step.masks))]
    table = _table(examples, outcome.plan, by_mask, step.masks, step.named)
    if outcome.directory is not None:
        outcome.directory.add_answers(table, name)
    return table


class Sweeping(Step[Answers]):
    """Sweeping as a step; arguments and errors as for `sweep`. A shard is each mask's answers, in the order of its batches."""

    doing, unit = "sweeping", "answers"

    def __init__(
        self,
        model: TransformersModel,
        examples: Sequence[Example],
        interventions: Interventions,
        masks_per_batch: int | None,
        readout: str,
        max_new_tokens: int,
        name: str = "",
    ) -> None:
        if not examples:
            raise GatescopeError("A sweep needs examples; there are none.")
        if masks_per_batch is not None and masks_per_batch < 1:
            raise GatescopeError(f"masks_per_batch is {masks_per_batch}; at least one mask must be run at a time.")
        check_new_tokens(max_new_tokens)
        # Before a run is started: a directory with a misspelt read-out in it could not be continued with the right one.
        readout_named(readout).readable(model, examples)
        super().__init__(model, examples)
        self.name = f"sweep of {name}" if name else "sweep"
        self.masks_per_batch = masks_per_batch
        self.how = {"readout": readout, "max_new_tokens": max_new_tokens}
        self.named = by_selector(interventions)
        self.masks = different(model, self.named)
        self.times = len(self.masks)
        self.card = identity(model)
        self.metadata = {
            "fingerprint": fingerprint(examples),
            **self.how,
            "masks": {mask_name(s, g): mask.digest() for s, masks in self.named.items() for g, mask in masks.items()},
            "versions": versions(),
            "examples": len(examples),
            **found_on(self.named),
        }

    def check(self, run: Run) -> None:
        """Refuse masks under the name of a selection of the run that are of other neurons."""
        for selector, masks in self.named.items():
            run.check_masks(selector, {group: mask.neurons for group, mask in masks.items()})

    def started(self, metadata: Mapping[str, Any]) -> None:
        """Put the masks in the run's order: its shards hold answers mask by mask, as they were when it was started."""
        masks = {mask_name(s, g): mask for s, by_group in self.named.items() for g, mask in by_group.items()}
        self.masks = different(self.model, {"": {key: masks[key] for key in metadata["masks"]}, **self.named})

    def begin(self) -> Answers:
        """No answers yet under any mask."""
        return [[] for _ in self.masks]

    def work(self, shard: Answers, positions: Sequence[int], batch: Batch) -> None:
        """Answer a batch under every mask."""
        by_mask = _all_masks(self.model, batch, self.masks, self.masks_per_batch, self.how)
        refuse_holes(by_mask[0], batch.examples)
        for of_mask, answers in zip(shard, by_mask, strict=True):
            of_mask += answers

    def on_server(
        self, batches: Batches, positions: Mapping[int, list[int]], remote: Any, ledger: Path | None, dtype: str | None
    ) -> Iterator[tuple[int, Answers]]:
        """As `work`, on a server."""

        def told(computed_in: str) -> None:
            self.card = self.card | {"dtype": computed_in}

        line = {"remote": remote, "ledger": ledger, "dtype": dtype, "told": told}
        yield from sweep_shards(self.model, batches, self.masks, **self.how, **line)

    def add(self, total: Answers, shard: Answers) -> Answers:
        """One shard's answers after the other's."""
        return [before + after for before, after in zip(total, shard, strict=True)]

    def pack(self, shard: Answers) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The answers as lists, and the model as it was."""
        return {}, {"answers": [[_plain(answer) for answer in answers] for answers in shard], "model": self.card}

    def unpacked(self, stored: Shards | None) -> list[Answers]:
        """The answers of every stored shard, in order."""
        shards = () if stored is None else stored.all()
        return [[[_parse(answer) for answer in answers] for answers in metadata["answers"]] for _, metadata in shards]


def _all_masks(
    model: TransformersModel, batch: Batch, masks: Masks, masks_per_batch: int | None, how: Mapping[str, Any]
) -> list[list[Answer]]:
    """A batch's answers under every mask."""
    rows = len(batch.examples)
    # As many masks as fill the device: small batches leave it idle.
    most = masks_per_batch or max(1, ROWS.get(model._module.device.type, 64) // rows)
    # Masks act on the language model alone, so a picture's features are the same under all of them.
    pictures = vision.features(model, batch) if len(masks) > 1 else None

    def run_masks(chunk: Masks) -> list[list[Answer]]:
        answered, _ = run_batch(model, vision.repeated(batch, len(chunk), pictures), masks=masks_of(model, chunk), **how)
        # Row blocks, one a mask, as `repeated` laid them out.
        return [answered[start : start + rows] for start in range(0, len(answered), rows)]

    by_mask: list[list[Answer]] = []
    for start in range(0, len(masks), most):
        for answers in split_on_oom(run_masks, masks[start : start + most], last=None):
            by_mask += answers
    return by_mask


def _table(
    examples: Sequence[Example],
    planned: Plan,
    by_mask: Answers,
    masks: Masks,
    named: Mapping[str, Mapping[str, Intervention]],
) -> Table:
    """The answers in the order of the examples, whatever order these were run in."""
    # Batches are sorted by length; a table is in the order of the questions.
    order = sorted((position, number) for number, position in enumerate(planned.order))
    keys: dict[tuple[str, str], Intervention | None] = {FULL: None}
    keys |= {(selector, group): touching(mask) for selector, ms in named.items() for group, mask in ms.items()}
    rows: list[Row] = []
    for key, mask in keys.items():
        answers = by_mask[masks.index(mask)]  # once a mask, not once a row: masks compare by all of their neurons
        rows += [Row(examples[position].id, examples[position].group, *key, *answers[number]) for position, number in order]
    return Table(rows)


def _plain(answer: Answer) -> list[Any]:
    text, reading = answer
    return [text, reading.predicted, reading.correct, reading.fallback, reading.score, *([True] if reading.hole else ())]


def _parse(plain: Sequence[Any]) -> Answer:
    return plain[0], Reading(*plain[1:])
