"""Whose text becomes harder to predict without a language's neurons, and whose without those of a culture alone?

LAPE finds language neurons on passages, and culture neurons on passages about a culture; CAPE keeps the culture neurons that
are not language neurons. The text organism is first taught six languages, each of a culture's own words. For a real model:

    python language_neurons.py --model meta-llama/Llama-3.1-8B --data murel=PATH --language wikipedia --groups en,de,zh
"""

import argparse
import random
from itertools import accumulate, product
from statistics import fmean

import torch

import gatescope as gs
from gatescope.data.registry import named


def invented(questions: gs.data.Study) -> dict[str, gs.data.Study]:
    """Passages in each culture's own words, in an order the model can learn; and passages about each culture."""
    language, culture, rng = ([], []), ([], []), random.Random(0)
    for half, examples in enumerate((questions.identification, questions.evaluation)):
        for e in examples:
            words = sorted({other.answer for other in questions.identification if other.group == e.group})
            positions = accumulate(rng.choices((1, 7), k=24), initial=rng.randrange(20))
            language[half].append(gs.data.Example.passage(e.id, e.group, " ".join(words[i % len(words)] for i in positions)))
            culture[half].append(gs.data.Example.passage(e.id, e.group, f"{e.question} {e.answer}"))
    return {"language": gs.data.Study("language", *language), "culture": gs.data.Study("culture", *culture)}


def teach(module: torch.nn.Module, tokenizer, studies: dict[str, gs.data.Study], steps: int) -> None:
    optimiser = torch.optim.AdamW(module.requires_grad_(True).parameters(), 2e-3)
    texts = [e.prompt for study in studies.values() for e in study.identification]
    for step in range(steps):
        inputs = tokenizer(random.Random(step).sample(texts, 32), return_tensors="pt", padding=True)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        module(**inputs, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = {"model": "", "data": "", "language": "wikipedia", "groups": "en,de,zh", "rate": 0.02, "rho": 50.0, "steps": 200}
    for name, default in usual.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    if options.data:
        model, groups = gs.load_model(options.model), options.groups.split(",")
        (wikipedia, texts), (name, path) = named(options.language), named(options.data)
        studies = {"language": gs.data.load(wikipedia, texts, languages=groups)}
        studies["culture"] = gs.data.load(name, path, groups=groups)
    else:
        organism = gs.organism.text.load()
        model, studies = gs.load_model(organism.path), invented(organism.tasks["culture"])
        teach(model._module, model.tokenizer, studies, options.steps)
    selections, changes = {}, {}
    for name, study in studies.items():
        counts = gs.record(model, study.identification, readout="none", only_correct=False)
        selections[name] = gs.select.lape(counts, options.rate, rho=options.rho)
    selections["pure"] = gs.select.cape(selections["culture"], selections["language"])
    print("text         without neurons   number   perplexity   change (%)   without another group's (%)")
    for (kind, study), (name, selection) in product(studies.items(), selections.items()):
        masks, rows = gs.ablate(selection), []
        for group in selection:
            result = gs.perplexity(model, [e.prompt for e in study.evaluation if e.group == group], masks)
            change = {other: 100 * (value / result.full - 1) for other, value in result.masks.items()}
            rows.append((result.full, change.pop(group), fmean(change.values())))
        perplexity, own, others = (fmean(column) for column in zip(*rows, strict=True))
        changes[kind, name] = own, others
        print(f"{kind:12} {name:15} {fmean(map(len, selection.values())):8.1f} {perplexity:12.2f} {own:12.1f} {others:29.1f}")
    (own, others), (pure, rest) = changes["language", "language"], changes["culture", "pure"]
    print(f"\nWithout a language's neurons, its text's perplexity changes by {own:+.1f}%, {own - others:.1f} points more than")
    print(f"without another's; without the neurons CAPE keeps, a culture's by {pure:+.1f}% (without another's, {rest:+.1f}%).")


if __name__ == "__main__":
    main()
