"""One batch of a recording: questions asked and neurons counted in the same pass, sums added by group.

The counts are taken while the model reads the prompts. Which rows count is known when they are answered, so until then each
row's counts are kept apart: examples x layers x neurons, and never a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from nnsight import TransformersModel
from nnsight.intervention.interleaver import Mediator
from torch import Tensor

from gatescope.core.counters import Counters
from gatescope.kernels import compiled
from gatescope.kernels import eager as kernels
from gatescope.models.sites import Site
from gatescope.statistics.table import Row
from gatescope.steps.finite import not_finite, refuse_holes
from gatescope.traces.batch import run_batch
from gatescope.traces.counting import Layers, count_prompt, count_step, group_sums, no_counts
from gatescope.traces.encoding import CLASSES, Batch, class_masks, uncounted_ids
from gatescope.traces.workers import every_step, run_alongside


def count_batch(
    model: TransformersModel,
    site: Site,
    batch: Batch,
    sums: Mapping[str, Counters],
    only_correct: bool,
    readout: str,
    max_new_tokens: int,
) -> list[Row]:
    """Run one batch, add what it counted to `sums` in place once all of it is known, return its answers."""
    masks = class_masks(model, batch, sums)
    tokens_fed, later_layers = torch.zeros(len(batch.examples), dtype=torch.int64), []
    step = _counting(model, site, tokens_fed, later_layers)
    generated = "generated" in sums

    def inside() -> tuple[list[Layers], str]:
        if generated:
            # From the second step on: the first is the prefill, which `count_prompt` counts.
            run_alongside(Mediator.current("record"), lambda: every_step(step, start=1))
        return count_prompt(model, site.places, masks, compiled.count_classes)

    answered, (classes, _) = run_batch(model, batch, inside=inside, readout=readout, max_new_tokens=max_new_tokens)
    tokens = list(masks.sum(2).cpu())
    if generated:
        # An answer of one token has no step after the prefill.
        classes.append(later_layers or no_counts(len(tokens_fed), site.widths))
        tokens.append(tokens_fed)
    # Before wrong answers are dropped: what is made of NaN is read as one.
    refuse_holes(answered, batch.examples, [[summed for _, summed in layers] for layers in classes], site.numbers)
    # In the order of CLASSES, as the masks are: sums are matched to totals by number.
    totals = [sums[name] for name in CLASSES if name in sums]
    group = torch.tensor([totals[0].groups.index(example.group) for example in batch.examples])
    use = torch.tensor([reading.correct or not only_correct for _, reading in answered])
    batch_sums = group_sums(classes, tokens, group, use)
    for kind, number, _, _, summed in batch_sums:
        _refuse_not_finite(summed, classes[kind], site.numbers, use & (group == number), batch)
    _add(totals, group, use, batch_sums)  # last of all, so that a batch that runs out of memory has added nothing
    return [Row.full(e.id, e.group, *answer) for e, answer in zip(batch.examples, answered, strict=True)]


def _counting(model: TransformersModel, site: Site, tokens_fed: Tensor, layers: Layers) -> Callable[[], None]:
    """What counts a generated token of every row; see `gatescope.traces.counting.count_step`."""
    markers = torch.tensor(sorted(uncounted_ids(model)))
    return lambda: count_step(model, site.places, markers, kernels.count_classes, tokens_fed, layers)


def _add(
    totals: Sequence[Counters], group: Tensor, use: Tensor, batch_sums: Sequence[tuple[int, int, Tensor, Tensor, Tensor]]
) -> None:
    """Add a batch's sums to the counters of every class of tokens."""
    for total in totals:
        total.seen.add_(group.bincount(minlength=len(total.groups)))
        total.counted.add_(group[use].bincount(minlength=len(total.groups)))
    for kind, number, tokens, fired, summed in batch_sums:
        totals[kind].T[number] += tokens
        totals[kind].K[number].view(-1).add_(fired)
        totals[kind].S[number].view(-1).add_(summed)


def _refuse_not_finite(summed: Tensor, layers: Layers, numbers: Sequence[int], rows: Tensor, batch: Batch) -> None:
    """Refuse sums [N] of some rows that hold NaN or infinity.

    Raises:
        GatescopeError: naming the first layer and example.
    """
    # What is in an activation is in its sum, so the sums are enough to look at.
    if summed.isfinite().all():
        return
    index = rows.nonzero().squeeze(1)
    place, row = kernels.first_not_finite([s.cpu().index_select(0, index) for _, s in layers]) or (0, 0)
    raise not_finite(batch.examples[int(index[row])].id, numbers[place], nan=bool(summed.isnan().any()))
