"""Which neurons of a vision-language model respond to one culture, and does the model need them?

The VLM paper's pipeline in Python: count which neurons fire in correctly answered prompts, select, switch off, ask again.
Runs as it is on the organism. For a real model, with a report of the results in RUN/report.html:

    python culture_neurons_in_a_vlm.py --model Qwen/Qwen2.5-VL-7B-Instruct --data cvqa --run runs/cvqa
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; default: the organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL (see the README); default: the organism's")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    parser.add_argument("--rho", type=float, default=20, help="LAPE: the percentage of lowest entropy to choose from")
    parser.add_argument("--run", help="directory for all results and a report")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    counts = gs.record(model, study.identification, readout=study.readout, run=options.run).with_tokens()
    selections = {
        "RND": gs.select.random(counts, options.rate),
        "LAP": gs.select.lap(counts, options.rate),
        "LAPE": gs.select.lape(counts, options.rate, rho=options.rho),
        "MAD": gs.select.mad(counts, options.rate),
        "CAS": gs.select.cas(counts, options.rate),
    }
    masks = gs.ablate(selections)
    table = gs.sweep(model, study.evaluation, masks, readout=study.readout, run=options.run)

    if options.run:
        run = gs.open_run(options.run)
        for selection in selections.values():
            run.add_selection(selection)
        page = gs.report(options.run, examples=study.evaluation)
        print(f"report: {page}\n")

    effects = table.self_cross()
    accuracy = effects["CAS"].accuracy
    low, high = table.intervals("CAS").accuracy.gap
    print(effects)
    print(
        f"\nSwitching off a group's {selections['CAS'].wanted} CAS neurons changes its own accuracy by {accuracy.self_:+.1f} "
        f"points and the other groups' by {accuracy.cross:+.1f} points (95% interval of the gap: {low:+.1f} to {high:+.1f})."
    )


if __name__ == "__main__":
    main()
