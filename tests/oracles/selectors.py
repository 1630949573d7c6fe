"""Selectors written as loops over neurons, from the papers' text; slow and plain."""

from __future__ import annotations

import math
from fractions import Fraction


def cas(k: list, t: list, groups: list[str], wanted: int) -> dict[str, list[tuple[int, int]]]:
    """VLM paper, section 3.4: k[g][l][n] counts, t[g] tokens; (layer, index) of each group's best `wanted`."""
    found: dict[str, list] = {group: [] for group in groups}
    for layer in range(len(k[0])):
        for index in range(len(k[0][layer])):
            rates = [k[g][layer][index] / t[g] for g in range(len(groups))]
            best = max(rates)
            if rates.count(best) > 1:
                continue  # nobody's
            winner = rates.index(best)
            margin = best - max(rates[g] for g in range(len(groups)) if g != winner)
            found[groups[winner]].append((-margin, -best, layer, index))
    return {group: [(layer, index) for *_, layer, index in sorted(rows)[:wanted]] for group, rows in found.items()}


def percentile(values: list[float], alpha: float, kth: bool = False) -> float:
    """numpy's linear interpolation, or the published LAPE code's kth value."""
    ordered = sorted(values)
    if kth:
        return ordered[round(alpha / 100 * len(ordered)) - 1]
    place = alpha / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _neurons(table):
    return [(layer, index) for layer in range(len(table[0])) for index in range(len(table[0][layer]))]


def _pooled(p):
    return [value for group in p for layer in group for value in layer]


def _margin(table, g, layer, index):
    return table[g][layer][index] - max(table[h][layer][index] for h in range(len(table)) if h != g)


def lap(p, groups, wanted, alpha, kth=False):
    bar = -math.inf if alpha is None else percentile(_pooled(p), alpha, kth)
    return {
        group: [
            n for *_, n in sorted((-p[g][n[0]][n[1]], -_margin(p, g, *n), n) for n in _neurons(p) if p[g][n[0]][n[1]] >= bar)
        ][:wanted]
        for g, group in enumerate(groups)
    }


def mad(p, m, groups, wanted, alpha, kth=False):
    bar = -math.inf if alpha is None else percentile(_pooled(p), alpha, kth)
    found = {}
    for g, group in enumerate(groups):
        rows = []
        for layer, index in _neurons(p):
            if p[g][layer][index] >= bar:
                others = [m[h][layer][index] for h in range(len(m)) if h != g]
                score = m[g][layer][index] - sum(others) / len(others)
                rows.append((-score, -p[g][layer][index], -_margin(m, g, layer, index), (layer, index)))
        found[group] = [n for *_, n in sorted(rows)][:wanted]
    return found


def _entropy(rates):
    total = sum(rates)
    return -sum(r / total * math.log(r / total) for r in rates if r > 0) if total else 0.0


def lape(p, groups, wanted, rho, alpha, beta, kth=False):
    bar, assign = percentile(_pooled(p), alpha, kth), percentile(_pooled(p), beta, kth)
    highest = {n: max(group[n[0]][n[1]] for group in p) for n in _neurons(p)}
    survivors = [n for n in _neurons(p) if highest[n] >= bar and highest[n] > 0]
    entropies = {n: round(_entropy([group[n[0]][n[1]] for group in p]), 11) for n in survivors}
    pool = sorted(survivors, key=lambda n: (entropies[n], n))[: math.ceil(Fraction(rho) * len(survivors) / 100)]
    found: dict[str, list] = {group: [] for group in groups}
    for layer, index in pool:
        rates = [group[layer][index] for group in p]
        winner = rates.index(max(rates))
        if rates[winner] >= assign:
            margin = _margin(p, winner, layer, index)
            found[groups[winner]].append((-rates[winner], entropies[layer, index], -margin, (layer, index)))
    return {group: [n for *_, n in sorted(rows)][:wanted] for group, rows in found.items()}


def lape_tang2024(p, groups, count):
    bar = percentile(_pooled(p), 95, kth=True)
    entropies = {}
    for n in _neurons(p):
        rates = [group[n[0]][n[1]] for group in p]
        entropies[n] = round(_entropy(rates), 11) if any(r > bar for r in rates) else math.inf
    pool = sorted(_neurons(p), key=lambda n: (entropies[n], n))[:count]
    return {group: sorted(n for n in pool if p[g][n[0]][n[1]] > bar) for g, group in enumerate(groups)}
