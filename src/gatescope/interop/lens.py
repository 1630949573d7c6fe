"""Lens: an intervention as hooks of TransformerLens, for its TransformerBridge.

    bridge = build_bridge_from_module(module, "LlamaForCausalLM", hf_config=module.config, tokenizer=tokenizer)
    logits = bridge.run_with_hooks(tokens, fwd_hooks=lens_hooks(gs.ablate(neurons), bridge))

    site       hook                    what is done there
    gate_pre   mlp.gate.hook_out       the change itself; mlp.in.hook_out where the MLP has no gate
    up         mlp.in.hook_out         the change itself
    hidden     mlp.out.hook_in         the change itself
    q k v      attn.q.hook_out ...     the change itself, heads [h, d] read as one axis
    gate       mlp.out.hook_in         gate x up is what can be hooked: zero and scale are the same there; set to c becomes
                                       c x up, add c becomes + c x up, with up as mlp.in.hook_out gave it

(mlp.hook_pre, hook_pre_linear and hook_post are TransformerLens' other names of the first three.) A hook that is named but
never runs would mask nothing and say nothing, so the bridge is run once, on two tokens, and each hook must answer with
the site's width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout, SiteShape
from gatescope.core.relatives import check_same_model
from gatescope.interventions.intervention import Intervention
from gatescope.kernels.change import change
from gatescope.models.identity import identity
from gatescope.models.quantised import quantised

Hook = Callable[[Tensor, Any], Tensor | None]
Hooks = list[tuple[str, Hook]]  # the hook's name in the bridge, and what runs there
_ATTENTION = ("q", "k", "v")
_ORDER = ("q", "k", "v", "gate_pre", "up", "gate", "hidden")  # in which a forward pass reaches them


def lens_hooks(intervention: Intervention, bridge: Any) -> Hooks:
    """The intervention as `fwd_hooks` of a TransformerBridge: the same logits as `intervention.apply` gives.

    They hold in `run_with_hooks`, `run_with_cache` under `bridge.hooks(fwd_hooks=...)`, and at every token of
    `bridge.generate` there.

    Args:
        intervention: of any kind, on any site.
        bridge: a TransformerBridge of the model the neurons belong to.

    Returns:
        Pairs of hook name and function, in the order in which they must act.

    Raises:
        GatescopeError: if this is no bridge or TransformerLens is not installed, the neurons belong to another model or
            do not fit, a hook does not run, or q, k, v are asked for in compatibility mode, which may move value biases
            out of v.
    """
    _check_bridge(bridge)
    _check_model(intervention, bridge)
    hooks: Hooks = []
    widths: dict[str, int] = {}  # by hook
    neurons = intervention.neurons
    used = [shape for shape in neurons.layout.sites if neurons.mask(shape.site).any()]
    for shape in sorted(used, key=lambda shape: _turn(shape.site)):
        _check_site(shape, neurons.layout, bridge)
        table = intervention.table(shape)
        for layer, index in neurons.indices(shape.site).items():
            made = _hooks(f"blocks.{layer}", bridge.blocks[layer], shape.site, intervention, index, table[layer, index])
            widths.update((name, shape.widths[layer]) for name, _ in made)
            hooks += made
    _check_that_they_run(bridge, widths)
    return hooks


def _check_bridge(bridge: Any) -> None:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise GatescopeError("TransformerLens is not installed: pip install 'gatescope[lens]'.") from error
    if not isinstance(bridge, TransformerBridge):
        raise GatescopeError(
            f"Expected a TransformerBridge of TransformerLens 4, not a {type(bridge).__name__}. Make one with "
            f"transformer_lens.model_bridge.sources.build_bridge_from_module(module, architecture, hf_config=module.config, "
            f"tokenizer=tokenizer)."
        )


def _check_site(shape: SiteShape, layout: Layout, bridge: Any) -> None:
    if shape.site in _ATTENTION and bridge.compatibility_mode:
        raise GatescopeError(
            f"Site {shape.site!r} cannot be hooked on a bridge in compatibility mode: it may have folded value biases "
            f"and refactored attention. Build the bridge anew and leave enable_compatibility_mode() out."
        )
    if shape.layers != len(bridge.blocks):
        raise GatescopeError(f"The neurons are numbered in {layout}; the bridge has {len(bridge.blocks)} layers.")


def _turn(site: str) -> int:
    """When a forward pass reaches a site."""
    if site not in _ORDER:
        raise GatescopeError(f"Site {site!r} has no hook in TransformerLens; those that have are {', '.join(_ORDER)}.")
    return _ORDER.index(site)


def _hooks(block: str, module: Any, site: str, intervention: Intervention, index: Tensor, values: Tensor) -> Hooks:
    """The hooks of one site in one layer."""
    kind = intervention.kind
    gated = hasattr(module, "mlp") and hasattr(module.mlp, "gate")

    def changed_here(tensor: Tensor, hook: Any) -> Tensor:
        # TransformerLens keeps heads on a separate axis.
        flat = tensor.flatten(-2) if site in _ATTENTION and tensor.ndim == 4 else tensor
        changed = change(flat, index.to(tensor.device), kind, values.to(tensor))
        return changed.reshape(tensor.shape)

    if site in _ATTENTION:
        return [(f"{block}.attn.{site}.hook_out", changed_here)]
    if site == "gate_pre":
        return [(f"{block}.mlp.{'gate' if gated else 'in'}.hook_out", changed_here)]
    if site == "up":
        return [(f"{block}.mlp.in.hook_out", changed_here)]
    if site == "hidden" or not gated or kind in ("zero", "scale"):
        return [(f"{block}.mlp.out.hook_in", changed_here)]

    # The gate itself has no hook after its nonlinearity: its product with up is set from up, which is kept as it goes by.
    stored: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        stored["up"] = tensor[..., index.to(tensor.device)]

    def after(tensor: Tensor, hook: Any) -> Tensor:
        columns, product = index.to(tensor.device), values.to(tensor) * stored.pop("up")
        old = 0 if kind == "set" else tensor.index_select(-1, columns)
        return tensor.index_copy(-1, columns, old + product)

    return [(f"{block}.mlp.in.hook_out", keep), (f"{block}.mlp.out.hook_in", after)]


class _Unwrapped:
    """The model inside a bridge with its parameters' own names, for `identity` to read."""

    def __init__(self, module: Any) -> None:
        self.module, self.config, self.dtype = module, module.config, module.dtype

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name.replace("._original_component", ""), parameter) for name, parameter in self.module.named_parameters()]


def _check_model(intervention: Intervention, bridge: Any) -> None:
    """Of a bridge that has split fused projections the weights' digest is another; id and revision are compared then."""
    if how := quantised(bridge.original_model.config):
        raise GatescopeError(
            f"The bridge's {type(bridge.original_model).__name__} is quantised ({how}), and TransformerLens converts plain "
            f"weights only. Build the bridge of the unquantised model."
        )
    theirs = identity(_Unwrapped(bridge.original_model))
    components = [component for name in ("attn", "mlp") if (component := getattr(bridge.blocks[0], name, None)) is not None]
    if any("Joint" in kind.__name__ for component in components for kind in type(component).__mro__):
        theirs["digest"] = ""
    check_same_model(intervention.neurons.model, theirs, "make hooks of an intervention", relatives=True)


def _check_that_they_run(bridge: Any, widths: dict[str, int]) -> None:
    """Refuse hooks that do not run, or that are given a tensor of another width than the site's."""
    seen = _seen_widths(bridge, [name for name in widths if name in bridge.hook_dict])
    for name in widths:
        if name not in seen:
            raise GatescopeError(
                f"The bridge of {type(bridge.original_model).__name__} does not run {name}: nothing would be changed. "
                f"Write the intervention into the weights with gatescope.interventions.bake, and build the bridge from that."
            )
    for name, width in widths.items():
        if seen[name] != width:
            raise GatescopeError(f"The neurons are numbered in layers of {width}; {name} of the bridge has {seen[name]}.")


def _seen_widths(bridge: Any, names: list[str]) -> dict[str, int]:
    """How many neurons a token has in what each hook is given, in a run of two ordinary tokens."""
    seen: dict[str, int] = {}

    def look(name: str) -> Hook:
        def hook(tensor: Tensor, hook: Any) -> None:
            seen[name] = tensor[0, 0].numel() if tensor.ndim > 2 else tensor.shape[-1]

        return hook

    if names:
        with torch.no_grad():
            bridge.run_with_hooks(_two_tokens(bridge), fwd_hooks=[(name, look(name)) for name in names])
    return seen


def _two_tokens(bridge: Any) -> Tensor:
    """Two ids to which no config gives a special meaning, such as a picture's placeholder."""
    module = bridge.original_model
    text = module.config.get_text_config(decoder=True)
    fields: list[tuple[str, Any]] = [*vars(module.config).items(), *vars(text).items()]
    special = {value for key, value in fields if "token" in key and isinstance(value, int)}
    ids = [i for i in range(text.vocab_size) if i not in special][:2]
    return torch.tensor([ids], device=next(module.parameters()).device)
