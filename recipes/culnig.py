"""Which neurons does a language model need for culture in general, and which for one culture?

The whole of CULNIG. Culture questions are attributed, and so is a control set, the same questions with their text removed;
neurons that also score high on reading comprehension are dropped. Every set is switched off and compared with ten random
sets of its size, on the culture questions and on tasks without culture. Runs as it is on the text organism. For a real model:

    python culnig.py --model google/gemma-3-12b-it --data blend --exclude countryrc --neutral qnli --neutral mrpc
"""

import argparse

import gatescope as gs
from gatescope.studies.culnig import GENERAL, run_culnig


def benchmark_tasks(options: argparse.Namespace) -> dict[str, gs.data.Study]:
    """The questions to attribute ("culture", "control", "reading"), and the neutral tasks by their names."""
    tasks = {"culture": gs.data.load(options.data), "control": gs.data.load_control(options.data)}
    if options.exclude:
        tasks["reading"] = gs.data.load(options.exclude)
    for name in options.neutral:
        tasks[name] = gs.data.load(name)
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; default: the text organism")
    parser.add_argument(
        "--data", help="culture questions: a name from `gatescope data list`, or JSONL; default: the organism's"
    )
    parser.add_argument("--exclude", help="reading-comprehension questions, whose neurons are dropped")
    parser.add_argument("--neutral", action="append", default=[], help="a task without culture; may be repeated")
    parser.add_argument("--run", help="directory for the neurons and every answer")
    options = parser.parse_args()

    organism = gs.organism.text.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    tasks = benchmark_tasks(options) if options.data else organism.tasks
    known = None
    if not options.model:
        known = organism.general
        for neurons in organism.specific.values():
            known = known | neurons

    result = run_culnig(model, tasks, known=known, out=options.run)
    print(result)

    before = result.accuracy["full"]
    after = result.accuracy[GENERAL]
    random_mean, random_spread = result.random("culture")
    print(
        f"\nSwitching off {len(result.general)} culture-general neurons changes accuracy on culture questions by "
        f"{after['culture'] - before['culture']:+.1f} points. Switching off as many random neurons changes it by "
        f"{random_mean - before['culture']:+.1f} points (standard deviation {random_spread:.1f}, ten draws)."
    )
    for task in before:
        if task != "culture":
            print(
                f"Without the culture-general neurons, accuracy on {task} changes by {after[task] - before[task]:+.1f} points."
            )


if __name__ == "__main__":
    main()
