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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core.errors import GatescopeError

_DRAWN_AT_ONCE = 2**22  # examples drawn at a time, so that memory does not grow with the number of resamples
_CELLS_AT_ONCE = 2**22  # cells of resamples at a time, so that it does not grow with masks x groups x resamples


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
    holes = change.isnan()
    effects = torch.stack([change, flipped.double().where(~holes, torch.nan)]).numpy()  # [2, m, e]
    columns = [_Column(effects[:, :, (group == g).numpy()], resamples, [seed, g]) for g in range(own.shape[1])]
    bounds = ((1 - level) / 2, (1 + level) / 2)
    ends = np.stack([column.quantiles(bounds) for column in columns], axis=-1)  # [end, measure, m, g]
    means = _means(columns, own.numpy())
    accuracy, flips = (_interval(ends[:, i], *means[i], bounds) for i in range(2))
    return Intervals(accuracy, flips, level, resamples, seed)


class _Column:
    """The resamples of one group: its cells, of every measure and mask.

    All groups' together would be resamples x masks x groups numbers, gigabytes where there are hundreds of groups; so they are
    drawn twice, once group by group and once some resamples at a time.
    """

    def __init__(self, effects: np.ndarray, resamples: int, seed: list[int]) -> None:
        self.shape = effects.shape[:2]
        values = effects.reshape(-1, effects.shape[2]).T  # [e, measure x m]
        # Many masks do the same to a group's few examples, most of them nothing.
        distinct, self.which = np.unique(values, axis=1, return_inverse=True)
        self.answered = (~np.isnan(distinct)).astype(float)
        self.distinct = np.nan_to_num(distinct)
        self.resamples, self.seed = resamples, seed

    def drawn(self, chunk: int | None = None) -> Iterator[np.ndarray]:
        """The distinct cells [resample, u], in percent."""
        # Seeded by group: another group at the end does not change these draws.
        count, whole = len(self.distinct), self.answered.all()
        for counts in draws(count, self.resamples, np.random.default_rng(self.seed), chunk):
            with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold holes only: 0 / 0 is NaN
                yield 100 / (count if whole else counts @ self.answered) * (counts @ self.distinct)

    def quantiles(self, bounds: tuple[float, float]) -> np.ndarray:
        """Of every cell [end, measure, m]."""
        ends = _quantile(np.concatenate(list(self.drawn())), bounds)
        return ends[:, self.cells]

    @property
    def cells(self) -> np.ndarray:
        """Which of the distinct ones each cell is [measure, m]."""
        return self.which.reshape(self.shape)


def _means(columns: list[_Column], own: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each measure, the mean of own and of other cells in every resample; NaN where there are none."""
    chunk = max(_CELLS_AT_ONCE // (2 * own.size), 2)
    chosen = _chosen(columns, own)
    means: list[list[list[np.ndarray]]] = [[[], []], [[], []]]
    for parts in zip(*(column.drawn(chunk) for column in columns), strict=True):
        distinct = np.concatenate(parts, axis=1)
        for measure, which in product(range(2), range(2)):
            if len(chosen[measure][which]):
                means[measure][which].append(_mean(distinct[:, chosen[measure][which]]))
    nothing = [np.full(columns[0].resamples, np.nan)]
    return [(np.concatenate(self_ or nothing), np.concatenate(cross or nothing)) for self_, cross in means]


def _chosen(columns: list[_Column], own: np.ndarray) -> list[list[np.ndarray]]:
    """Of each measure, which of all groups' distinct cells are own ones, and which others, as often as each occurs."""
    starts = np.cumsum([0, *(column.distinct.shape[1] for column in columns[:-1])])
    # Where each cell [measure, m, g] is among the distinct ones of all groups.
    positions = np.stack([start + column.cells for start, column in zip(starts, columns, strict=True)], axis=-1)
    return [[of_measure[which] for which in (own, ~own)] for of_measure in positions]


def _mean(cells: np.ndarray) -> np.ndarray:
    """Of each resample [resample, cell]; without the cells in which it has no answer to average."""
    return _spared(np.nanmean, cells, axis=1) if np.isnan(cells).any() else cells.mean(1)


def _quantile(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Over resamples, the first axis; without those that have no answer to average."""
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile
    return _spared(quantile, values, bounds, axis=0)


def _spared(function: Callable[..., np.ndarray], *arguments: Any, axis: int) -> np.ndarray:
    """A function of NumPy, without its warnings that there is nothing but NaN."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice|Mean of empty slice", RuntimeWarning)
        return function(*arguments, axis=axis)


def draws(count: int, resamples: int, generator: np.random.Generator, chunk: int | None = None) -> Iterator[np.ndarray]:
    """How often each example is in each resample, float64 [resamples, count], some resamples (`chunk`) at a time."""
    chunk = chunk or max(_DRAWN_AT_ONCE // count, 1)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        # Offsets keep the resamples apart, so that one bincount counts them all.
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def _interval(ends: np.ndarray, self_: np.ndarray, cross: np.ndarray, bounds: tuple[float, float]) -> EffectInterval:
    """Quantiles of cells [end, m, g], as they are, and of the means over own and other cells."""
    low, high = (torch.from_numpy(np.ascontiguousarray(q)) for q in ends)
    # Means within a resample first: the cells share its examples and vary together.
    means = [tuple(_quantile(mean, bounds).tolist()) for mean in (self_, cross, self_ - cross)]
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
