"""How long counting takes, as a ratio to the bare forward pass of the same round.

    bare                    the module's forward pass: no cache of keys and values, logits of the last position only
    trace, reading nothing  the same inside an nnsight trace
    hooks + kernel          plain PyTorch hooks on the activation modules, counting with gatescope's kernel
    trace + kernel          the same counting in a trace: `record` without its bookkeeping
    record                  `gs.record` of one batch of questions, from texts to counters; answers are read from the logits
    record, passages        `gs.record` without answers: the pass ends after the last gate
    collation               what `record` does before the model runs: tokenising, padding, finding the tokens that count
    record less collation   the difference, within the round
    gate activations saved  a trace that saves every layer's activations and counts nothing
    cache of everything     nnsight's `tracer.cache()` of every module's output

All of these use sdpa attention. TransformerLens' bridge needs eager attention, so it has its own table, beside a bare
forward pass and `record` with eager attention. Its hook at the gate is before the nonlinearity, where the sign is the same;
it counts with the same kernel. The last table changes one number of the toy shape at a time.
"""

from __future__ import annotations

import common
import nnsight
import shapes
import torch
from transformers import AutoModelForCausalLM

import gatescope as gs
from gatescope.kernels import compiled
from gatescope.models.sites import site_of
from gatescope.traces.access import forward_options, read
from gatescope.traces.encoding import collate

PRESETS = {
    "toy": {"batch": 8, "tokens": 128, "rounds": 15},
    "1b": {"batch": 8, "tokens": 512, "rounds": 15},
    "7b": {"batch": 8, "tokens": 1024, "rounds": 10},
    "12b": {"batch": 8, "tokens": 1024, "rounds": 10},
}
SWEEPS = {
    "num_hidden_layers": (3, 12, 24),
    "intermediate_size": (256, 1024, 4096),
    "tokens": (32, 128, 256),
    "batch": (1, 8, 16),
}
BASE = "bare"


def main() -> None:
    chosen = common.options(__doc__, PRESETS)
    shape = PRESETS[chosen.preset]
    print(f"preset {chosen.preset}: {shape}\n{common.machine(chosen.device)}, torch {torch.__version__}")
    figures = {"sdpa": measure(chosen.preset, shape, chosen.device)}
    print("\nsdpa attention\n" + common.ratios(figures["sdpa"], BASE))
    print(f"\nkernels: {compiled.name(chosen.device)}")
    if lens := bridge(chosen.preset, chosen.device):
        figures["eager"] = measure(chosen.preset, shape | {"rounds": shape["rounds"] // 2}, chosen.device, lens)
        print("\neager attention, which TransformerLens needs\n" + common.ratios(figures["eager"], BASE))
        del lens
    if chosen.preset == "toy":
        figures["sweeps"] = sweeps(shape, chosen.device)
    facts = {"preset": chosen.preset, "shape": shape, "machine": common.machine(chosen.device)}
    common.write(chosen.json, facts | {"kernel": compiled.name(chosen.device)} | figures)


def measure(preset: str, shape: dict, device: str, lens=None, few: bool = False, **changes: int) -> dict:
    """The results of all ways; or, with a bridge or `few`, of those compared with it or in a sweep."""
    model = shapes.decoder(preset, device, "sdpa" if lens is None else "eager", **changes)
    functions = ways(model, shapes.passages(shape["batch"], shape["tokens"]), lens)
    if few or lens is not None:
        wanted = (BASE, "hooks + kernel", "collation", "record", "bridge", "bridge + kernel")
        functions = {name: function for name, function in functions.items() if name in wanted}
    with torch.no_grad():
        seconds = common.timed(functions, shape["rounds"], device, warmup=1 if few else 2)
    seconds["record less collation"] = common.less(seconds["record"], seconds["collation"])
    return common.against(seconds, BASE)


def ways(model, examples: list, lens=None) -> dict:
    """The functions to time, by name."""
    module, site = model._module, site_of(model, "gate")
    batch = collate(model, examples).to(module.device)
    inputs = batch.inputs | forward_options(model, batch.inputs, keep=1)
    masks = batch.token_mask[None]

    def bare():
        module(**inputs)

    def reading_nothing():
        with model.trace(**inputs):
            pass

    def hooks():
        kept = []
        parts = [module.get_submodule(path) for path in site.paths]
        handles = [p.register_forward_hook(lambda _m, _i, out: kept.append(compiled.count_classes(out, masks))) for p in parts]
        bare()
        for handle in handles:
            handle.remove()

    def trace():
        with model.trace(**inputs):
            _ = nnsight.save([compiled.count_classes(read(model, path, site.io), masks) for path in site.paths])

    def record(asked: list, readout: str):
        options = {"readout": readout, "only_correct": False, "batch_size": len(asked), "progress": False}
        gs.record(model, asked, **options)

    def saved():
        with model.trace(**inputs):
            _ = nnsight.save([read(model, path, site.io) for path in site.paths])

    def everything():
        with model.trace(**inputs) as tracer:
            _ = tracer.cache(device=None)

    def bridge_alone():
        lens(batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"])

    def bridge_hooks():
        kept = []
        names = [f"blocks.{layer}.mlp.hook_pre" for layer in range(len(site.paths))]
        hooked = [(name, lambda gate, hook: kept.append(compiled.count_classes(gate, masks)) or None) for name in names]
        lens.run_with_hooks(batch.inputs["input_ids"], fwd_hooks=hooked, attention_mask=batch.inputs["attention_mask"])
        if len(kept) != len(names):
            raise RuntimeError(f"{len(kept)} of {len(names)} TransformerLens hooks ran.")

    named = {BASE: bare, "trace, reading nothing": reading_nothing, "hooks + kernel": hooks, "trace + kernel": trace}
    asked = shapes.questions(len(examples), batch.inputs["input_ids"].shape[1])
    named |= {"record": lambda: record(asked, "label"), "record, passages": lambda: record(examples, "none")}
    named |= {"collation": lambda: collate(model, asked), "gate activations saved": saved}
    named |= {"cache of everything": everything}
    return named | ({"bridge": bridge_alone, "bridge + kernel": bridge_hooks} if lens is not None else {})


def bridge(preset: str, device: str):
    """The preset's model as a TransformerLens bridge; None, with the reason printed, if it is not installed."""
    try:
        from transformer_lens.model_bridge.sources import build_bridge_from_module
    except ImportError as error:
        print(f"\nTransformerLens is left out: {error}. pip install 'gatescope[lens]' adds it.")
        return None
    config = shapes.config(preset)
    module = shapes.built(AutoModelForCausalLM, config, device, "eager")  # a bridge rewrites its module, so it gets its own
    name = type(module).__name__
    return build_bridge_from_module(module, name, hf_config=config, tokenizer=shapes.tokenizer()).requires_grad_(False)


def sweeps(shape: dict, device: str) -> dict:
    """Print and return the ratio by layers, width, tokens and batch, with all else as in the preset."""
    results, rows = {}, []
    for axis, values in SWEEPS.items():
        for value in values:
            here = shape | {"rounds": 3} | ({axis: value} if axis in shape else {})
            changes = {} if axis in shape else {axis: value}
            figures = measure("toy", here, device, few=True, **changes)
            results[f"{axis} {value}"] = figures
            cells = [f"{1000 * figures[BASE]['seconds']['median']:.1f}"]
            for name in ("hooks + kernel", "record less collation"):
                ratio = figures[name]["ratio"]
                cells += [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} .. {ratio['high']:.2f}"]
            rows.append([f"{axis} {value}", *cells])
    headings = ["", "bare, ms", "hooks + kernel", "quartiles", "record less collation", "quartiles"]
    print("\none number changed at a time, sdpa attention, as a ratio to bare\n" + common.table(headings, rows))
    return results


if __name__ == "__main__":
    main()
