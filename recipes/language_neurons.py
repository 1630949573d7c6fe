"""Whose text becomes harder to predict without a language's neurons, and without a culture's alone?

LAPE finds language neurons on passages, culture neurons on passages about a culture; CAPE (pure) is the latter without
the former. As it stands the text organism is first taught six languages (of a culture's own words). The real thing:

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
    plain, about, rng, passage = ([], []), ([], []), random.Random(0), gs.data.Example.passage
    for split, examples in enumerate((questions.identification, questions.evaluation)):
        for e in examples:
            own = sorted({x.answer for x in questions.identification if x.group == e.group})
            walk = accumulate(rng.choices((1, 7), k=24), initial=rng.randrange(20))
            about[split].append(passage(e.id, e.group, f"{e.question} {e.answer}"))
            plain[split].append(passage(e.id, e.group, " ".join(own[i % len(own)] for i in walk)))
    return {"language": gs.data.Study("language", *plain), "culture": gs.data.Study("culture", *about)}


def teach(model, texts: list[str]) -> None:
    optimiser = torch.optim.AdamW(model._module.requires_grad_(True).parameters(), 2e-3)
    for step in range(200):
        inputs = model.tokenizer(random.Random(step).sample(texts, 32), return_tensors="pt", padding=True)
        model._module(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = {"model": "", "data": "", "language": "wikipedia", "groups": "en,de,zh", "rate": 0.02, "rho": 50.0}
    for name, default in given.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()

    organism = None if options.data else gs.organism.text.load()
    model = gs.load_model(options.model if options.data else organism.path)
    if options.data:
        groups, (name, path), (plain, where) = options.groups.split(","), named(options.data), named(options.language)
        studies = {"language": gs.data.load(plain, where, languages=groups), "culture": gs.data.load(name, path, groups=groups)}
    else:
        studies = invented(organism.tasks["culture"])
        teach(model, [e.prompt for study in studies.values() for e in study.identification])
    found, change = {}, {}
    for name, study in studies.items():
        counts = gs.record(model, study.identification, readout="none", only_correct=False)
        found[name] = gs.select.lape(counts, options.rate, rho=options.rho)
    found["pure"] = gs.select.cape(found["culture"], found["language"])
    print("perplexity of     without      (neurons)     full      own change   others' change (%)")
    for (kind, study), (name, selection) in product(studies.items(), found.items()):
        masks, rows = gs.ablate(selection), []
        for group in selection:
            of = gs.perplexity(model, [e.prompt for e in study.evaluation if e.group == group], masks)
            rise = {mask: 100 * (value / of.full - 1) for mask, value in of.masks.items()}
            rows.append((of.full, rise.pop(group), fmean(rise.values())))
        full, *change[kind, name] = map(fmean, zip(*rows, strict=True))
        row = fmean(map(len, selection.values())), full, *change[kind, name]
        print("{:17} {:14} {:7.1f} {:8.2f} {:15.1f} {:16.1f}".format(kind, name, *row))
    own, others = change["language", "language"]
    told = ["{:.1f}% (others' {:.1f}%)".format(*change["culture", which]) for which in ("culture", "pure")]
    points = f"{own - others:.1f} points more than others'"
    print(f"\nA language's text gets {own:.1f}% more perplexing without its neurons, {points};")
    print(f"text about a culture gets {told[0]} more so without its neurons, {told[1]} without those that CAPE leaves.")


if __name__ == "__main__":
    main()
