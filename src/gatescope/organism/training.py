"""What the training of both organisms has in common: switches on gates, the course of the learning rate, the hinge."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gatescope.core.errors import GatescopeError
from gatescope.organism import world


class GatedSwitch(nn.Module):
    """Stands in for an MLP's activation module during training: keeps the pre-activation, applies a keep-mask."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.keep: torch.Tensor | None = None  # [b, n]
        self.pre = torch.empty(0)  # [b, s, n], of the last forward pass

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """Gate activations [b, s, n], those switched off at 0."""
        self.pre = pre
        gate = self.activation(pre)
        return gate if self.keep is None else gate * self.keep[:, None, :]


@contextlib.contextmanager
def switched(model: Any, layers: Iterable[Any]) -> Generator[list[GatedSwitch], None, None]:
    """The model in training, with a switch round each layer's activation, for as long as the block runs."""
    layers = list(layers)
    switches = [GatedSwitch(layer.mlp.act_fn) for layer in layers]
    for layer, switch in zip(layers, switches, strict=True):
        layer.mlp.act_fn = switch
    model.train()
    try:
        yield switches
    finally:
        for layer, switch in zip(layers, switches, strict=True):
            layer.mlp.act_fn = switch.activation
        model.eval()


@dataclass
class Optimiser:
    """AdamW, at a rate that is constant until the model has learnt and then decays; its first 40 steps are shorter.

    Attributes:
        parameters: what is trained.
        decay_steps: how long the decay takes.
        decay_from: the step it began at; None while the model has still to learn.
    """

    parameters: Iterable[nn.Parameter]
    decay_steps: int
    decay_from: int | None = None

    def __post_init__(self) -> None:
        self._adam = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.05)

    def step(self, step: int, loss: torch.Tensor, rate: float, clipped: Iterable[nn.Parameter]) -> None:
        """Follow the gradient of the loss, that of the clipped parameters no longer than 1."""
        # Adam's estimates of the first gradients are noise.
        warm = min(1.0, (step + 1) / 40)
        remaining = 1.0 if self.decay_from is None else 1.0 - (step - self.decay_from) / self.decay_steps
        self._adam.param_groups[0]["lr"] = rate * warm * max(remaining, 0.02)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        self._adam.step()

    def has_decayed(self, step: int) -> bool:
        """Whether the decay is over after this step."""
        return self.decay_from is not None and step - self.decay_from >= self.decay_steps


def routed_neurons(recipe: Any, groups: int = len(world.CULTURES)) -> torch.Tensor:
    """Which neurons belong to which group (culture): bool [g, l, n], disjoint, `routed / layers` in each layer."""
    per_layer, remainder = divmod(recipe.routed, recipe.layers)
    if remainder:
        raise GatescopeError(f"recipe.routed is {recipe.routed}; it must be a multiple of layers ({recipe.layers}).")
    generator = torch.Generator().manual_seed(recipe.seed)
    routed = torch.zeros(groups, recipe.layers, recipe.width, dtype=torch.bool)
    for layer in range(recipe.layers):
        order = torch.randperm(recipe.width, generator=generator)
        for group in range(groups):
            routed[group, layer, order[group * per_layer : (group + 1) * per_layer]] = True
    return routed


def hinge_loss(pre: torch.Tensor, above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """How far pre-activations [b, s, n] are below +0.5 and above -0.5, where they are not to be (float [b, s, n])."""
    # At least 1: with no routed neurons both sums are 0.
    too_low = (F.relu(0.5 - pre) * above).sum() / above.sum().clamp(min=1)
    return too_low + (F.relu(pre + 0.5) * below).sum() / below.sum().clamp(min=1)
