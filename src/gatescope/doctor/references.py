"""The references: plain PyTorch hooks, and how far two tensors are apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gatescope.models.sites import Site

Place = tuple[str, str]  # path of a module, "input" or "output"
Change = Callable[[Tensor], Tensor | None]


@contextlib.contextmanager
def hooked(module: nn.Module, changes: dict[Place, Change]) -> Generator[None, None, None]:
    """Call a function on a module's whole input or output, by hook; what it returns, if not None, replaces the tensor."""

    def before(change: Change) -> Callable[[nn.Module, Any], Any]:
        def hook(_module: nn.Module, args: Any) -> Any:
            new = change(args[0])
            return None if new is None else (new, *args[1:])

        return hook

    handles: list[RemovableHandle] = []
    for (path, io), change in changes.items():
        part = module.get_submodule(path)
        if io == "input":
            handles.append(part.register_forward_pre_hook(before(change)))
        else:
            # change=change: a lambda made in a loop would otherwise call the last one.
            handles.append(part.register_forward_hook(lambda _module, _args, output, change=change: change(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def places(site: Site) -> list[Place]:
    """Where a site's tensors are, layer by layer."""
    return [(path, site.io) for path in site.paths]


def columns(site: Site) -> list[int]:
    """Which of the tensor's last axis the site is."""
    return list(range(site.width)) if site.columns is None else list(site.columns)


def watched(module: nn.Module, sites: Iterable[Site], run: Callable[[], object]) -> dict[Place, Tensor]:
    """A copy of every site's whole tensor, as it was when the model got there: what changes it in place comes later."""
    seen: dict[Place, Tensor] = {}

    def keep(place: Place) -> Change:
        return lambda whole: seen.update({place: whole.detach().clone()})

    with torch.no_grad(), hooked(module, {place: keep(place) for site in sites for place in places(site)}):
        run()
    return seen


def products(module: Any, sites: Iterable[Site], run: Callable[[], Tensor]) -> dict[Place, Tensor]:
    """Activation x gradient of every site's whole tensor, of the number that the run gives. A tensor that the model changes
    in place (OLMo's clip_qkv) is taken as it leaves it, the gradient too.
    """
    kept: dict[Place, Tensor] = {}

    def keep(place: Place) -> Change:
        return lambda whole: kept.update({place: whole})

    embedding = module.get_input_embeddings()
    start: RemovableHandle = embedding.register_forward_hook(_require_grad)
    try:
        with torch.enable_grad(), hooked(module, {place: keep(place) for site in sites for place in places(site)}):
            slopes = torch.autograd.grad(run(), list(kept.values()))
    finally:
        start.remove()
    return {place: kept[place].detach().float() * slope.float() for place, slope in zip(kept, slopes, strict=True)}


def _require_grad(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output.requires_grad_(True)


def edited(chosen: list[int], kind: str) -> Change:
    """One kind of intervention on columns of a tensor, written out."""

    def change(whole: Tensor) -> Tensor:
        whole = whole.clone()
        old = whole[..., chosen]
        whole[..., chosen] = {"ablate": old * 0, "scale": old * 2, "set": torch.full_like(old, 0.5), "add": old + 0.5}[kind]
        return whole

    return change


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value; of what is a number.

    Logits that a model forbids (-inf, or the least number of their type) would hide any other difference. They must be
    forbidden in both; NaN counts as a difference.
    """
    use = _number(theirs)
    if not use.any() or not torch.equal(_number(ours), use):
        return float("inf")
    ours, theirs = ours[use].float(), theirs[use].float()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()


def _number(tensor: Tensor) -> Tensor:
    return tensor.isfinite() & (tensor.abs() < torch.finfo(tensor.dtype).max / 2)
