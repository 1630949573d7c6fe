"""Numbers as a reader meets them: rounded, signed where the sign matters, with their interval.

One rule for page, figures and comparison: points and percent have one decimal, overlaps (Jaccard) and scores of answers
two, p-values three, scores of neurons three significant digits. A minus sign is U+2212; a dash stands for a missing number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

NOTHING = "\N{EN DASH}"  # where there is no number
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Value:
    """A number and its 95% interval, in points or percent; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def ends(self) -> tuple[float, float]:
        """The interval's ends; the number itself where there is no interval."""
        return (self.value, self.value) if math.isnan(self.low) else (self.low, self.high)


@lru_cache(4096)  # a large page has the same few thousand numbers again and again
def number(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """A rounded number with a true minus sign.

    >>> number(-93.75), number(0.24, signed=True), number(-0.01), number(float("nan"))
    ('−93.8', '+0.2', '0.0', '–')
    """
    if math.isnan(value):
        return NOTHING
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    # -0.01 rounds to -0.0, which has no sign.
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def overlap(share: float) -> str:
    """An overlap of neurons (Jaccard), 0 to 1.

    >>> overlap(0.126)
    '0.13'
    """
    return number(share, 2)


def score(value: float) -> str:
    """A neuron's score, of whatever size it is.

    >>> score(-0.01234), score(12345.0)
    ('−0.0123', '1.23e+04')
    """
    return f"{value:.3g}".replace("-", MINUS)


def span(value: Value, digits: int = 1) -> str:
    """An interval in words.

    >>> span(Value(-5, -6.25, -4)), span(Value(1.0))
    ('−6.2 to −4.0', '')
    """
    return "" if math.isnan(value.low) else f"{number(value.low, digits)} to {number(value.high, digits)}"


def with_span(value: Value, *, signed: bool = False) -> str:
    """A number and its interval.

    >>> with_span(Value(-5, -6.5, -4), signed=True)
    '−5.0 (−6.5 to −4.0)'
    """
    interval = span(value)
    return number(value.value, signed=signed) + (f" ({interval})" if interval else "")


@lru_cache(4096)
def probability(p: float) -> str:
    """A p-value.

    >>> probability(0.25), probability(1e-9)
    ('0.250', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def chance(p: float, resamples: int) -> str:
    """A p-value that is a share of resamples.

    >>> chance(0.0, 2000), chance(0.25, 2000)
    ('< 0.0005', '= 0.2500')
    """
    # No resample was as extreme: p is below what so many can show, not 0.
    return f"< {1 / resamples:.4f}" if p == 0 else f"= {p:.4f}"


def how_many(sizes: Sequence[int]) -> str:
    """One number, or the range of several.

    >>> how_many([9, 9]), how_many([9, 6, 7]), how_many([])
    ('9', '6 to 9', '–')
    """
    if not sizes:
        return NOTHING
    return f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def count(value: float) -> str:
    """A count, or a sum of scores, without needless digits; thousands apart.

    >>> count(38.0), count(12.25), count(530432)
    ('38', '12.25', '530,432')
    """
    return f"{round(value):,}" if abs(value - round(value)) < 1e-6 else f"{value:.2f}"
