"""How sure the effects are: bootstrap intervals.

The examples are the sample; masks and groups are fixed. An example is answered by the full model and under every
mask, so all comparisons are paired: a resample draws examples with replacement within each evaluation group, and the same
draw serves the full model and every mask. Examples count as independent; where several vary one item (the same
question under other prompts) they are not, and intervals are too narrow.

    interval    quantiles (1 - level) / 2 and (1 + level) / 2 over the resamples (percentile bootstrap)

The VLM paper reports no intervals; that part is ours. Everything random takes a seed, kept in the result.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core.errors import GatescopeError

_DRAWN_AT_ONCE = 2**22  # examples drawn at a time, so that memory does not grow with the number of resamples


@dataclass(frozen=True)
class EffectInterval:
    """Where one effect lies, in points or percent.

    Attributes:
        low, high: bounds of every cell [m, g].
        self_, cross, gap: (low, high) of the means over cells; NaN where there are no such cells.
    """

    low: Float64[Tensor, "m g"]
    high: Float64[Tensor, "m g"]
    self_: tuple[float, float]
    cross: tuple[float, float]
    gap: tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals of a selector's effects, and how they were drawn.

    Attributes:
        accuracy: of the accuracy change, in points.
        flips: of the flip rate, in percent.
        level: share of intervals that should cover the truth, one interval at a time.
        resamples, seed: what they were drawn with.
    """

    accuracy: EffectInterval
    flips: EffectInterval
    level: float
    resamples: int
    seed: int


@checked
def bootstrap(
    before: Bool[Tensor, " e"] | Float64[Tensor, " e"],
    after: Bool[Tensor, "m _e"] | Float64[Tensor, "m _e"],
    flipped: Bool[Tensor, "_m _e"],
    group: Int64[Tensor, " _e"],
    own: Bool[Tensor, "_m g"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Intervals:
    """Percentile bootstrap intervals of accuracy change, flip rate, and their self, cross and gap.

    Args:
        before: whether the full model is right on an example, or its score in [0, 1].
        after: the same under each mask; NaN where there is no answer, and the example is then in no mean of that mask.
        flipped: whether the mask changed its answer.
        group: which group an example is of, 0 .. g - 1. A group's draws depend on the seed and its own place only.
        own: True where the mask was found on that group.
        level: e.g. 0.95.
        resamples: how many.
        seed: of the draws.

    Raises:
        GatescopeError: for a group without examples, fewer than 2 resamples, a level outside (0, 1), or shapes that do
            not pair.

    Where every example lost its answer, every resample says so (and a percentile bootstrap has no width):

    >>> right, member = torch.tensor([True, True]), torch.tensor([0, 0])
    >>> result = bootstrap(right, ~right[None], right[None], member, torch.tensor([[True]]), resamples=10)
    >>> result.accuracy.low.item(), result.accuracy.high.item(), result.flips.self_, result.flips.cross
    (-100.0, -100.0, (100.0, 100.0), (nan, nan))
    """
    check_draws(resamples)
    if not 0 < level < 1:
        raise GatescopeError(f"level is {level}; it is the share of intervals that cover the truth, so in (0, 1): try 0.95.")
    check_pairs(before, after, group, own.shape[1])
    if flipped.shape != after.shape or len(own) != len(after):
        raise GatescopeError(
            f"There are answers of shape {tuple(after.shape)} [masks, examples], flips of shape {tuple(flipped.shape)} and "
            f"own groups of {len(own)} masks; they must be of the same masks and examples."
        )
    change = after.double() - before.double()
    kept = ~change.isnan()
    whole = bool(kept.all())
    effects = torch.stack([change, flipped.double()]).where(kept, 0.0).numpy()  # [2, m, e]
    cells = np.empty((resamples, 2, *own.shape))
    for g in range(own.shape[1]):
        members = (group == g).numpy()
        values = effects[:, :, members].reshape(-1, members.sum()).T
        answered = kept[:, group == g].double().numpy().T
        start = 0
        # Seeded by group: another group at the end does not change these draws.
        for counts in draws(len(values), resamples, np.random.default_rng([seed, g])):
            stop = start + len(counts)
            sums = (counts @ values).reshape(-1, *effects.shape[:2])
            with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold holes only: 0 / 0 is NaN
                cells[start:stop, :, :, g] = 100 / (len(values) if whole else (counts @ answered)[:, None]) * sums
            start = stop
    accuracy, flips = (_interval(cells[:, i], own.numpy(), level) for i in range(2))
    return Intervals(accuracy, flips, level, resamples, seed)


def draws(count: int, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each example is in each resample, float64 [resamples, count], some resamples at a time."""
    chunk = max(_DRAWN_AT_ONCE // count, 1)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        # Offsets keep the resamples apart, so that one bincount counts them all.
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def _interval(cells: np.ndarray, own: np.ndarray, level: float) -> EffectInterval:
    """Quantiles of cells [resample, m, g] and of their means over own and other cells."""
    bounds = ((1 - level) / 2, (1 + level) / 2)
    nothing = np.full(len(cells), np.nan)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.filterwarnings("ignore", "All-NaN slice|Mean of empty slice", RuntimeWarning)
        # Where there are holes, a resample may have no answer to average.
        mean, quantile = (np.nanmean, np.nanquantile) if np.isnan(cells).any() else (np.mean, np.quantile)
        self_, cross = (mean(cells[:, which], 1) if which.any() else nothing for which in (own, ~own))
        low, high = (torch.from_numpy(np.ascontiguousarray(q)) for q in quantile(cells, bounds, axis=0))
        # Means within a resample first: the cells share its examples and vary together.
        means = [tuple(quantile(values, bounds).tolist()) for values in (self_, cross, self_ - cross)]
    return EffectInterval(low, high, *means)


def check_draws(resamples: int) -> None:
    """Refuse too few resamples."""
    if resamples < 2:
        raise GatescopeError(f"resamples is {resamples}; a bootstrap needs at least 2, and 2000 is usual.")


def check_pairs(before: Tensor, after: Tensor, group: Tensor, groups: int) -> None:
    """Refuse answers of different examples, and groups that have none."""
    if not len(before) == after.shape[1] == len(group):
        raise GatescopeError(
            f"The full model answered {len(before)} examples, the masks {after.shape[1]}, and {len(group)} have a group; "
            f"they must be the same ones."
        )
    if len(group) and not 0 <= group.min() <= group.max() < groups:
        raise GatescopeError(f"Groups are numbered 0 to {groups - 1}; there is a {group.min()} and a {group.max()}.")
    empty: list[int] = (torch.bincount(group, minlength=groups) == 0).nonzero().flatten().tolist()
    if empty:
        raise GatescopeError(f"Group {empty[0]} of {groups} has no examples; leave it out.")
