"""What the benchmarks share: options, interleaved timing, tables, and a JSON file.

Every alternative is called once per round, in the order given, so that other load on the machine affects all of them
alike. A ratio is taken within a round; its median and quartiles are over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def options(description: str | None, presets: Mapping[str, object]) -> argparse.Namespace:
    """`--preset`, `--device` and `--json` from the command line."""
    # Raw, because the docstrings contain lists that must not be reflowed.
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=presets, default="toy", help="the model's shape (default: toy)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run (default: cpu)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args()


def timed(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", warmup: int = 3
) -> dict[str, list[float]]:
    """Seconds of each function in each round. Within a round, the functions run one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(warmup + rounds):
        for name, function in functions.items():
            spent = _seconds(function, device)
            if index >= warmup:
                seconds[name].append(spent)
    return seconds


def _seconds(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def measured(code: str, *imports: str) -> dict[str, float]:
    """Seconds, of the clock and of the processor, and peak memory of a line of code, in a process of its own.

    Args:
        code: in which `gs` is gatescope.
        imports: modules that are imported before, and not counted in the seconds.
    """
    before = "".join(f"import {name}\n" for name in imports)
    script = (
        f"import json, time\nimport gatescope as gs\n{before}"
        # Of this process alone: what getrusage says includes what the parent had when it forked.
        f"status = lambda: open('/proc/self/status').read().split('VmHWM:')[1]\n"
        f"peak = lambda: int(status().split()[0]) / 1024\n"
        f"imported, begun, cpu = peak(), time.perf_counter(), time.process_time()\n{code}\n"
        f"spent = {{'seconds': time.perf_counter() - begun, 'CPU seconds': time.process_time() - cpu}}\n"
        f"print(json.dumps(spent | {{'peak MB': peak(), 'before MB': imported}}))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def against(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, dict[str, float]]]:
    """Each function's seconds, and its ratio to the base in the same round."""
    return {
        name: {"seconds": spread(spent), "ratio": spread([x / y for x, y in zip(spent, seconds[base], strict=True)])}
        for name, spent in seconds.items()
    }


def ratios(results: Mapping[str, Mapping[str, Mapping[str, float]]], base: str) -> str:
    """What `against` returned, as a table."""
    rows = []
    for name, result in results.items():
        seconds, ratio = result["seconds"], result["ratio"]
        time_quartiles = f"{1000 * seconds['low']:.1f} .. {1000 * seconds['high']:.1f}"
        ratio_quartiles = f"{ratio['low']:.2f} .. {ratio['high']:.2f}"
        rows.append([name, f"{1000 * seconds['median']:.1f}", time_quartiles, f"{ratio['median']:.2f}", ratio_quartiles])
    return table(["", "ms", "quartiles", f"x {base}", "quartiles"], rows)


def less(whole: list[float], part: list[float]) -> list[float]:
    """The whole minus the part, round by round."""
    return [x - y for x, y in zip(whole, part, strict=True)]


def machine(device: str) -> str:
    """The device in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    named = [line for line in _cpuinfo() if line.startswith("model name")]
    processor = named[0].partition(":")[2].strip() if named else "cpu"
    return f"{processor}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Rows under headings; the first column is aligned left, the others right."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = []
    for first, *others in (headings, *rows):
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def write(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write the figures as JSON, with the version of torch, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"torch": torch.__version__, **figures}, indent=1) + "\n")
