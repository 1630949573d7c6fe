"""Where do a culture's neurons show: at the tokens of the text, or at those that carry the picture?

One pass counts both classes apart; CAS selects from each; each selection is switched off (at every token). Runs as it
stands on the organism; --model and --data for the real thing.
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the organism if not given")
    parser.add_argument("--data", help="a name of `gatescope data list`, or JSONL with images; the organism's if not given")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    counts = gs.record_classes(model, study.identification, tokens=("text", "image", "all"), readout=study.readout)
    counts = {name: of.with_tokens() for name, of in counts.items()}
    selections = {name: gs.select.cas(of, options.rate) for name, of in counts.items()}
    masks = gs.ablate(selections)
    table = gs.sweep(model, study.evaluation, masks, readout=study.readout)
    effects = table.self_cross()

    print(effects, "\n")
    for name, selection in selections.items():
        rate, margin = counts[name].P.mean(), selection.scores.topk(selection.wanted, dim=-1).values.mean()
        line = f"{name:6} {int(counts[name].T.sum()):6} tokens, firing rate {rate:.2f}, margin of those selected {margin:.2f}"
        if not options.model:
            found = gs.organism.precision(selection, organism.known).values()
            line += f", {sum(found) / len(found):.0%} of them known to carry their culture"
        print(line)
    tokens = {name: int(of.T.sum()) for name, of in counts.items()}
    overlap = selections["text"].jaccard(selections["image"]).diagonal().mean()
    text, image = effects["text"].accuracy, effects["image"].accuracy
    print(
        f"\n{tokens['image'] / tokens['all']:.0%} of the tokens carry pictures. Neurons selected at them and at the text share "
        f"{overlap:.0%}; without those of the text a group's own accuracy changes by {text.self_:+.1f} points (others' "
        f"{text.cross:+.1f}), without those of the picture by {image.self_:+.1f} (others' {image.cross:+.1f})."
    )


if __name__ == "__main__":
    main()
