"""What happens to one culture's questions when its neurons are switched off, doubled, or held at their mean?

Interventions are ordinary code in an nnsight trace; the same set of neurons under four of them, on the organism.
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the organism if not given")
    parser.add_argument("--data", help="JSONL of questions; the organism's if not given")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.jsonl(options.data) if options.data else organism.study

    chosen = gs.select.cas(gs.record(model, study.identification).with_tokens(), options.rate)
    means = gs.mean_activation(model, study.identification)
    kinds = {
        "switched off": gs.ablate,
        "doubled": lambda neurons: gs.scale(neurons, 2.0),
        "held at their mean": lambda neurons: gs.set_to(neurons, means),
    }
    masks = {name: {group: make(neurons) for group, neurons in chosen.items()} for name, make in kinds.items()}
    table = gs.sweep(model, study.evaluation, masks)
    print(table.self_cross())
    for name in kinds:
        print(f"{name}: {table.self_cross()[name].accuracy.self_:+.1f} points on the group's own questions")


if __name__ == "__main__":
    main()
