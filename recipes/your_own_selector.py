"""Does a selector of your own find neurons that matter, and are they different from those CAS finds?

A selector is a table of scores [groups, layers, neurons], where higher is better, passed to gs.select.top. The score here is
a z-score: how many standard deviations a group's mean activation lies above the mean over groups. Runs as it is on the
organism; use --model and --data for a real model.
"""

import argparse
from statistics import fmean

import gatescope as gs


def zscore(counts: gs.Counters, rate: float) -> gs.Selection:
    """Neurons whose mean positive activation stands out for one group; never one that did not fire for it."""
    mean = counts.M.mean(0)
    spread = counts.M.std(0, correction=0).clamp(min=1e-9)
    scores = (counts.M - mean) / spread
    scores = scores.masked_fill(counts.K == 0, -float("inf"))
    return gs.select.top("Z", counts, rate, scores, [counts.M])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; default: the organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL; default: the organism's")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    counts = gs.record(model, study.identification, readout=study.readout).with_tokens()
    selections = {"Z": zscore(counts, options.rate), "CAS": gs.select.cas(counts, options.rate)}
    masks = gs.ablate(selections)
    effects = gs.sweep(model, study.evaluation, masks, readout=study.readout).self_cross()
    print(effects)

    if not options.model:
        for name, selection in selections.items():
            precision = fmean(gs.organism.precision(selection, organism.known).values())
            print(f"{name}: {precision:.0%} of its neurons are known to carry their culture")
    overlap = selections["Z"].jaccard(selections["CAS"]).diagonal().mean()
    print()
    for name in selections:
        change = effects[name].accuracy
        print(f"Switching off a group's {name} neurons changes its own accuracy by {change.self_:+.1f} points", end="")
        print(f" and the other groups' by {change.cross:+.1f}.")
    print(f"The two selectors share {overlap:.0%} of the neurons that either of them selects.")


if __name__ == "__main__":
    main()
