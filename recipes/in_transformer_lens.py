"""Does a mask found here do the same in TransformerLens?

A saved set of neurons is switched off in an nnsight trace and, by hooks, in a TransformerLens bridge with the same weights;
the logits are compared. Runs as it is on the text organism, where the neurons are found and saved first. For a real model:

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
    parser.add_argument("--model", help="hub id or directory of a language model; default: the text organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL; default: the organism's culture questions")
    parser.add_argument("--mask", help="a file of neurons; default: the first group's CAS neurons")
    options = parser.parse_args()

    organism = gs.organism.text.load() if not (options.model and options.data) else None
    source = options.model or organism.path
    model = gs.load_model(source)
    study = gs.data.load(options.data) if options.data else organism.tasks["culture"]

    with tempfile.TemporaryDirectory() as folder:
        path = options.mask or Path(folder, "neurons.safetensors")
        if not options.mask:
            counts = gs.record(model, study.identification, readout=study.readout).with_tokens()
            chosen = gs.select.cas(counts, rate=0.01)
            chosen[counts.groups[0]].save(path)
        neurons = gs.NeuronSet.load(path)
    mask = gs.ablate(neurons)

    # A bridge takes over the module it is given, so it gets a second copy of the weights.
    module = AutoModelForCausalLM.from_pretrained(source, dtype="auto", attn_implementation="eager").eval()
    bridge = build_bridge_from_module(module, type(module).__name__, hf_config=module.config, tokenizer=model.tokenizer)
    bridge.requires_grad_(False)
    hooks = gs.lens_hooks(mask, bridge)

    inputs = collate(model, study.evaluation[:8]).inputs
    with torch.no_grad(), model.trace(**inputs):
        unmodified = model.output.logits.save()
    with torch.no_grad(), model.trace(**inputs):
        mask.apply(model)
        masked = model.output.logits.save()
    hooked = bridge.run_with_hooks(inputs["input_ids"], attention_mask=inputs["attention_mask"], fwd_hooks=hooks)

    real_tokens = inputs["attention_mask"].bool()
    effect = (masked - unmodified)[real_tokens].abs().max()
    difference = (masked - hooked)[real_tokens].abs().max()
    table = gs.sweep(model, study.evaluation, {neurons.provenance.get("group", "mask"): mask}, readout=study.readout)
    change = table.changes("mask").mean()
    print("The hooks: " + ", ".join(name for name, _ in hooks))
    print(f"\nSwitching off {len(neurons)} neurons moves a logit by up to {effect:.2f}, and accuracy by {change:+.1f} points")
    print(f"(mean over groups). TransformerLens's logits differ from ours by at most {difference:.1e}.")


if __name__ == "__main__":
    main()
