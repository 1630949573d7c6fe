"""How close the kernels come to the time it takes to read the activation once.

The floor is the size of the activation divided by the bandwidth of a copy, measured in the same rounds (a copy moves every
byte twice: it reads and writes it). The three forms of a kernel:

    masked    one eager expression
    eager     what runs without a compiler
    compiled  what runs with one

On a GPU the first two are the same.
"""

from __future__ import annotations

import os
import time
import warnings

import common
import torch

from gatescope.kernels import compiled, eager

PRESETS = {
    "toy": {"width": 1024, "batch": 8, "tokens": 128, "dtypes": ("float32", "bfloat16"), "rounds": 50},
    "1b": {"width": 8192, "batch": 8, "tokens": 512, "dtypes": ("bfloat16",), "rounds": 20},
    "7b": {"width": 18944, "batch": 8, "tokens": 1024, "dtypes": ("bfloat16",), "rounds": 10},
    "12b": {"width": 15360, "batch": 8, "tokens": 1024, "dtypes": ("bfloat16",), "rounds": 10},
}
HEADINGS = ["kernel: form", "ms", "quartiles", "x floor", "% of copy bandwidth", "x compiled"]


def main() -> None:
    chosen = common.options(__doc__, PRESETS)
    shape = PRESETS[chosen.preset]
    os.environ["GATESCOPE_KERNEL"] = "compiled"
    warnings.simplefilter("always")
    print(f"preset {chosen.preset}: {shape}\n{common.machine(chosen.device)}, torch {torch.__version__}")
    figures = {name: measure(shape, name, chosen.device) for name in shape["dtypes"]}
    print(f"\nkernels: {compiled.name(chosen.device)}")
    facts = {"preset": chosen.preset, "shape": shape, "machine": common.machine(chosen.device)}
    common.write(chosen.json, facts | {"kernel": compiled.name(chosen.device), "dtypes": figures})


@torch.no_grad()
def measure(shape: dict, dtype: str, device: str) -> dict:
    """Print one dtype's tables; return their figures."""
    b, s, n = (shape[axis] for axis in ("batch", "tokens", "width"))
    torch.manual_seed(0)
    gate, gradient = (torch.randn(b, s, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    target = torch.empty_like(gate)
    real = torch.arange(s, device=device) >= torch.linspace(0, s // 4, b, device=device)[:, None]  # left padding
    image = torch.arange(s, device=device) < s // 2
    one, two = real[None], torch.stack([real & image, real & ~image])
    jobs = {  # how many activations it reads; its three forms; their arguments
        "count": (1, (eager.count_masked, eager.count_classes, compiled.count_classes), (gate, one)),
        "count 2 classes": (1, (eager.count_masked, eager.count_classes, compiled.count_classes), (gate, two)),
        "attribution max": (
            2,
            (eager.attribution_masked, eager.attribution, compiled.attribution),
            (gate, gradient, real, "max", False),
        ),
    }
    size = gate.numel() * gate.element_size()
    print(f"\n{dtype}, {size / 2**20:.1f} MiB per activation")
    functions = {"copy": lambda: target.copy_(gate)}
    for job, (_, forms, arguments) in jobs.items():
        for form, function in zip(("masked", "eager", "compiled"), forms, strict=True):
            functions[f"{job}: {form}"] = lambda function=function, arguments=arguments: function(*arguments)
    begun = time.perf_counter()
    for function in functions.values():
        function()
    print(f"first calls, including compilation: {time.perf_counter() - begun:.1f} s")
    seconds = common.timed(functions, shape["rounds"], device)
    copies = seconds["copy"]
    print(f"copy: {2 * size / common.spread(copies)['median'] / 1e9:.1f} GB/s")
    results, rows = {}, []
    for name, spent in seconds.items():
        job = name.partition(":")[0]
        reads = jobs[job][0] if job in jobs else 2
        floors = [copy / 2 * reads for copy in copies]
        against = seconds.get(f"{job}: compiled", spent)
        results[name] = {
            "seconds": common.spread(spent),
            "floor": common.spread([x / floor for x, floor in zip(spent, floors, strict=True)]),
            "against_compiled": common.spread([x / y for x, y in zip(spent, against, strict=True)]),
        }
        time_spent, floor, ratio = results[name].values()
        quartiles = f"{1000 * time_spent['low']:.3f} .. {1000 * time_spent['high']:.3f}"
        cells = [f"{1000 * time_spent['median']:.3f}", quartiles, f"{floor['median']:.1f}", f"{100 / floor['median']:.0f}"]
        rows.append([name, *cells, f"{ratio['median']:.2f}"])
    print(common.table(HEADINGS, rows))
    return results


if __name__ == "__main__":
    main()
