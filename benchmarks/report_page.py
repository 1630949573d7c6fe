"""How long the page of a large run takes, how large it is, and how much memory it needs.

    python benchmarks/report_page.py --groups 200 --selectors 2 --examples 1000

The run is made up (see synthetic.py) and written first; only `gs.report` is measured, in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import machine, measured, table, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--selectors", type=int, default=2)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _write(run, asked.groups, asked.selectors, asked.examples)
        spent = measured(f"gs.report({str(run)!r}, figures=False)", "gatescope.reports.page")
        page, beside = run / "report.html", run / "report"
        figures = {
            "groups": asked.groups,
            "selectors": asked.selectors,
            "examples": asked.examples,
            "seconds": spent["seconds"],
            "CPU seconds": spent["CPU seconds"],
            "peak MB": spent["peak MB"],
            "of which imports MB": spent["before MB"],
            "page MB": page.stat().st_size / 1e6,
            "files beside it MB": sum(file.stat().st_size for file in beside.rglob("*") if file.is_file()) / 1e6,
            "largest file beside it MB": max(file.stat().st_size for file in beside.rglob("*") if file.is_file()) / 1e6,
        }
    print(machine("cpu"))
    print(table(list(figures), [[f"{value:.1f}" if isinstance(value, float) else str(value) for value in figures.values()]]))
    write(asked.json, figures)


def _write(run: Path, groups: int, selectors: int, count: int) -> None:
    import synthetic

    questions = synthetic.examples(count, groups)
    synthetic.swept(synthetic.recorded(run, questions), questions, selectors)


if __name__ == "__main__":
    main()
