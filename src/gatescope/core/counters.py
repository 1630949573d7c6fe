"""Counters: what a site's neurons did on each group of inputs, summed over tokens.

With m_t = 1 on the valid tokens of a sample and a the activation of a neuron ("Finding Culture-Sensitive Neurons in
Vision-Language Models", section 3.1):

    K += sum_t m_t [a_t > 0]      how often it fired
    S += sum_t m_t max(a_t, 0)    how strongly
    T += sum_t m_t                out of how many tokens

and from them P = K / T, the firing rate, and M = S / T, the mean positive activation (section 3.2). Counters are
sums, so those of two disjoint sets of examples add up. Axes: g group, l layer, n neuron. Where layers differ in width, or
some are without the site, [l, n] is [1, N]: all neurons one after the other (see `gatescope.core.layout.SiteShape`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from gatescope._typing import checked
from gatescope.core import artefacts
from gatescope.core.errors import GatescopeError
from gatescope.core.layout import Layout
from gatescope.core.relatives import same_card
from gatescope.core.renamed import rename_fields, renamed

FORMAT = "gatescope.counters/1"
_SUMS = ("K", "S", "T", "seen", "counted")


@checked
# Compared by identity: == of two tensors is a tensor, which is neither true nor false.
@dataclass(frozen=True, eq=False)
class Counters:
    """Sums over the tokens of each group's counted examples.

    Attributes:
        groups: names, in the order of axis g.
        layout: the one site that was counted, its layers and width.
        K: firing counts, int64 [g, l, n].
        S: sums of positive activations, float64 [g, l, n].
        T: valid tokens, int64 [g].
        seen: examples run, int64 [g].
        counted: examples whose tokens were counted (those answered correctly), int64 [g].
        model: identity of the model (see `gatescope.models.identity.identity`).
        provenance: dataset fingerprint, token rule, batch plan, versions: how the counters came to be.

    >>> c = Counters.zeros(["a", "b"], Layout.single("gate", layers=1, width=2))
    >>> (c + c).T.tolist()
    [0, 0]
    """

    groups: tuple[str, ...]
    layout: Layout
    K: Int64[Tensor, "g l n"]
    S: Float64[Tensor, "g l n"]
    T: Int64[Tensor, " g"]
    seen: Int64[Tensor, " g"]
    counted: Int64[Tensor, " g"]
    model: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        site = self.layout.only()
        if tuple(self.K.shape) != (len(self.groups), *site.shape):
            raise GatescopeError(
                f"K is {tuple(self.K.shape)}; {len(self.groups)} groups of {self.layout} need "
                f"{(len(self.groups), *site.shape)}."
            )

    @classmethod
    @renamed(origin="provenance")
    def zeros(
        cls,
        groups: Sequence[str],
        layout: Layout,
        model: Mapping[str, str] | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Counters:
        """Counters of nothing yet."""
        site = layout.only()
        shape = (len(groups), *site.shape)
        tokens = torch.zeros(len(groups), dtype=torch.int64)
        return cls(
            tuple(groups),
            layout,
            torch.zeros(shape, dtype=torch.int64),
            # float64: over many examples a float32 sum would swallow small activations.
            torch.zeros(shape, dtype=torch.float64),
            # Cloned below, or adding to one in place would change all three.
            tokens,
            tokens.clone(),
            tokens.clone(),
            dict(model or {}),
            dict(provenance or {}),
        )

    @property
    def P(self) -> Float64[Tensor, "g l n"]:
        """Firing rates K / T.

        Raises:
            GatescopeError: if a group has no tokens (use `with_tokens` to leave such groups out).
        """
        return self.K.double() / self._tokens()

    @property
    def M(self) -> Float64[Tensor, "g l n"]:
        """Mean positive activations S / T, over all valid tokens, firing or not.

        Raises:
            GatescopeError: if a group has no tokens, or S holds NaN.
        """
        if self.S.isnan().any():
            first: list[int] = self.S.flatten(1).isnan().nonzero()[0].tolist()
            group, number = first
            layer, index = self.layout.only().locate(number)
            raise GatescopeError(
                f"S is NaN for {self.groups[group]!r}, layer {layer}, neuron {index}: the model gave NaN there. "
                f"Record it again in a wider dtype."
            )
        return self.S / self._tokens()

    def _tokens(self) -> Float64[Tensor, "g 1 1"]:
        # No 0 / 0: only prompts answered correctly are counted, and a group may have none.
        if self.empty:
            readout = self.provenance.get("readout", "an unknown read-out")
            raise GatescopeError(
                f"No tokens were counted for {', '.join(map(repr, self.empty))}: none of their examples was answered "
                f"correctly (read by {readout}). Leave them out with counters.with_tokens(), "
                f"or give them examples the model can answer, read in the way it answers (readout=)."
            )
        return self.T.double()[:, None, None]

    @property
    def empty(self) -> tuple[str, ...]:
        """Groups without a single counted token (T = 0), for which P and M do not exist."""
        tokens: list[int] = self.T.tolist()
        return tuple(group for group, count in zip(self.groups, tokens, strict=True) if count == 0)

    def with_tokens(self) -> Counters:
        """These counters without the groups that have no tokens."""
        return self.of([g for g in self.groups if g not in self.empty])

    def of(self, groups: Sequence[str]) -> Counters:
        """These counters for some of the groups, in the order given.

        Raises:
            GatescopeError: for a group that is not here.
        """
        unknown = [g for g in groups if g not in self.groups]
        if unknown:
            raise GatescopeError(f"No counters for {unknown}; there are counters for {list(self.groups)}.")
        # The dtype is given because an empty list would become float, which cannot index.
        rows = torch.tensor([self.groups.index(g) for g in groups], dtype=torch.int64)
        sums = {name: getattr(self, name)[rows] for name in _SUMS}
        return Counters(tuple(groups), self.layout, **sums, model=self.model, provenance=self.provenance)

    def __add__(self, other: Counters) -> Counters:
        """Counters of both sets of examples together; the provenance of the first is kept.

        Raises:
            GatescopeError: if the two belong to different models, sites or groups.
        """
        self._refuse_others(other)
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return Counters(self.groups, self.layout, **sums, model=self.model, provenance=self.provenance)

    def add(self, other: Counters) -> None:
        """Add the sums of `other` to these, in place: a copy for each shard would take longer than reading it.

        Raises:
            GatescopeError: as for `+`.
        """
        self._refuse_others(other)
        for name in _SUMS:
            getattr(self, name).add_(getattr(other, name))

    def _refuse_others(self, other: Counters) -> None:
        if self.groups != other.groups:
            raise GatescopeError(f"Counters of groups {self.groups} and {other.groups} cannot be added.")
        if self.layout != other.layout:
            raise GatescopeError(f"Counters of {self.layout} and {other.layout} cannot be added.")
        # Every field must agree, the dtype too: rounding decides whether an activation near 0 fires.
        if not same_card(self.model, other.model):
            raise GatescopeError(f"Counters of two models cannot be added: {dict(self.model)} and {dict(other.model)}.")

    def save(self, path: str | Path) -> None:
        """Write the counters and their provenance as one safetensors file."""
        metadata = {
            "groups": list(self.groups),
            "layout": self.layout.plain(),
            "model": dict(self.model),
            # Called origin in files since the first release, which must stay readable.
            "origin": dict(self.provenance),
        }
        artefacts.write(path, FORMAT, {name: getattr(self, name) for name in _SUMS}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Counters:
        """Read counters written by `save`.

        Raises:
            GatescopeError: if the file cannot be read or holds something else.
        """
        tensors, metadata = artefacts.read(path, FORMAT)
        about = artefacts.facts(path, metadata, _About)
        with artefacts.named(path):
            layout = Layout.parse(about.layout)
            site, groups = layout.only(), len(about.groups)
        table, line = (groups, *site.shape), (torch.int64, (groups,))
        kinds = {"K": (torch.int64, table), "S": (torch.float64, table), "T": line, "seen": line, "counted": line}
        sums = artefacts.needed(path, tensors, kinds)
        return cls(tuple(about.groups), layout, **sums, model=about.model, provenance=about.origin)


class _About(msgspec.Struct):
    """What a file of counters says of itself."""

    groups: list[str]
    layout: list[Any]
    model: dict[str, str]
    origin: dict[str, str]


rename_fields(Counters, origin="provenance")
