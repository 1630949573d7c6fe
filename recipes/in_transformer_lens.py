"""Does a mask found here do the same in TransformerLens?

A saved set of neurons is switched off in an nnsight trace and, as hooks, on a TransformerLens bridge of the same weights;
their logits are compared. Runs as it stands on the text organism (the mask is found and saved first); the real thing:

    python in_transformer_lens.py --model Qwen/Qwen3-1.7B --data questions.jsonl --mask neurons.safetensors
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoModelForCausalLM

import gatescope as gs
from gatescope.traces.encoding import collate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory of a language model; the text organism if not given")
    parser.add_argument(
        "--data", help="a name of `gatescope data list`, or JSONL; the organism's culture questions if not given"
    )
    parser.add_argument("--mask", help="a NeuronSet's file; CAS neurons of the first group if not given")
    options = parser.parse_args()

    organism = gs.organism.text.load() if not (options.model and options.data) else None
    source = options.model or organism.path
    model = gs.load_model(source)
    study = gs.data.load(options.data) if options.data else organism.tasks["culture"]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.mask or f"{folder}/neurons.safetensors")
        if not options.mask:
            counts = gs.record(model, study.identification, readout=study.readout).with_tokens()
            next(iter(gs.select.cas(counts, 0.01).values())).save(path)
        mask = gs.ablate(gs.NeuronSet.load(path))

    # A bridge takes over the module it is given, so it is given one of its own.
    module = AutoModelForCausalLM.from_pretrained(source, dtype="auto", attn_implementation="eager").eval()
    bridge = build_bridge_from_module(module, type(module).__name__, hf_config=module.config, tokenizer=model.tokenizer)
    bridge.requires_grad_(False)

    inputs = collate(model, study.evaluation[:8]).inputs
    with torch.no_grad(), model.trace(**inputs):
        full = model.output.logits.save()
    with torch.no_grad(), model.trace(**inputs):
        mask.apply(model)
        ours = model.output.logits.save()
    hooks = gs.lens_hooks(mask, bridge)
    theirs = bridge.run_with_hooks(inputs["input_ids"], attention_mask=inputs["attention_mask"], fwd_hooks=hooks)

    real = inputs["attention_mask"].bool()
    difference, effect = (ours - theirs)[real].abs().max(), (ours - full)[real].abs().max()
    table = gs.sweep(model, study.evaluation, {mask.neurons.origin.get("group", "mask"): mask}, readout=study.readout)
    print(
        f"The hooks: {', '.join(name for name, _ in hooks)}\n\n"
        f"Switching off {len(mask.neurons)} neurons moves a logit by up to {effect:.2f} and accuracy by "
        f"{table.changes('mask').mean():+.1f} points (mean over groups); TransformerLens's logits differ from ours by at most "
        f"{difference:.1e}."
    )


if __name__ == "__main__":
    main()
