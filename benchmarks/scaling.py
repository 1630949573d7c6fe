"""How time and memory of `gs.record` grow: with examples, groups, layers x neurons, and processes.

Time is that of whole calls, from texts to counters, compared with the bare forward passes of the same batches in the same
round.

Memory is the difference between the peak of `record` and that of the bare forward passes of the same batches. Each case
runs in its own process with one thread. It is compared with this bound:

    groups x layers x width x 16 bytes          the counters: K int64, S float64
    layers x batch x width x 12 bytes           a batch's K int64 and S float32, until its answers are known

On a GPU the peak is the device's (there, the counters are in the host's memory). The processes share one run directory,
have one thread each, and are timed from the moment all of them have loaded the model.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import shapes
import torch

import gatescope as gs
from gatescope.steps.plan import cut
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import collate

SIZES = ((3, 1024), (12, 256), (12, 4096))  # layers, width
PRESETS = {
    "toy": {"batch": 8, "tokens": 32, "rounds": 3, "examples": (16, 64, 128), "sizes": SIZES},
    "1b": {"batch": 8, "tokens": 256, "rounds": 5, "examples": (16, 64, 256), "sizes": ((8, 8192), (16, 8192))},
    "7b": {"batch": 8, "tokens": 256, "rounds": 3, "examples": (16, 64, 256), "sizes": ((14, 18944), (28, 18944))},
    "12b": {"batch": 8, "tokens": 256, "rounds": 3, "examples": (16, 64, 256), "sizes": ((24, 15360), (48, 15360))},
}  # fmt: skip
GROUPS = (1, 16, 64)
MEMORY = (  # groups, shards, whether there is a run directory, readout
    (1, 1, False, "label"),
    (1, 1, False, "none"),
    (64, 1, False, "label"),
    (64, 4, False, "label"),
    (64, 1, True, "label"),
    (64, 4, True, "label"),
)
HEADINGS = ["", "bare, ms per example", "record, ms per example", "x bare", "quartiles"]


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("memory", "worker"):
        {"memory": memory_case, "worker": worker_case}[sys.argv[1]](json.loads(sys.argv[2]))
        return
    chosen = common.options(__doc__, PRESETS)
    shape = PRESETS[chosen.preset]
    print(f"preset {chosen.preset}: {shape}\n{common.machine(chosen.device)}, torch {torch.__version__}")
    figures = {"cost": cost(chosen.preset, shape, chosen.device), "memory": memory(chosen.preset, shape, chosen.device)}
    if chosen.device == "cpu":
        figures["processes"] = processes(chosen.preset, shape)
    facts = {"preset": chosen.preset, "shape": shape, "machine": common.machine(chosen.device)}
    common.write(chosen.json, facts | figures)


def cost(preset: str, shape: dict, device: str) -> dict:
    """Print and return the time of whole calls and of the bare forward passes."""
    results, rows = {}, []
    model = shapes.decoder(preset, device)
    cases = [(f"{count} examples", model, count, 1) for count in shape["examples"]]
    cases += [(f"{groups} groups", model, shape["examples"][1], groups) for groups in GROUPS[1:]]
    cases += [(f"{layers} layers x {width}", (layers, width), shape["batch"] * 2, 1) for layers, width in shape["sizes"]]
    for name, which, count, groups in cases:
        if isinstance(which, tuple):
            model = None  # free the previous model's weights before the next are allocated
            model = which = shapes.decoder(preset, device, num_hidden_layers=which[0], intermediate_size=which[1])
        examples = shapes.questions(count, shape["tokens"], groups)
        batches = [collate(which, some).to(which._module.device) for some in cut(examples, shape["batch"])]
        ways = {
            "bare": lambda w=which, b=batches: bare(w, b),
            "record": lambda w=which, e=examples: recorded(w, e, shape["batch"]),
        }
        figures = common.against(common.timed(ways, shape["rounds"], device, warmup=1), "bare")
        results[name] = figures
        ratio = figures["record"]["ratio"]
        each = [f"{1000 * figures[way]['seconds']['median'] / count:.2f}" for way in ("bare", "record")]
        rows.append([name, *each, f"{ratio['median']:.2f}", f"{ratio['low']:.2f} .. {ratio['high']:.2f}"])
    print(f"\ntime, {shape['tokens']} tokens per example\n" + common.table(HEADINGS, rows))
    return results


@torch.no_grad()
def bare(model, batches: list) -> None:
    """The forward passes alone."""
    for batch in batches:
        model._module(**batch.inputs, **forward_options(model, batch.inputs, keep=1))


def recorded(model, examples: list, batch: int, readout: str = "label", **options) -> None:
    """A whole call of `record`. Answers are read from the logits, so the whole forward pass runs."""
    settings = {"readout": readout, "only_correct": False, "batch_size": batch, "progress": False}
    gs.record(model, examples, **settings, **options)


def memory(preset: str, shape: dict, device: str) -> list[dict]:
    """Print and return by how much the peak grows, by groups, shards and whether there is a run directory."""
    results, rows = [], []
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        print("\nmemory is left out: only on Linux can the peak of a process be read and reset.")
        return results
    each = {"preset": preset, "device": device, "batch": shape["batch"], "tokens": shape["tokens"]}
    for groups, shards, run, readout in MEMORY:
        case = each | {"groups": groups, "shards": shards, "run": run, "readout": readout}
        figures = case | _child("memory", case)
        results.append(figures)
        counters, bound, grown = (figures[name] / 2**20 for name in ("counters", "bound", "grown"))
        sizes = [f"{counters:.1f}", f"{bound:.1f}", f"{grown:.1f}", f"{grown / bound:.2f}"]
        where = "run directory" if run else "no directory"
        rows.append([f"{groups} groups, {shards} shards, {where}, read-out {readout}", *sizes])
    headings = ["", "counters, MiB", "bound, MiB", "growth, MiB", "x bound"]
    print("\nmemory\n" + common.table(headings, rows))
    return results


def memory_case(case: dict) -> None:
    """In its own process: print how far the peak of `record` is above that of the forward passes."""
    torch.set_num_threads(1)  # every thread allocates from its own pool
    model = shapes.decoder(case["preset"], case["device"])
    examples = shapes.questions(max(64, case["groups"]), case["tokens"], case["groups"])
    batches = [collate(model, some).to(model._module.device) for some in cut(examples, case["batch"])]
    # Once beforehand, for what is computed once: kernels, identity, sites.
    recorded(model, shapes.questions(16, case["tokens"]), case["batch"], case["readout"])
    with tempfile.TemporaryDirectory() as directory:
        where = {"run": Path(directory) / "run"} if case["run"] else {}
        options = {"shard_size": -(-len(examples) // case["shards"])} | where
        below = _peak(case["device"], lambda: bare(model, batches))
        grown = _peak(case["device"], lambda: recorded(model, examples, case["batch"], case["readout"], **options)) - below
    site = gs.sites_of(model)["gate"]
    each = len(site.paths) * site.width
    counters = 16 * case["groups"] * each
    print(json.dumps({"grown": grown, "counters": counters, "bound": counters + 12 * case["batch"] * each}))


def _peak(device: str, work: Callable[[], object]) -> int:
    """By how many bytes the memory in use rises, at most, while the work runs."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def processes(preset: str, shape: dict) -> dict:
    """Print and return the time of one and of two processes on one run, with one thread each."""
    case = {"preset": preset, "batch": shape["batch"], "tokens": shape["tokens"], "examples": shape["examples"][-1]}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([sys.executable, __file__, "worker", json.dumps(case)], **pipes) for _ in range(2)]

    def work(world: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for rank, worker in enumerate(workers[:world]):
                worker.stdin.write(json.dumps({"run": f"{directory}/run", "rank": rank, "world": world}) + "\n")
                worker.stdin.flush()
            for worker in workers[:world]:
                _word(worker, "done")

    for worker in workers:
        _word(worker, "ready")
    seconds = common.timed({"1 process": lambda: work(1), "2 processes": lambda: work(2)}, shape["rounds"], warmup=1)
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    figures = common.against(seconds, "1 process")
    print(f"\nprocesses sharing one run, {case['examples']} examples in 8 shards, one thread each")
    print(common.ratios(figures, "1 process"))
    return figures


def worker_case(case: dict) -> None:
    """In its own process: load the model and print "ready"; then record for every line of stdin, and print "done"."""
    torch.set_num_threads(1)
    model = shapes.decoder(case["preset"], "cpu")
    examples = shapes.questions(case["examples"], case["tokens"], 4)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        os.environ |= {"RANK": str(order["rank"]), "WORLD_SIZE": str(order["world"])}
        recorded(model, examples, case["batch"], shard_size=-(-len(examples) // 8), run=order["run"])
        print("done", flush=True)


def _word(worker: subprocess.Popen, word: str) -> None:
    """Wait until a worker prints the word."""
    if worker.stdout.readline().strip() != word:
        raise RuntimeError(f"A worker ended with exit code {worker.wait()}.")


def _child(what: str, case: dict) -> dict:
    # Tensors get their own pages and return them, so that memory freed earlier does not hide growth.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, what, json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
