"""Do neurons found on a base model do the same in its fine-tune?

The neurons of each group are found on both models. In the fine-tune its own are switched off, and then those of the base,
which have the same numbers: `allow="same layout"` says that this is meant. Runs as it is on the text organism and a copy of it
whose weights are moved a little, in place of a fine-tuning. For real models, the second a fine-tune of the first:

    python base_against_instruct.py --base google/gemma-3-4b-pt --instruct google/gemma-3-4b-it --data questions.jsonl
"""

import argparse
import tempfile
from pathlib import Path

import torch

import gatescope as gs


def moved(path: str | Path, folder: str) -> str:
    """A copy of a model, every weight of which has moved a little."""
    model = gs.load_model(path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model._module.parameters():
            parameter += 0.3 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
    model._module.save_pretrained(folder)
    (model.processor or model.tokenizer).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="hub id or directory; default: the text organism")
    parser.add_argument("--instruct", help="hub id or directory of its fine-tune; default: a copy of the organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL; default: the organism's culture questions")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons for each group")
    options = parser.parse_args()
    real = options.base and options.instruct and options.data
    organism = None if real else gs.organism.text.load()
    study = gs.data.load(options.data) if real else organism.tasks["culture"]

    with tempfile.TemporaryDirectory() as folder:
        base = gs.load_model(options.base if real else organism.path)
        instruct = gs.load_model(options.instruct if real else moved(organism.path, folder))
    found = {}
    for name, model in (("base", base), ("instruct", instruct)):
        counts = gs.record(model, study.identification, readout=study.readout).with_tokens()
        found[name] = gs.select.cas(counts, options.rate)
    found["base"] = found["base"].used_on(instruct, allow="same layout")
    some = next(iter(found["base"].values()))
    print(f"found on {some.provenance['found on']}\nused on  {some.provenance['used on']}\n")

    table = gs.sweep(instruct, study.evaluation, gs.ablate(found), readout=study.readout)
    effects = {effect.selector: effect.accuracy for effect in table.self_cross().effects}
    common = [group for group in found["instruct"] if group in found["base"]]
    overlap = found["instruct"].jaccard(found["base"])
    rows, columns = list(found["instruct"]), list(found["base"])
    print("group            overlap (Jaccard)")
    for group in common:
        print(f"{group:16} {overlap[rows.index(group), columns.index(group)]:17.2f}")
    own, theirs = effects["instruct"], effects["base"]
    print(f"\nWithout its neurons found there, a group's accuracy in the fine-tune changes by {own.self_:+.1f} points, without")
    print(f"those found on the base by {theirs.self_:+.1f} (that of other groups by {own.cross:+.1f} and {theirs.cross:+.1f}).")


if __name__ == "__main__":
    main()
