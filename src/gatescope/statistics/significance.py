"""Whether an effect is there: McNemar's test, corrections, and CULNIG's test against random sets.

The examples are the sample, and each is answered by the full model and under every mask, so all tests are paired (see
`gatescope.statistics.intervals`).

    McNemar     exact: of the examples only one of the two got right, b + c, the b are Binomial(b + c, 1/2)
    Holm        max over j <= i of (k - j + 1) p_(j), for the i-th smallest of k p-values
    BH          min over j >= i of k p_(j) / j (Benjamini and Hochberg 1995)

The VLM paper reports no tests; that part is ours. Everything random takes a seed, kept in the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy import stats
from torch import Tensor

from gatescope._typing import checked
from gatescope.core.errors import GatescopeError
from gatescope.statistics.intervals import check_draws, check_pairs, draws


@dataclass(frozen=True)
class AgainstRandom:
    """CULNIG's two p-values; its Table 2 prints in bold where both are below 0.05.

    Attributes:
        mean: against the mean score of the random sets.
        single: against the score of one random set, drawn anew for each resample.
        resamples, seed: what they were estimated with; no p-value is finer than 1 / resamples, and 0 means below that.
    """

    mean: float
    single: float
    resamples: int
    seed: int


@checked
def mcnemar(
    before: Bool[Tensor, " e"], after: Bool[Tensor, "m _e"], group: Int64[Tensor, " _e"], groups: int
) -> Float64[Tensor, "m g"]:
    """Exact two-sided McNemar p-value of each mask on each group (McNemar 1947); 1 where right and wrong are the same.

    It asks whether accuracy changed; answers that changed from one wrong choice to another do not count.

    Args:
        before, after, group: as for `bootstrap`.
        groups: how many there are.

    Raises:
        GatescopeError: for a group without examples, or shapes that do not pair.

    Three answers lost and none won: 2 (1/2)^3.

    >>> before, after = torch.tensor([True, True, True, False]), torch.tensor([[False, False, False, False]])
    >>> mcnemar(before, after, torch.tensor([0, 0, 0, 0]), 1).item()
    0.25
    """
    check_pairs(before, after, group, groups)
    member = torch.nn.functional.one_hot(group, groups)
    lost, won = (which.long() @ member for which in (before & ~after, ~before & after))
    table = torch.ones(len(after), groups, dtype=torch.float64)
    changed: list[list[int]] = (lost + won).nonzero().tolist()
    known: dict[tuple[int, int], float] = {}  # tens of thousands of cells have few pairs of counts between them
    for m, g in changed:  # where no answer changed, p is 1
        b, c = int(lost[m, g]), int(won[m, g])
        if (b, c) not in known:
            known[b, c] = float(stats.binomtest(b, b + c, 0.5).pvalue)
        table[m, g] = known[b, c]
    return table


@checked
def holm(p: Float64[Tensor, "*k"]) -> Float64[Tensor, "*k"]:
    """p-values adjusted over the whole tensor so that the chance of any false finding is at most alpha (Holm 1979).

    Raises:
        GatescopeError: if one is no probability.

    >>> holm(torch.tensor([0.03, 0.01, 0.04], dtype=torch.float64)).tolist()
    [0.06, 0.03, 0.06]
    """
    values = _probabilities(p)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    # Never below the one before: a larger p-value must not end up more significant.
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return torch.from_numpy(adjusted).reshape(p.shape)


@checked
def benjamini_hochberg(p: Float64[Tensor, "*k"]) -> Float64[Tensor, "*k"]:
    """p-values adjusted over the whole tensor so that the expected share of false findings is at most alpha.

    Raises:
        GatescopeError: if one is no probability.

    >>> benjamini_hochberg(torch.tensor([0.5, 0.125, 0.25], dtype=torch.float64)).tolist()
    [0.5, 0.375, 0.375]
    """
    values = _probabilities(p)
    if not len(values):
        return p.clone()
    return torch.from_numpy(np.asarray(stats.false_discovery_control(values, method="bh"))).reshape(p.shape)


@checked
def against_random(
    tested: Bool[Tensor, " e"] | Float64[Tensor, " e"],
    random: Bool[Tensor, "r _e"] | Float64[Tensor, "r _e"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> AgainstRandom:
    """Whether a mask lowers the score more than random sets of neurons do: CULNIG, section 4.3.

    The paper: "p-values are defined as the probability that the score reduction with random neurons is greater than or
    equal to that with culture-general neurons, estimated by setting a bootstrapping sample size to 2,000. Here, the
    scores of random neurons are computed in two ways: the average over ten seeds and the score of a uniformly sampled
    single seed (for sensitivity analysis)"; and both p-values below 0.05 are significant. Its code has no test. Read as:

    - a p-value is the share of resamples in which the tested score is at least the random one (the full model's score
      is in both reductions and cancels), with no +1 in numerator or denominator;
    - examples are resampled, all together rather than by country, the same draw for the tested and every random set;
    - the single seed is drawn anew for each resample, so that the p-value holds over seeds as well as examples. The
      mean over seeds does not: it takes the ten seeds for all there are.

    Args:
        tested: of each example, whether it is right under the tested mask, or its score (`likert_scores`).
        random: the same under each random set; the paper has ten.
        resamples: how many.
        seed: of the draws.

    Raises:
        GatescopeError: without examples or random sets, for fewer than 2 resamples, for holes, or shapes that do not pair.

    >>> against_random(torch.zeros(8).bool(), torch.ones(10, 8).bool())
    AgainstRandom(mean=0.0, single=0.0, resamples=2000, seed=0)
    """
    check_draws(resamples)
    if not len(random) or not len(tested):
        raise GatescopeError(
            f"A test against random sets needs both examples and random sets; there are {len(tested)} and {len(random)}."
        )
    if random.shape[1] != len(tested):
        raise GatescopeError(
            f"The tested mask answered {len(tested)} examples and the random sets {random.shape[1]}; "
            f"they must be the same ones."
        )
    # A comparison with NaN is false, and the share of false ones would be a p-value of 0.
    if tested.isnan().any() or random.isnan().any():
        raise GatescopeError("Some answers are holes (NaN): leave out the examples that were not answered under every mask.")
    drop = (tested.double() - random.double()).T.numpy()  # [e, r]
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([counts @ drop for counts in draws(len(drop), resamples, generator)])
    single = np.take_along_axis(drawn, generator.integers(len(random), size=(resamples, 1)), 1)
    tie = -1e-9 * max(np.abs(drop).max(), 1) * len(drop)  # scores that are equal but for rounding
    mean, single = ((value >= tie).mean().item() for value in (drawn.mean(1), single))
    return AgainstRandom(mean, single, resamples, seed)


def _probabilities(p: Tensor) -> np.ndarray:
    values = p.numpy().ravel()
    if not ((values >= 0) & (values <= 1)).all():
        raise GatescopeError("A p-value lies in [0, 1]; among those given is one that does not (or NaN).")
    return values
