"""Effects of switching neurons off, from answers before and after (VLM paper, Appendix B.3, section 4.4).

    accuracy change  Acc_mask - Acc_full, in points (equation 10)
    flip rate        share of examples whose predicted answer changed, in percent (equation 11)

Both fill a matrix [m, g]: mask of group m, evaluated on group g. Self-deactivation is the mean of the diagonal,
cross-deactivation the mean of the rest, every cell weighing the same; the gap is self minus cross. Answers that are holes (the
model gave NaN) are in no mean, and a cell of holes only is NaN and in no mean either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from gatescope._typing import checked


@dataclass(frozen=True)
class SelfCross:
    """Mean effect on the mask's own group, on the others, and the difference; in points or percent."""

    self_: float
    cross: float
    gap: float


@checked
def self_cross(matrix: Float64[Tensor, "m g"], own: Bool[Tensor, "m g"]) -> SelfCross:
    """Mean of a mask's own cells, mean of the others, and their difference; cells equally weighted.

    Args:
        matrix: effect of mask m on group g.
        own: True where the mask was found on that group.

    >>> effects = torch.tensor([[-6.0, 1.0], [-1.0, -4.0]], dtype=torch.float64)
    >>> self_cross(effects, torch.eye(2).bool())
    SelfCross(self_=-5.0, cross=0.0, gap=-5.0)
    """
    # Where one mask serves all groups there are no other cells, and the mean of none is NaN.
    self_, cross = _mean(matrix[own]), _mean(matrix[~own])
    return SelfCross(self_, cross, self_ - cross)


def _mean(cells: Tensor) -> float:
    return cells[~cells.isnan()].mean().item()


@checked
def group_means(
    values: Bool[Tensor, "*m e"] | Float64[Tensor, "*m e"],
    group: Int64[Tensor, " e"],
    groups: int,
    kept: Bool[Tensor, "*m e"] | None = None,
) -> Float64[Tensor, "*m g"]:
    """Percentage of true values (or of the mean of values in [0, 1]) in each group, over the last axis (examples), or over
    those of them that are kept; NaN for a group without any.

    >>> group_means(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]), 2).tolist()
    [50.0, 100.0]
    """
    # One-hot, so that one matrix product sums every group; 0 / 0 is NaN.
    member = torch.nn.functional.one_hot(group, groups).double()
    if kept is None:
        return 100 * (values.double() @ member) / member.sum(0)
    return 100 * (values.double().where(kept, 0.0) @ member) / (kept.double() @ member)
