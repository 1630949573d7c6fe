"""Which neurons does a language model need for culture in general, and which for one culture?

CULNIG whole: attribution on culture questions, less that of the same questions with their text removed; neurons that
reading comprehension scores as well are left out; every set is switched off beside ten random ones of its size, and
tasks without culture are asked too. Runs as it stands on the text organism. The real thing:

    python culnig.py --model google/gemma-3-12b-it --data blend --exclude countryrc --neutral qnli --neutral mrpc
"""

import argparse
from functools import reduce
from operator import or_

import gatescope as gs
from gatescope.studies.culnig import GENERAL, run_culnig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the text organism if not given")
    parser.add_argument(
        "--data", help="culture questions: a name of `gatescope data list`, or JSONL; the organism's if not given"
    )
    parser.add_argument("--exclude", help="reading comprehension, whose neurons are left out")
    parser.add_argument("--neutral", action="append", default=[], help="a task without culture; may be given again")
    parser.add_argument("--run", help="directory to keep the neurons and every answer in")
    options = parser.parse_args()

    organism = gs.organism.text.load() if not (options.model and options.data) else None
    model = gs.load_model(options.model or organism.path)
    known = None if options.model else reduce(or_, organism.specific.values(), organism.general)
    if options.data:
        tasks = {"culture": gs.data.load(options.data), "control": gs.data.load_control(options.data)}
        tasks |= {"reading": gs.data.load(options.exclude)} if options.exclude else {}
        tasks |= {name: gs.data.load(name) for name in options.neutral}
    else:
        tasks = organism.tasks

    result = run_culnig(model, tasks, known=known, out=options.run)
    print(result)

    full, off = result.accuracy["full"], result.accuracy[GENERAL]
    neutral = {task: off[task] - full[task] for task in full if task != "culture"}
    drawn, spread = result.random("culture")
    print(
        f"\nSwitching off {len(result.general)} culture-general neurons changes accuracy on culture questions by "
        f"{off['culture'] - full['culture']:+.1f} points, as many random ones by {drawn - full['culture']:+.1f} "
        f"(± {spread:.1f}, ten draws), and on "
        + (", ".join(f"{task} by {change:+.1f}" for task, change in neutral.items()) or "nothing else: no other task was given")
        + "."
    )


if __name__ == "__main__":
    main()
