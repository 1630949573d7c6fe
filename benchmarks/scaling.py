"""How the cost and the memory of `gs.record` grow: with examples, groups, layers x neurons, and processes.

Time is of whole calls, texts to counters, and beside it the bare forward passes of the same batches in the same round.

Memory is by how much `record`'s peak is above that of bare forward passes of the same batches, each case in a process of
its own with one thread. The bound it is held against:

    groups x layers x width x 16 bytes          the counters: K int64, S float64
    layers x batch x width x 12 bytes           a batch's K int64 and S float32, until its answers are known

On a GPU the peak is the device's (the counters are in the host's memory there). Processes work on one run directory, one
thread each, and are timed from when all of them have loaded the model.
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
HEADINGS = ["", "bare, ms an example", "record, ms an example", "x bare", "quartiles"]


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
    """Time of whole calls against bare forward passes; printed and returned."""
    found, rows = {}, []
    model = shapes.decoder(preset, device)
    cases = [(f"{count} examples", model, count, 1) for count in shape["examples"]]
    cases += [(f"{groups} groups", model, shape["examples"][1], groups) for groups in GROUPS[1:]]
    cases += [(f"{layers} layers x {width}", (layers, width), shape["batch"] * 2, 1) for layers, width in shape["sizes"]]
    for name, which, count, groups in cases:
        if isinstance(which, tuple):
            model = None  # the last one's weights go before the next one's come
            model = which = shapes.decoder(preset, device, num_hidden_layers=which[0], intermediate_size=which[1])
        examples = shapes.questions(count, shape["tokens"], groups)
        batches = [collate(which, some).to(which._module.device) for some in cut(examples, shape["batch"])]
        ways = {
            "bare": lambda w=which, b=batches: bare(w, b),
            "record": lambda w=which, e=examples: recorded(w, e, shape["batch"]),
        }
        figures = common.against(common.timed(ways, shape["rounds"], device, warmup=1), "bare")
        found[name] = figures
        ratio = figures["record"]["ratio"]
        each = [f"{1000 * figures[way]['seconds']['median'] / count:.2f}" for way in ("bare", "record")]
        rows.append([name, *each, f"{ratio['median']:.2f}", f"{ratio['low']:.2f} .. {ratio['high']:.2f}"])
    print(f"\ntime, {shape['tokens']} tokens an example\n" + common.table(HEADINGS, rows))
    return found


@torch.no_grad()
def bare(model, batches: list) -> None:
    """The forward passes alone."""
    for batch in batches:
        model._module(**batch.inputs, **forward_options(model, batch.inputs, keep=1))


def recorded(model, examples: list, batch: int, readout: str = "label", **options) -> None:
    """A whole call of `record`; answers are read from the logits, so that the whole forward pass runs."""
    settings = {"readout": readout, "only_correct": False, "batch_size": batch, "progress": False}
    gs.record(model, examples, **settings, **options)


def memory(preset: str, shape: dict, device: str) -> list[dict]:
    """Growth of the peak by groups, shards and whether there is a run directory; printed and returned."""
    found, rows = [], []
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        print("\nmemory is left out: a process' peak can be read and reset on Linux only.")
        return found
    each = {"preset": preset, "device": device, "batch": shape["batch"], "tokens": shape["tokens"]}
    for groups, shards, run, readout in MEMORY:
        case = each | {"groups": groups, "shards": shards, "run": run, "readout": readout}
        figures = case | _child("memory", case)
        found.append(figures)
        counters, bound, grown = (figures[name] / 2**20 for name in ("counters", "bound", "grown"))
        sizes = [f"{counters:.1f}", f"{bound:.1f}", f"{grown:.1f}", f"{grown / bound:.2f}"]
        rows.append([f"{groups} groups, {shards} shards, {'run directory' if run else 'no directory'}, {readout}", *sizes])
    headings = ["", "counters, MiB", "bound, MiB", "grown, MiB", "x bound"]
    print("\nmemory\n" + common.table(headings, rows))
    return found


def memory_case(case: dict) -> None:
    """In a process of its own: print by how much record's peak is above that of the forward passes."""
    torch.set_num_threads(1)  # every thread has memory of its own to allocate from
    model = shapes.decoder(case["preset"], case["device"])
    examples = shapes.questions(max(64, case["groups"]), case["tokens"], case["groups"])
    batches = [collate(model, some).to(model._module.device) for some in cut(examples, case["batch"])]
    recorded(
        model, shapes.questions(16, case["tokens"]), case["batch"], case["readout"]
    )  # what is made once: kernels, identity, sites
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
    """By how many bytes the memory in use rises above what it was, at most, while the work is done."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present again
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def processes(preset: str, shape: dict) -> dict:
    """One and two processes on one run, a thread each; printed and returned."""
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
    print(f"\nprocesses on one run, {case['examples']} examples in 8 shards, one thread each")
    print(common.ratios(figures, "1 process"))
    return figures


def worker_case(case: dict) -> None:
    """In a process of its own: load and say so; record whenever told to, and say so."""
    torch.set_num_threads(1)
    model = shapes.decoder(case["preset"], "cpu")
    examples = shapes.questions(case["examples"], case["tokens"], 4)
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        os.environ |= {"RANK": str(told["rank"]), "WORLD_SIZE": str(told["world"])}
        recorded(model, examples, case["batch"], shard_size=-(-len(examples) // 8), run=told["run"])
        print("done", flush=True)


def _word(worker: subprocess.Popen, word: str) -> None:
    """Wait until a worker says it."""
    if worker.stdout.readline().strip() != word:
        raise RuntimeError(f"A worker ended with {worker.wait()}.")


def _child(what: str, case: dict) -> dict:
    # Tensors get pages of their own and give them back, so that what was freed before hides nothing.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, what, json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
