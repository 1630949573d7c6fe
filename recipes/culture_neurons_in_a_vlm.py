"""Which neurons of a vision-language model respond to one culture, and does it need them?

The VLM paper's pipeline in Python: count firing in correctly answered prompts, select, switch off, ask again. Runs as it
stands on the organism; the real thing, with a page that shows what was found (RUN/report.html):

    python culture_neurons_in_a_vlm.py --model Qwen/Qwen2.5-VL-7B-Instruct --data cvqa --run runs/cvqa
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the organism if not given")
    parser.add_argument(
        "--data", help="a name of `gatescope data list`, or JSONL (see the README); the organism's if not given"
    )
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    parser.add_argument("--rho", type=float, default=20, help="LAPE: percentage of lowest entropy to choose from")
    parser.add_argument("--run", help="directory to keep everything in, and to write a report to")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    how = {"readout": study.readout, "run": options.run}
    counts = gs.record(model, study.identification, **how).with_tokens()
    selections = {"RND": gs.select.random(counts, options.rate), "LAP": gs.select.lap(counts, options.rate)}
    selections |= {"LAPE": gs.select.lape(counts, options.rate, rho=options.rho)}
    selections |= {"MAD": gs.select.mad(counts, options.rate), "CAS": gs.select.cas(counts, options.rate)}
    masks = gs.ablate(selections)
    table = gs.sweep(model, study.evaluation, masks, **how)

    if options.run:
        for selection in selections.values():
            gs.open_run(options.run).add_selection(selection)
        print(f"report: {gs.report(options.run, examples=study.evaluation)}\n")
    print(table.self_cross())
    effects, (low, high) = table.self_cross()["CAS"].accuracy, table.intervals("CAS").accuracy.gap
    print(
        f"\nSwitching off a group's {selections['CAS'].wanted} CAS neurons changes its own accuracy by {effects.self_:+.1f} "
        f"points and the other groups' by {effects.cross:+.1f} (95% interval of the gap: {low:+.1f} to {high:+.1f})."
    )


if __name__ == "__main__":
    main()
