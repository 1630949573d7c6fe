"""How long a large run takes to open: its manifest, its counters, its answers, its questions, and its verification.

    python benchmarks/open_run.py --groups 8 --selectors 1 --examples 200000

The run is made up (see synthetic.py) and written first; each way of opening it is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import machine, measured, table, write

WAYS = {
    "open": "gs.open_run({run!r}).manifest",
    "steps": "gs.open_run({run!r}).steps",
    "counters": "gs.open_run({run!r}).counters",
    "answers": "gs.open_run({run!r}).table",
    "questions": "gatescope.steps.questions.questions_of(gs.open_run({run!r}), 'record')",
    "verify": "gs.open_run({run!r}).verify()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--selectors", type=int, default=1)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _write(run, asked.groups, asked.examples)
        results = {
            way: measured(code.format(run=str(run)), "gatescope.steps.questions", "gatescope.steps.run")
            for way, code in WAYS.items()
        }
    print(machine("cpu"))
    rows = [
        [way, f"{r['seconds']:.1f}", f"{r['CPU seconds']:.1f}", f"{r['peak MB']:.0f}", f"{r['before MB']:.0f}"]
        for way, r in results.items()
    ]
    print(table(["", "seconds", "CPU seconds", "peak MB", "of which imports MB"], rows))
    write(asked.json, {"groups": asked.groups, "examples": asked.examples, "ways": results})


def _write(run: Path, groups: int, count: int) -> None:
    import synthetic

    questions = synthetic.examples(count, groups)
    synthetic.swept(synthetic.recorded(run, questions), questions, selectors=1)


if __name__ == "__main__":
    main()
