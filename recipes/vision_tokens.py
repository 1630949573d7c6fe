"""Where are a culture's neurons active: on the text tokens, or on those that carry the image?

One pass counts both classes of tokens separately. CAS selects neurons from each, and each selection is switched off (at every
token). Runs as it is on the organism; use --model and --data for a real model.
"""

import argparse
from statistics import fmean

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; default: the organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL with images; default: the organism's")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    classes = gs.record_classes(model, study.identification, tokens=("text", "image", "all"), readout=study.readout)
    counts = {name: of_class.with_tokens() for name, of_class in classes.items()}
    selections = {name: gs.select.cas(of_class, options.rate) for name, of_class in counts.items()}
    table = gs.sweep(model, study.evaluation, gs.ablate(selections), readout=study.readout)
    effects = table.self_cross()
    print(effects, "\n")

    tokens = {}
    for name, selection in selections.items():
        tokens[name] = int(counts[name].T.sum())
        firing_rate = counts[name].P.mean()
        margin = selection.scores.topk(selection.wanted, dim=-1).values.mean()
        print(f"{name:6} {tokens[name]:6} tokens, mean firing rate {firing_rate:.2f}, mean margin of the selected {margin:.2f}")
        if not options.model:
            precision = fmean(gs.organism.precision(selection, organism.known).values())
            print(f"{'':6} {precision:.0%} of the selected neurons are known to carry their culture")

    overlap = selections["text"].jaccard(selections["image"]).diagonal().mean()
    text = effects["text"].accuracy
    image = effects["image"].accuracy
    print(
        f"\n{tokens['image'] / tokens['all']:.0%} of the tokens carry an image. Of the neurons selected on either class of "
        f"tokens, {overlap:.0%} are selected on both.\n"
        f"Switching off those from text tokens changes a group's own accuracy by {text.self_:+.1f} points (other groups': "
        f"{text.cross:+.1f}), those from image tokens by {image.self_:+.1f} points (other groups': {image.cross:+.1f})."
    )


if __name__ == "__main__":
    main()
