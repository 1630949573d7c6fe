"""Selectors written as loops over neurons, from the papers' text; slow and plain."""

from __future__ import annotations


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
