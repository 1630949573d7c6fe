"""Does a selector of your own find neurons that matter, and does it find others than CAS?

A selector is a table of scores [groups, layers, neurons], higher is better, and gs.select.top: here, by how many
standard deviations a group's mean activation lies above the groups'. Runs as it stands on the organism; --model and
--data for the real thing.
"""

import argparse

import gatescope as gs


def zscore(counts: gs.Counters, rate: float) -> gs.Selection:
    """Neurons whose mean positive activation stands out for one group; never one that did not fire for it."""
    spread = counts.M.std(0, correction=0).clamp(min=1e-9)
    scores = (counts.M - counts.M.mean(0)) / spread
    return gs.select.top("Z", counts, rate, scores.masked_fill(counts.K == 0, -float("inf")), [counts.M])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the organism if not given")
    parser.add_argument("--data", help="a name of `gatescope data list`, or JSONL; the organism's if not given")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    counts = gs.record(model, study.identification, readout=study.readout).with_tokens()
    selections = {"Z": zscore(counts, options.rate), "CAS": gs.select.cas(counts, options.rate)}
    masks = gs.ablate(selections)
    table = gs.sweep(model, study.evaluation, masks, readout=study.readout)

    effects = table.self_cross()
    print(effects)
    if not options.model:
        for name, selection in selections.items():
            found = gs.organism.precision(selection, organism.known).values()
            print(f"{name}: {sum(found) / len(found):.0%} of its neurons are known to carry their culture")
    overlap = selections["Z"].jaccard(selections["CAS"]).diagonal().mean()
    mine, theirs = effects["Z"].accuracy, effects["CAS"].accuracy
    print(
        f"\nWithout them a group's own accuracy changes by {mine.self_:+.1f} points and the others' by {mine.cross:+.1f} "
        f"(CAS: {theirs.self_:+.1f} and {theirs.cross:+.1f}); the two share {overlap:.0%} of the neurons either selects."
    )


if __name__ == "__main__":
    main()
