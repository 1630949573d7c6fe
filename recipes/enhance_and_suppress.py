"""What happens to a culture's questions if its neurons are switched off, doubled, held at their mean, or steered?

The same neurons under four interventions. Steering adds to each neuron the difference between its mean over the culture's
questions and its mean over all questions. Runs as it is on the organism; use --model and --data for a real model.
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; default: the organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL; default: the organism's")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    parser.add_argument("--strength", type=float, default=2.0, help="steering: how many times the difference to add")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    counts = gs.record(model, study.identification, readout=study.readout).with_tokens()
    chosen = gs.select.cas(counts, options.rate)
    mean = gs.mean_activation(model, study.identification)
    masks = {"switched off": {}, "doubled": {}, "held at their mean": {}, "steered": {}}
    for group, neurons in chosen.items():
        questions = [example for example in study.identification if example.group == group]
        direction = gs.mean_activation(model, questions) - mean
        masks["switched off"][group] = gs.ablate(neurons)
        masks["doubled"][group] = gs.scale(neurons, 2.0)
        masks["held at their mean"][group] = gs.set_to(neurons, mean)
        masks["steered"][group] = gs.add(neurons, options.strength * direction)
    effects = gs.sweep(model, study.evaluation, masks, readout=study.readout).self_cross()

    print(effects)
    print(f"\nWhen a culture's {chosen.wanted} neurons are")
    for name in masks:
        change = effects[name].accuracy
        print(f"- {name}, its own accuracy changes by {change.self_:+.1f} points, and other cultures' by {change.cross:+.1f}")


if __name__ == "__main__":
    main()
