"""Which selector finds what: precision, recall and effect of every selector on organisms whose neurons are known.

Four organisms differ in the kind of their known neurons:

    selective  they fire selectively and are needed
    hidden     they are needed but do not fire selectively
    decoys     they fire selectively but are not needed
    plain      there are none: the model was trained without routing

Every number is a mean over the six invented cultures. `rate` is the share of neurons asked for, `neurons` how many were
found; `self` and `cross` are changes in accuracy, in points, when they are switched off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gatescope as gs

RATES = (0.005, 0.01, 0.02, 0.05)
SELECTORS = {
    "RND": lambda counts, scores, rate: gs.select.random(counts, rate),
    "LAP": lambda counts, scores, rate: gs.select.lap(counts, rate),
    "LAPE rho=20": lambda counts, scores, rate: gs.select.lape(counts, rate, rho=20),
    "LAPE rho=100": lambda counts, scores, rate: gs.select.lape(counts, rate, rho=100),
    "LAPE (Tang 2024)": lambda counts, scores, rate: gs.select.lape(counts, rate, variant="tang2024"),
    "MAD": lambda counts, scores, rate: gs.select.mad(counts, rate),
    "MAD no gate": lambda counts, scores, rate: gs.select.mad(counts, rate, alpha=None),
    "CAS": lambda counts, scores, rate: gs.select.cas(counts, rate),
    "CAS gated p95": lambda counts, scores, rate: gs.select.cas(counts, rate, alpha=95),
    "ATT (gradient)": lambda counts, scores, rate: gs.select.att(scores, rate),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["toy"], default="toy", help="the organisms have one shape")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="shares of all neurons to select")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    figures = []
    for kind, recipe in gs.organism.KINDS.items():
        organism = gs.organism.load(recipe)
        model = gs.load_model(organism.path)
        counts = gs.record(model, organism.study.identification)
        scores = gs.attribute(model, organism.study.identification, sites=("gate",), batch_size=24)
        selections = {}
        for name, selector in SELECTORS.items():
            for rate in options.rates:
                selections[name, rate] = selector(counts, scores, rate)
        masks = {f"{name}@{rate}": gs.ablate(selection) for (name, rate), selection in selections.items()}
        effects = gs.sweep(model, organism.study.evaluation[::4], masks, batch_size=60).self_cross()
        for (name, rate), selection in selections.items():
            sizes = [len(neurons) for neurons in selection.values()]
            row = {"organism": kind, "selector": name, "rate": rate, "neurons": mean(sizes)}
            if organism.known:
                hits = gs.organism.score(selection, organism.known).values()
                row["precision"] = mean([hit.precision for hit in hits])
                row["recall"] = mean([hit.recall for hit in hits])
                row["average_precision"] = mean([hit.average_precision for hit in hits])
            effect = effects[f"{name}@{rate}"].accuracy
            figures.append(row | {"self": effect.self_, "cross": effect.cross})
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(figures: list[dict]) -> str:
    lines = []
    for kind in dict.fromkeys(row["organism"] for row in figures):
        head = f"{'selector':18}{'rate':>7}{'neurons':>9}{'precision':>11}{'recall':>8}{'avg prec':>10}{'self':>8}{'cross':>8}"
        lines += ["", kind, head]
        for row in (row for row in figures if row["organism"] == kind):
            known = [f"{row[key]:.2f}" if key in row else "-" for key in ("precision", "recall", "average_precision")]
            cross = "-" if row["cross"] != row["cross"] else f"{row['cross']:.1f}"
            lines.append(
                f"{row['selector']:18}{row['rate']:7.3f}{row['neurons']:9.1f}{known[0]:>11}{known[1]:>8}{known[2]:>10}"
                f"{row['self']:8.1f}{cross:>8}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
