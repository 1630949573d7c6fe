"""Doctor: prove on a user's own model that what nnsight reads and edits is what plain hooks read and edit.

It resolves the sites, runs a random left-padded batch of token ids, and for every site compares counters, attributions
and every kind of intervention, in a forward pass and over generated tokens, with plain PyTorch hooks on the same
weights. This and the tests are the only places with hooks of our own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nnsight
import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from gatescope.errors import GatescopeError
from gatescope.intervene import Intervention, ablate, add, scale, set_to
from gatescope.kernels import attribution, count
from gatescope.models import identity
from gatescope.neurons import NeuronSet
from gatescope.sites import Site, by_token, embedding_path, forward_options, read, sites_of

KINDS: dict[str, Callable[[NeuronSet], Intervention]] = {
    "ablate": ablate,
    "scale": lambda neurons: scale(neurons, 2.0),
    "set": lambda neurons: set_to(neurons, 0.5),
    "add": lambda neurons: add(neurons, 0.5),
}
STEPS = 6  # generated tokens to compare


@dataclass(frozen=True)
class Finding:
    """One check of one site: what was compared, whether it held, and by how much it was off."""

    site: str
    check: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything the doctor found; prints as two tables."""

    model: str
    sites: dict[str, Site]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether every check of every site held."""
        return all(finding.holds for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"model  {self.model}", "", f"{'site':10}{'layers':>7}{'width':>8}  module"]
        for site in self.sites.values():
            columns = "" if site.columns is None else f" columns {site.columns[0]}..{site.columns[-1]}"
            lines.append(f"{site.name:10}{len(site.paths):7}{site.width:8}  {site.paths[0]} ({site.io}){columns}")
        checks = list(dict.fromkeys(finding.check for finding in self.findings))
        lines += ["", f"{'site':10}" + "".join(f"{check:>14}" for check in checks)]
        for name in self.sites:
            cells = {f.check: "ok" if f.holds else "FAILED" for f in self.findings if f.site == name}
            lines.append(f"{name:10}" + "".join(f"{cells[check]:>14}" for check in checks))
        lines += [f"{f.site}: {f.check} failed: {f.detail}" for f in self.findings if not f.holds]
        verdict = "as plain hooks do, on every site" if self.healthy else "NOT as plain hooks do: do not trust results"
        return "\n".join([*lines, "", f"gatescope reads and edits this model {verdict}."])


def examine(model) -> Report:
    """Check every site of a model against plain hooks.

    Args:
        model: from `load_model` or `random_model`.
    """
    module = model._module
    sites = sites_of(model)
    inputs = _random_inputs(module)
    findings = []
    for site in sites.values():
        findings += [_counters(model, module, site, inputs), _attributions(model, module, site, inputs)]
        findings += [_intervention(model, module, site, inputs, kind) for kind in KINDS]
        findings.append(_generation(model, module, site, inputs))
    described = identity(model)
    return Report(f"{described['id']} ({described['class']}, {described['dtype']})", sites, tuple(findings))


def random_model(source: str | Path):
    """A small model of the architecture a config describes, with random weights: no weights are needed.

    Depth, width and heads shrink; everything else (fused projections, norms, rotation, activation) stays.

    Args:
        source: a hub id, a directory with a config.json, or a config file.

    Raises:
        GatescopeError: if there is no config, or a model of it cannot be built.
    """
    try:
        config = AutoConfig.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise GatescopeError(f"No model config at {source!s}: {str(error).splitlines()[0]}") from error
    for part in [config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))]:
        if part is not None:
            _shrink(part)
    text, vision = config.get_text_config(decoder=True), getattr(config, "vision_config", None)
    if vision is not None and hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = text.hidden_size
    auto = AutoModelForImageTextToText if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else AutoModelForCausalLM
    torch.manual_seed(0)
    try:
        module = auto.from_config(config).eval().requires_grad_(False)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise GatescopeError(f"A small model of {source!s} ({type(config).__name__}) cannot be built: {error}") from error
    tokenizer = plain_tokenizer()
    model = nnsight.TransformersModel(module, task="text-generation", tokenizer=tokenizer, dispatch=True)
    model.tokenizer, model.processor = tokenizer, None
    return model


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of one token, for models that are fed ids: nnsight wants one all the same."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")), pad_token="<pad>")


def _shrink(config) -> None:
    """Two layers, four heads, a few hundred neurons, in place; the width of a head stays, for rotation depends on it."""
    depth = next((name for name in ("num_hidden_layers", "depth", "n_layer") if hasattr(config, name)), None)
    heads = next((name for name in ("num_attention_heads", "num_heads", "n_head") if hasattr(config, name)), None)
    if depth is None or heads is None:
        return  # the outer config of a vision-language model
    old_depth, old_heads = getattr(config, depth), getattr(config, heads)
    hidden = getattr(config, "hidden_size", None) or config.n_embd
    head = getattr(config, "head_dim", None) or hidden // old_heads
    keys = getattr(config, "num_key_value_heads", None)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == old_depth:  # one entry a layer
            setattr(config, name, value[-2:])
    setattr(config, depth, 2)
    setattr(config, heads, 4)
    if keys is not None:
        config.num_key_value_heads = 4 if keys == old_heads else 2
    setattr(config, "hidden_size" if hasattr(config, "hidden_size") else "n_embd", 4 * head)
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        if getattr(config, name, None):
            setattr(config, name, 96)
    if hasattr(config, "word_embed_proj_dim"):
        config.word_embed_proj_dim = 4 * head
    if hasattr(config, "fullatt_block_indexes"):
        config.fullatt_block_indexes = [0]


def _random_inputs(module) -> dict[str, Tensor]:
    """Three rows of ordinary token ids, of lengths 5, 9 and 12, padded on the left."""
    config = module.config.get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(0)
    special = {value for name, value in vars(module.config).items() if name.endswith(("token_id", "token_index"))}
    ordinary = torch.tensor([i for i in range(1, min(config.vocab_size, 500)) if i not in special])
    ids = ordinary[torch.randint(len(ordinary), (3, 12), generator=generator)]
    mask = torch.arange(12).expand(3, 12) >= torch.tensor([[7], [3], [0]])
    device = next(module.parameters()).device
    return {"input_ids": (ids * mask).to(device), "attention_mask": mask.long().to(device)}


@contextlib.contextmanager
def _hooked(module: nn.Module, site: Site, function: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `function(layer, whole tensor)` where a site is, by hook; what it returns replaces the tensor."""

    def before(layer):
        def hook(_module, args):
            new = function(layer, args[0])
            return None if new is None else (new, *args[1:])

        return hook

    def after(layer):
        return lambda _module, _args, output: function(layer, output)

    parts = [module.get_submodule(path) for path in site.paths]
    handles = [
        part.register_forward_pre_hook(before(layer)) if site.io == "input" else part.register_forward_hook(after(layer))
        for layer, part in enumerate(parts)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _columns(site: Site) -> list[int]:
    return list(range(site.width)) if site.columns is None else list(site.columns)


def _counters(model, module, site: Site, inputs: dict[str, Tensor]) -> Finding:
    valid = inputs["attention_mask"].bool()
    options = forward_options(model, inputs, keep=1)
    with torch.no_grad(), model.trace(**inputs, **options):
        wholes = [read(model, path, site.io) for path in site.paths]
        ours = nnsight.save([count(by_token(site.part(whole), valid), valid) for whole in wholes])
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), _hooked(module, site, lambda layer, whole: seen.update({layer: whole.clone()})):
        module(**inputs, **options)
    off = 0.0
    same = True
    for layer, (fired, summed) in enumerate(ours):
        gate = by_token(seen[layer], valid)[..., _columns(site)] * valid[..., None]
        same &= torch.equal(fired, (gate > 0).sum(1))
        off = max(off, _relative(summed, gate.clamp(min=0).float().sum(1)))
    return Finding(site.name, "counters", bool(same) and off < 1e-5, f"K equal: {bool(same)}, S off by {off:.1e} relative")


def _attributions(model, module, site: Site, inputs: dict[str, Tensor]) -> Finding:
    """Activation x gradient of the most probable next token, max over tokens."""
    valid, options = inputs["attention_mask"].bool(), forward_options(model, inputs, keep=1)
    embedding = module.get_input_embeddings()
    with torch.enable_grad():
        with model.trace(**inputs, **options):
            read(model, embedding_path(model), "output").requires_grad_(True)
            wholes = [read(model, path, site.io) for path in site.paths]
            chance = model.output.logits[:, -1].float().softmax(-1).max(-1).values
            slopes = torch.autograd.grad(chance.sum(), wholes)
            pairs = zip(wholes, slopes, strict=True)
            parts = [[site.part(by_token(t, valid)) for t in (whole.detach(), slope)] for whole, slope in pairs]
            ours = nnsight.save([attribution(a, g, valid, "max") for a, g in parts])
        kept: dict[int, Tensor] = {}

        def keep(layer: int, whole: Tensor) -> None:
            whole.retain_grad()
            kept[layer] = whole

        start = embedding.register_forward_hook(lambda _m, _i, out: out.requires_grad_(True))
        try:
            with _hooked(module, site, keep):
                module(**inputs, **options).logits[:, -1].float().softmax(-1).max(-1).values.sum().backward()
        finally:
            start.remove()
    off = 0.0
    for layer, score in enumerate(ours):
        slope = torch.as_tensor(kept[layer].grad)
        product = by_token(kept[layer].detach().float() * slope.float(), valid)[..., _columns(site)]
        off = max(off, _relative(score, product.masked_fill(~valid[..., None], -torch.inf).amax(1)))
    return Finding(site.name, "attributions", off < 1e-4, f"off by {off:.1e} relative")


def _intervention(model, module, site: Site, inputs: dict[str, Tensor], kind: str) -> Finding:
    neurons, edit = _some_neurons(model, site), _edit(site, kind)
    options = forward_options(model, inputs, keep=1)
    with torch.no_grad(), model.trace(**inputs, **options):
        KINDS[kind](neurons).apply(model)
        ours = nnsight.save(model.output.logits[:, -1])
    with torch.no_grad(), _hooked(module, site, lambda _, whole: edit(whole)):
        theirs = module(**inputs, **options).logits[:, -1]
    off = _relative(ours, theirs)
    return Finding(site.name, kind, off < 1e-5, f"logits off by {off:.1e} relative")


def _generation(model, module, site: Site, inputs: dict[str, Tensor]) -> Finding:
    neurons, edit = _some_neurons(model, site), _edit(site, "ablate")
    greedy = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0}
    with model.generate(**inputs, **greedy) as tracer:
        ablate(neurons).apply(model)
        ours = nnsight.save(tracer.result)
    with _hooked(module, site, lambda _, whole: edit(whole)):
        theirs = module.generate(**inputs, **greedy)
    return Finding(site.name, "generation", torch.equal(ours, theirs), "other tokens were generated")


def _some_neurons(model, site: Site) -> NeuronSet:
    """Every third neuron of every layer."""
    mask = torch.zeros(len(site.paths), site.width, dtype=torch.bool)
    mask[:, ::3] = True
    return NeuronSet.from_mask(site.name, mask, identity(model))


def _edit(site: Site, kind: str) -> Callable[[Tensor], Tensor]:
    chosen = _columns(site)[::3]

    def edit(whole: Tensor) -> Tensor:
        whole = whole.clone()
        old = whole[..., chosen]
        whole[..., chosen] = {"ablate": old * 0, "scale": old * 2, "set": torch.full_like(old, 0.5), "add": old + 0.5}[kind]
        return whole

    return edit


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp(min=1e-30)).item()
