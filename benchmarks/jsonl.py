"""How long a JSONL file takes to read, and how much memory.

    python benchmarks/jsonl.py --rows 1000000

Each row has an id, a group, a question of its own, four choices and an answer; no pictures, which
would be decoded. Every row is checked, its id looked up, and the study cut in half. Peak memory is the process's own, and what
it had before reading is printed beside it; torch is not imported, as nothing needs it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

import gatescope as gs

GROUPS = ("Arveni", "Belthar", "Corvan", "Dunmere")


def written(path: Path, rows: int) -> Path:
    """A file of that many questions."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            choices = [f"word {choice}" for choice in rng.sample(range(10 * rows), 4)]
            question = f"Which of these is carried at the feast of the {number}th moon, when the drums are heard at dusk?"
            group = GROUPS[number % len(GROUPS)]
            row = {"id": str(number), "group": group, "question": question, "choices": choices, "answer": choices[0]}
            file.write(json.dumps(row) + "\n")
    return path


def peak() -> float:
    """The most memory the process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="lines of the file (default: 1,000,000)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    jsonl = gs.data.jsonl  # imported before it is timed
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "questions.jsonl", options.rows)
        before, begun, used = peak(), time.perf_counter(), time.process_time()
        study = jsonl(path)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    assert len(study.identification) + len(study.evaluation) == options.rows
    found = {
        "rows": options.rows,
        "seconds": seconds,
        "cpu seconds": cpu,
        "rows a second": options.rows / seconds,
        "MiB before": before,
        "peak MiB": peak(),
    }
    # Only now: it imports torch, which would be counted.
    from common import machine, table, write

    print(table(list(found), [[f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in found.values()]]))
    write(options.json, {"machine": machine("cpu"), **found})


if __name__ == "__main__":
    main()
