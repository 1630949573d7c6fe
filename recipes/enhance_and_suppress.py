"""What happens to one culture's questions when its neurons are switched off, doubled, held at their mean, or steered?

The same neurons under four interventions, all of them ordinary code in an nnsight trace. Steering adds to each neuron
what its own culture's questions raise it by over the mean of all. Runs as it stands on the organism; --model and --data
for the real thing.
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the organism if not given")
    parser.add_argument("--data", help="a name of `gatescope data list`, or JSONL; the organism's if not given")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    parser.add_argument("--strength", type=float, default=2.0, help="of steering: how many times the difference to add")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    chosen = gs.select.cas(gs.record(model, study.identification, readout=study.readout).with_tokens(), options.rate)
    of = {g: gs.mean_activation(model, [e for e in study.identification if e.group == g]) for g in chosen}
    mean = gs.mean_activation(model, study.identification)
    kinds = {
        "switched off": lambda group, neurons: gs.ablate(neurons),
        "doubled": lambda group, neurons: gs.scale(neurons, 2.0),
        "at their mean": lambda group, neurons: gs.set_to(neurons, mean),
        "steered": lambda group, neurons: gs.add(neurons, options.strength * (of[group] - mean)),
    }
    masks = {name: {group: make(group, neurons) for group, neurons in chosen.items()} for name, make in kinds.items()}
    effects = gs.sweep(model, study.evaluation, masks, readout=study.readout).self_cross()
    print(effects)
    changes = [f"{name} {effects[name].accuracy.self_:+.1f} (others' {effects[name].accuracy.cross:+.1f})" for name in kinds]
    print(f"\nA culture's own accuracy changes, in points, with its {chosen.wanted} neurons " + ", ".join(changes) + ".")


if __name__ == "__main__":
    main()
