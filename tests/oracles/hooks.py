"""What gatescope should give, from plain PyTorch hooks on a plainly loaded model, one neuron rule written out by hand."""

from __future__ import annotations

import contextlib

import torch


def activation_modules(module, layers_path: str, name: str = "mlp.act_fn"):
    """The MLP activation modules by an explicit path: nothing of gatescope's own resolution."""
    return [layer.get_submodule(name) for layer in module.get_submodule(layers_path)]


@torch.no_grad()
def prefill_counters(module, modules, inputs, token_mask):
    """K int64, S float64, both [b, l, n], T [b], from one plain forward pass."""
    seen = []
    handles = [m.register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone())) for m in modules]
    try:
        module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    b, _, n = seen[0].shape
    k = torch.zeros(b, len(seen), n, dtype=torch.int64)
    s = torch.zeros(b, len(seen), n, dtype=torch.float64)
    for row in range(b):
        for layer, activation in enumerate(seen):
            for position in token_mask[row].nonzero().flatten().tolist():
                a = activation[row, position]
                k[row, layer] += a > 0
                s[row, layer] += a.clamp(min=0).double()
    return k, s, token_mask.sum(1)


@contextlib.contextmanager
def masked(modules, indices: dict[int, list[int]], width: int):
    """Multiply each activation by a keep-mask, by forward hook, while open."""
    handles = []
    for layer, members in indices.items():
        keep = torch.ones(width)
        keep[members] = 0
        handles.append(modules[layer].register_forward_hook(lambda _m, _i, out, keep=keep: out * keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
