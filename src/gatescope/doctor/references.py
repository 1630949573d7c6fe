"""The references: plain PyTorch hooks, and how far two tensors are apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gatescope.models.sites import Site, SiteLayer

Location = tuple[str, str]  # path of a module, "input" or "output"
Change = Callable[[Tensor], Tensor | None]


@contextlib.contextmanager
def hooked(module: nn.Module, changes: dict[Location, Change]) -> Generator[None, None, None]:
    """Call a function on a module's whole input or output, by hook; what it returns, if not None, replaces the tensor.

    Where a location is a call in a module's forward ("...mlp.source.F_silu_0"), the functions of torch that run are watched.
    """
    with contextlib.ExitStack() as stack:
        calls = _Calls()
        for (path, io), change in changes.items():
            holder, _, call = path.partition(".source.")
            submodule = module.get_submodule(holder)
            handles = calls.watch(submodule, call, io, change) if call else [_hook(submodule, io, change)]
            for handle in handles:
                stack.callback(handle.remove)
        if calls.changes:
            stack.enter_context(calls)
        yield


def _hook(submodule: nn.Module, io: str, change: Change) -> RemovableHandle:
    def before(_module: nn.Module, args: Any) -> Any:
        new = change(args[0])
        return None if new is None else (new, *args[1:])

    if io == "input":
        return submodule.register_forward_pre_hook(before)

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        return change(output)

    return submodule.register_forward_hook(after)


class _Calls(TorchFunctionMode):
    """Calls of torch's functions in the forward of some modules: the first "F_silu" there is "F_silu_0"."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[tuple[nn.Module, str, int], dict[str, Change]] = {}
        self.running: list[nn.Module] = []
        self.counts: dict[str, int] = {}

    def watch(self, holder: nn.Module, call: str, io: str, change: Change) -> list[RemovableHandle]:
        """Change what a call is given or gives; two hooks tell when the module runs."""
        name, _, number = call.rpartition("_")
        self.changes.setdefault((holder, name.partition("_")[2], int(number)), {})[io] = change
        enter = holder.register_forward_pre_hook(lambda module, _args: self._enter(module))
        leave = holder.register_forward_hook(lambda _module, _args, _output: self.running.clear())
        return [enter, leave]

    def _enter(self, module: nn.Module) -> None:
        self.running, self.counts = [module], {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        number = self.counts.get(name, 0)
        changes = next((self.changes.get((module, name, number)) for module in self.running), None)
        self.counts[name] = number + 1
        if changes is None:
            return func(*args, **(kwargs or {}))
        if "input" in changes and (new := changes["input"](args[0])) is not None:
            args = (new, *args[1:])
        result = func(*args, **(kwargs or {}))
        new = changes["output"](result) if "output" in changes else None
        return result if new is None else new


def locations(site: Site) -> list[Location]:
    """Where a site's tensors are, layer by layer."""
    return [(here.path, here.io) for here in site.layers]


def columns(here: SiteLayer) -> list[int]:
    """Which of the tensor's last axis a site is in one layer."""
    return list(range(here.width)) if here.columns is None else list(here.columns)


def watched(module: nn.Module, sites: Iterable[Site], run: Callable[[], object]) -> dict[Location, Tensor]:
    """A copy of every site's whole tensor, as it was when the model got there: what changes it in place comes later."""
    seen: dict[Location, Tensor] = {}

    def keep(location: Location) -> Change:
        return lambda tensor: seen.update({location: tensor.detach().clone()})

    with torch.no_grad(), hooked(module, {location: keep(location) for site in sites for location in locations(site)}):
        run()
    return seen


def products(module: Any, sites: Iterable[Site], run: Callable[[], Tensor]) -> dict[Location, Tensor]:
    """Activation x gradient of every site's whole tensor, of the number that the run gives. A tensor that the model changes
    in place (OLMo's clip_qkv) is taken as it leaves it, the gradient too.
    """
    tensors: dict[Location, Tensor] = {}

    def keep(location: Location) -> Change:
        return lambda tensor: tensors.update({location: tensor})

    embedding = module.get_input_embeddings()
    # Frozen weights need no gradient; the embedding's output starts the graph in their place.
    start: RemovableHandle = embedding.register_forward_hook(_require_grad)
    try:
        with torch.enable_grad(), hooked(module, {location: keep(location) for site in sites for location in locations(site)}):
            gradients = torch.autograd.grad(run(), list(tensors.values()))
    finally:
        start.remove()
    return {
        location: tensors[location].detach().float() * gradient.float()
        for location, gradient in zip(tensors, gradients, strict=True)
    }


def _require_grad(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output.requires_grad_(True)


def edited(chosen: list[int], kind: str) -> Change:
    """One kind of intervention on columns of a tensor, written out."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        old = tensor[..., chosen]
        tensor[..., chosen] = {"ablate": old * 0, "scale": old * 2, "set": torch.full_like(old, 0.5), "add": old + 0.5}[kind]
        return tensor

    return change


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value; of what is a number.

    Logits that a model forbids (-inf, or the least number of their type) would hide any other difference. They must be
    forbidden in both; NaN counts as a difference.
    """
    numbers = _is_number(theirs)
    if not numbers.any() or not torch.equal(_is_number(ours), numbers):
        return float("inf")
    ours, theirs = ours[numbers].float(), theirs[numbers].float()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()


def _is_number(tensor: Tensor) -> Tensor:
    return tensor.isfinite() & (tensor.abs() < torch.finfo(tensor.dtype).max / 2)
