"""Which neurons of a vision-language model respond to one culture, and does it need them?

The VLM paper's pipeline in Python: count firing in correctly answered prompts, select with CAS, switch off, ask again.
Runs as it stands on the organism; --model and --data (JSONL, see the README) for the real thing.
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

    counts = gs.record(model, study.identification).with_tokens()
    selections = {"RND": gs.select.random(counts, options.rate), "CAS": gs.select.cas(counts, options.rate)}
    masks = {name: {group: gs.ablate(neurons) for group, neurons in s.items()} for name, s in selections.items()}
    table = gs.sweep(model, study.evaluation, masks)

    print(table.self_cross())
    effects = table.self_cross()["CAS"].accuracy
    print(
        f"\nSwitching off a group's {selections['CAS'].wanted} CAS neurons changes its own accuracy by {effects.self_:+.1f} "
        f"points and the other groups' by {effects.cross:+.1f}."
    )


if __name__ == "__main__":
    main()
