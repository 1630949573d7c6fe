"""CULNIG's two selectors as plain Python over dictionaries, from the paper and the published code.

Scores are {country: {(site, layer, index): float}}; every list is ordered.
"""

from __future__ import annotations

import math


def _best(score, neurons, share):
    ranked = sorted(neurons, key=lambda n: -score[n])  # stable: ties stay in the order given
    return ranked[: math.floor(len(neurons) * share)]


def general(scores, control, reading, neurons, items, control_items, mlp, attention, exclude):
    total = {
        n: sum(scores[c][n] for c in scores) / items - sum(control[c][n] for c in control) / control_items for n in neurons
    }
    found = []
    for pool, share in (
        ([n for n in neurons if n[0] not in "qkv"], mlp),
        ([n for n in neurons if n[0] in ("q", "k", "v")], attention),
    ):
        chosen = _best(total, pool, share)
        if reading is not None:
            superficial = _best({n: sum(reading[c][n] for c in reading) for n in pool}, pool, exclude)
            chosen = [n for n in chosen if n not in superficial]
        found += chosen
    return found


def specific(scores, control, reading, neurons, divide, control_divide, rate, exclude, z, ddof, countries):
    """`divide[c]` and `control_divide[c]`: what each country's sums are divided by."""
    table = {c: {n: scores[c][n] / divide[c] - control[c][n] / control_divide[c] for n in neurons} for c in scores}
    found = {}
    for country in countries:
        chosen = _best(table[country], neurons, rate)
        if reading is not None:
            superficial = _best(reading[country], neurons, exclude)
            chosen = [n for n in chosen if n not in superficial]
        kept = []
        for n in chosen:
            values = [table[c][n] for c in scores]
            mean = sum(values) / len(values)
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - ddof))
            if spread > 0 and (table[country][n] - mean) / spread >= z:
                kept.append(n)
        found[country] = kept
    return found
