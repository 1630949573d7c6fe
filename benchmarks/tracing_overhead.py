"""What counting costs, as a ratio to the bare forward pass measured in the same run, paired and interleaved."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import nnsight
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gatescope.doctor import plain_tokenizer
from gatescope.kernels import count
from gatescope.sites import read, site_of

PRESETS = {"toy": {"layers": 12, "hidden": 256, "width": 1024, "batch": 8, "tokens": 128, "rounds": 20}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="toy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    shape = PRESETS[options.preset]
    config = LlamaConfig(
        vocab_size=1000, hidden_size=shape["hidden"], intermediate_size=shape["width"], num_hidden_layers=shape["layers"],
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval().requires_grad_(False).to(options.device)
    model = nnsight.TransformersModel(module, task="text-generation", tokenizer=plain_tokenizer(), dispatch=True)
    site = site_of(model, "gate")
    ids = torch.randint(1000, (shape["batch"], shape["tokens"]), device=options.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    valid = inputs["attention_mask"].bool()

    def bare():
        module(**inputs, use_cache=False, logits_to_keep=1)

    def trace_reading_nothing():
        with model.trace(**inputs, use_cache=False, logits_to_keep=1):
            pass

    def plain_hooks():
        kept = []
        parts = [module.get_submodule(path) for path in site.paths]
        handles = [p.register_forward_hook(lambda _m, _i, out: kept.append(count(out, valid))) for p in parts]
        bare()
        for handle in handles:
            handle.remove()

    def gatescope():
        with model.trace(**inputs, use_cache=False, logits_to_keep=1):
            _ = nnsight.save([count(read(model, path, site.io), valid) for path in site.paths])

    timed = {f.__name__: [] for f in (bare, trace_reading_nothing, plain_hooks, gatescope)}
    functions = {f.__name__: f for f in (bare, trace_reading_nothing, plain_hooks, gatescope)}
    with torch.no_grad():
        for round_ in range(shape["rounds"] + 2):
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                if options.device == "cuda":
                    torch.cuda.synchronize()
                if round_ >= 2:
                    timed[name].append(time.perf_counter() - start)
    rows = {}
    for name, seconds in timed.items():
        ratios = [mine / base for mine, base in zip(seconds, timed["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows[name] = {"milliseconds": 1000 * statistics.median(seconds), "ratio": middle, "quartiles": [low, high]}
    print(f"preset {options.preset} {shape}, {options.device}, {torch.get_num_threads()} threads, sdpa")
    print(f"{'':24}{'ms':>8}{'x bare':>8}   quartiles")
    for name, row in rows.items():
        low, high = row["quartiles"]
        print(f"{name:24}{row['milliseconds']:8.1f}{row['ratio']:8.2f}   {low:.2f} .. {high:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"preset": options.preset, "shape": shape, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
