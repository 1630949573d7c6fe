"""How long attribution takes: a forward and a backward pass, and activation x gradient of every neuron.

    ours                 the inner part of `gs.attribute`: a trace, frozen weights, reduced where the activations are
    ours, added up       the same, then weighted by P(y|x) and added to the groups' totals, as `gs.attribute` does
    hooks, frozen        plain PyTorch hooks, frozen weights, the same kernel: the floor
    hooks, weights       plain hooks, with gradients of all weights as well
    published way        plain hooks with weight gradients, then a Python loop that adds every neuron's score to a
                         dictionary (of module, layer, neuron) of dictionaries (of group)

A second table times the accumulation alone: scores [b, n], already computed, are added to their groups in either way. The
loop is modelled on a published pipeline; its dictionary is filled before it is timed.
"""

from __future__ import annotations

from collections import defaultdict

import common
import shapes
import torch

from gatescope.core.attributions import Attributions
from gatescope.kernels import compiled
from gatescope.models.sites import layout_of, site_of
from gatescope.steps.attribute import _add
from gatescope.traces.access import forward_options
from gatescope.traces.encoding import collate
from gatescope.traces.forced import forced_batch
from gatescope.traces.jobs import scoring
from gatescope.traces.labels import answer_tokens
from gatescope.traces.scoring import score_batch

PRESETS = {
    "toy": {"batch": 8, "tokens": 128, "rounds": 8},
    "1b": {"batch": 8, "tokens": 150, "rounds": 10},
    "7b": {"batch": 8, "tokens": 150, "rounds": 10},
    "12b": {"batch": 16, "tokens": 150, "rounds": 6},
}
SITES = ("gate_pre", "q", "k", "v")
GROUPS = 4
BASE = "hooks, frozen"


def main() -> None:
    chosen = common.options(__doc__, PRESETS)
    shape = PRESETS[chosen.preset]
    print(
        f"preset {chosen.preset}: {shape}, sites {', '.join(SITES)}\n{common.machine(chosen.device)}, torch {torch.__version__}"
    )
    whole, alone, faster = measure(chosen.preset, shape, chosen.device)
    print("\none batch, sdpa attention\n" + common.ratios(whole, BASE))
    quartiles = f"{faster['low']:.2f} .. {faster['high']:.2f}"
    print(f"ours, added up, is {faster['median']:.2f} x ({quartiles}) as fast as the published way")
    per = whole["ours, added up"]["seconds"]["median"] / shape["batch"]
    print(f"ours, added up: {1000 * per:.1f} ms per example, {3600 / per:,.0f} examples per hour")
    print("\nthe accumulation alone\n" + common.ratios(alone, "tensors"))
    print(f"\nkernels: {compiled.name(chosen.device)}")
    facts = {"preset": chosen.preset, "shape": shape, "machine": common.machine(chosen.device)}
    common.write(
        chosen.json, facts | {"kernel": compiled.name(chosen.device), "batch": whole, "accumulation": alone, "faster": faster}
    )


def measure(preset: str, shape: dict, device: str) -> tuple[dict, dict, dict]:
    """Times of a batch, times of the accumulation alone, and how many times as fast as the published way ours is."""
    model = shapes.decoder(preset, device)
    module = model._module
    examples = shapes.questions(shape["batch"], shape["tokens"], GROUPS)
    answers = [answer_tokens(model, example) for example in examples]
    batch = collate(model, examples).to(module.device)
    sites = [site_of(model, name) for name in SITES]
    how = scoring(model, sites, "max", False)
    places = [(name, layer, site.io, module.get_submodule(path)) for name, site in zip(SITES, sites, strict=True)
              for layer, path in enumerate(site.paths)]  # fmt: skip
    inputs = batch.inputs | forward_options(model, batch.inputs, keep=1)
    real = batch.inputs["attention_mask"].bool()
    rows, right = torch.arange(len(examples), device=device), torch.tensor(answers, device=device)[:, 0]
    groups = tuple(dict.fromkeys(example.group for example in examples))
    total = Attributions.zeros(groups, layout_of(sites), len(examples))
    table: dict = defaultdict(lambda: defaultdict(float))
    parameters = list(module.parameters())

    def ours():
        return score_batch(model, how, forced_batch(model, batch, answers), compiled.attribution)[:2]

    def ours_added():
        scores, probability = ours()
        tensors(scores, probability)

    def tensors(scores, probability):
        _add(total, (scores * probability[:, None]).cpu(), examples)

    def hooked():
        """The activations of a forward pass, and P(y|x)."""
        kept = {}

        def before(key):
            return lambda _module, args: kept.update({key: args[0]})

        def after(key):
            return lambda _module, _args, output: kept.update({key: output})

        # The weights are frozen, so the embeddings are where the graph has to begin.
        handles = [module.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.requires_grad_(True))]
        for name, layer, io, part in places:
            register, hook = (part.register_forward_pre_hook, before) if io == "input" else (part.register_forward_hook, after)
            handles.append(register(hook((name, layer))))
        logits = module(**inputs).logits[:, -1].float()
        for handle in handles:
            handle.remove()
        return kept, logits.softmax(-1)[rows, right]

    def reduced(kept, gradients):
        pairs = zip(kept.values(), gradients, strict=True)
        return [compiled.attribution(activation.detach(), gradient, real, "max") for activation, gradient in pairs]

    def frozen():
        kept, probability = hooked()
        gradients = torch.autograd.grad(probability.sum(), list(kept.values()))
        return reduced(kept, gradients), probability.detach()

    def weights():
        for parameter in parameters:
            parameter.requires_grad_(True)
        kept, probability = hooked()
        for activation in kept.values():
            activation.retain_grad()
        probability.sum().backward()
        for parameter in parameters:
            parameter.grad = None
            parameter.requires_grad_(False)
        gradients = [activation.grad for activation in kept.values()]
        return list(kept), kept, gradients, probability.detach()

    def weights_reduced():
        _, kept, gradients, _ = weights()
        reduced(kept, gradients)

    def published():
        keys, kept, gradients, probability = weights()
        padding = ~real.unsqueeze(-1)
        for key, activation, gradient in zip(keys, kept.values(), gradients, strict=True):
            score = (activation * gradient).masked_fill(padding, 0.0).max(1).values
            loop(key, (probability[:, None] * score).detach().cpu().tolist())

    def loop(key, scores):
        for row, example in zip(scores, examples, strict=True):
            for neuron, score in enumerate(row):
                table[*key, neuron][example.group] += score

    def loops(parts, probability):
        for (name, layer, _, _), part in zip(places, parts, strict=True):
            loop((name, layer), (probability[:, None] * part).cpu().tolist())

    functions = {BASE: frozen, "ours": ours, "ours, added up": ours_added, "hooks, weights": weights_reduced}
    seconds = common.timed(functions | {"published way": published}, shape["rounds"], device, warmup=2)
    parts, probability = frozen()
    scores = torch.cat(parts, 1)
    alone = {"tensors": lambda: tensors(scores, probability), "Python loop": lambda: loops(parts, probability)}
    pairs = zip(seconds["published way"], seconds["ours, added up"], strict=True)
    faster = common.spread([theirs / ours for theirs, ours in pairs])
    added = common.timed(alone, shape["rounds"], device, warmup=1)
    return common.against(seconds, BASE), common.against(added, "tensors"), faster


if __name__ == "__main__":
    main()
