"""Attribute: one forward and one backward pass a batch; activation x gradient of every neuron, reduced where it is.

Only activation gradients are computed: the weights are frozen and the graph begins at the token embeddings. Only the
positions that predict the answer get logits. Logits, probabilities and products are float32, whatever the weights
are. The published code differs (bf16 throughout, padding scored 0, train mode); see `Attributions` for what is kept.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import nnsight
import torch
from torch import Tensor

from gatescope.attributions import Attributions
from gatescope.batches import Batch, collate
from gatescope.data.example import Example, fingerprint
from gatescope.errors import GatescopeError, one_of
from gatescope.kernels import attribution
from gatescope.labels import answer_tokens
from gatescope.models import identity, versions
from gatescope.progress import bar
from gatescope.sites import Site, by_token, embedding_path, forward_options, layout_of, read, site_of

LINEAR = ("gate_pre", "up", "q", "k", "v")  # sites that are a projection's raw output


def attribute(
    model,
    examples: Sequence[Example],
    *,
    sites: Sequence[str] = ("gate_pre", "q", "k", "v"),
    reduce: str = "max",
    pad_zero: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> Attributions:
    """Score how much every neuron raises the probability of the right answer.

    Args:
        model: from `load_model`.
        examples: with labels of one token each, or answers whose tokens are forced one after the other.
        sites: which neurons.
        reduce: over tokens: "max" (equation 7), "mean", or "norm", the inner product of a neuron's weight row and
            its gradient (CULNIG, appendix I).
        pad_zero: let padding count as 0 in the max, as the published code does; the result then depends on batches.
        batch_size: examples a batch.
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        Sums over examples of P(y|x) times the reduced score, by group.

    Raises:
        GatescopeError: without examples, for an unknown site, a label that is not one token, or "norm" for a site
            that is not a projection's output.
    """
    if not examples:
        raise GatescopeError("Attribution needs examples; there are none.")
    one_of("reduce", reduce, ("max", "mean", "norm"))
    chosen = [site_of(model, name) for name in sites]
    if reduce == "norm" and (wrong := [name for name in sites if name not in LINEAR]):
        raise GatescopeError(f"reduce='norm' is defined for the outputs of projections, {', '.join(LINEAR)}; not for {wrong}.")
    answers = [answer_tokens(model, example) for example in examples]
    origin = {"sites": ",".join(sites), "reduce": reduce, "pad_zero": str(pad_zero), "fingerprint": fingerprint(examples)}
    origin |= {"attention": str(model._module.config._attn_implementation), "versions": versions()}
    groups = tuple(dict.fromkeys(example.group for example in examples))
    items = len({example.item or example.id for example in examples})
    total = Attributions.zeros(groups, layout_of(chosen), items, identity(model), origin)
    with (
        _evaluating(model._module),
        bar(len(examples), "attributing", "examples", show=progress) as shown,
    ):
        for start in range(0, len(examples), batch_size):
            batch = collate(model, examples[start : start + batch_size])
            scores, probability = _batch(model, batch, answers[start : start + batch_size], chosen, reduce, pad_zero)
            weighted = (scores * probability[:, None]).double().cpu()
            for row, example in enumerate(batch.examples):
                group = groups.index(example.group)
                total.sums[group] += weighted[row]
                total.clamped[group] += weighted[row].clamp(min=0)
                total.seen[group] += 1
            shown.update(len(batch.examples))
    return total


def _batch(
    model, batch: Batch, answers: Sequence[list[int]], sites: list[Site], reduce: str, pad_zero: bool
) -> tuple[Tensor, Tensor]:
    """Reduced scores [b, n] over the sites' layout, and P(y|x) [b]."""
    inputs = _force(model, batch, answers)
    real = inputs["attention_mask"].bool()
    keep = max(map(len, answers))
    where = sorted({(layer, site.rank, path, site.io) for site in sites for layer, path in enumerate(site.paths)})
    places = [(site, path) for site in sites for path in site.paths]
    biases = [_bias(model, site, path) if reduce == "norm" else None for site, path in places]
    embedding = embedding_path(model)
    with model.trace(**inputs, **forward_options(model, inputs, keep)):
        read(model, embedding, "output").requires_grad_(True)
        whole = {(path, io): read(model, path, io) for _, _, path, io in where}
        probability = answer_probability(model.output.logits[:, -keep:], answers)
        gradients = dict(zip(whole, torch.autograd.grad(probability.sum(), list(whole.values())), strict=True))
        scores = []
        for bias, (site, path) in zip(biases, places, strict=True):
            activation = site.part(by_token(whole[path, site.io].detach(), real))
            gradient = site.part(by_token(gradients[path, site.io], real))
            activation = activation if bias is None else activation - bias
            mask = real.to(activation.device)
            how = "sum" if reduce == "norm" else reduce
            scores.append(attribution(activation, gradient, mask, how, pad_zero).to(probability.device))
        scores = nnsight.save(torch.cat(scores, 1))
        probability = nnsight.save(probability.detach())
    return scores, probability


def answer_probability(logits: Tensor, answers: Sequence[list[int]]) -> Tensor:
    """P(y|x) [b] in float32: the product over an answer's tokens, the last of which is predicted at the last position.

    Args:
        logits: [b, k, vocabulary] of the last k positions, k at least the longest answer's length.
        answers: token ids of each row's answer.
    """
    logs = logits.float().log_softmax(-1)
    rows = []
    for row, ids in enumerate(answers):
        tokens = torch.tensor(ids, device=logs.device)
        rows.append(logs[row, -len(ids) :].gather(-1, tokens[:, None]).sum())
    return torch.stack(rows).exp()


def _force(model, batch: Batch, answers: Sequence[list[int]]) -> dict[str, Tensor]:
    """The inputs with each answer but its last token appended, padded on the left again."""
    extra = [ids[:-1] for ids in answers]
    inputs = dict(batch.inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if any(extra):
        shape = ids.shape
        lengths = [int(row.sum()) + len(more) for row, more in zip(mask, extra, strict=True)]
        pad = model.tokenizer.pad_token_id
        for name, tensor in inputs.items():
            if tensor.shape != shape:
                continue
            fill = pad if name == "input_ids" else 0
            widened = torch.full((len(ids), max(lengths)), fill, dtype=tensor.dtype)
            for row, more in enumerate(extra):
                tail = {"input_ids": more, "attention_mask": [1] * len(more)}.get(name, [0] * len(more))
                content = torch.cat([tensor[row][mask[row].bool()], torch.tensor(tail, dtype=tensor.dtype)])
                widened[row, -len(content) :] = content
            inputs[name] = widened
    return inputs


def _bias(model, site: Site, path: str) -> Tensor | None:
    """The bias of the projection whose raw output the site is."""
    projection = model._module.get_submodule(path)
    if site.name == "gate_pre":  # read at the activation module's input; the projection before it
        holder = model._module.get_submodule(path.rpartition(".")[0])
        named = {name: part for name, part in holder.named_children() if hasattr(part, "bias") and hasattr(part, "weight")}
        projection = next(
            named[name] for name in ("gate_proj", "gate_up_proj", "c_fc", "dense_h_to_4h", "fc1") if name in named
        )
        return None if projection.bias is None else projection.bias[: site.width]
    return None if projection.bias is None else site.part(projection.bias)


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode while open; dropout would give false effects."""
    training = [part for part in module.modules() if part.training]
    if training:
        warnings.warn("The model was in train mode; it is scored in eval mode and put back afterwards.", stacklevel=3)
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
