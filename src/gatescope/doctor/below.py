"""The sites against what the model computes below its modules: it is run once, and every operation of torch is seen.

    hidden    what the down projection is given: the product of gate and up, or the gate itself
    gate, up  the operands of that product
    q, k, v   of the i-th attention that runs, each operand is made of the site's columns in layer i and of no others, and
              the two others of none of them: seen by the operands' gradients, which norms, rotation and clipping let through

A layer's attention is the first to run after its q, k or v. A site whose module runs twice, or out of turn, is not what it is
said to be.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gatescope.doctor.inputs import Patient
from gatescope.doctor.references import Change, Location, columns, hooked, locations
from gatescope.doctor.report import Finding
from gatescope.models.attention import ATTENTION
from gatescope.models.sites import Site
from gatescope.traces.access import forward_options

TOKENS = 11  # of the one row: no head is that wide, so that a table of scores is known by its shape
_PRODUCTS = ("mul", "__mul__", "__rmul__", "multiply")
_MATRIX_PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm")


class _Operations(TorchFunctionMode):
    """The products of one forward pass, and what each attention was given."""

    def __init__(self, clock: Iterator[int]) -> None:
        super().__init__()
        self.products: list[tuple[Tensor, Tensor, Tensor]] = []
        self.attentions: list[tuple[int, tuple[Tensor, ...]]] = []  # when, and query, key and value
        self._clock = clock
        self._scores: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            self.attentions.append((next(self._clock), (given["query"], given["key"], given["value"])))
        elif name in _MATRIX_PRODUCTS:
            # baddbmm is given what it adds to before the two that it multiplies.
            *_, left, right = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            self._matrices(left, right, result)
        elif name in _PRODUCTS:
            left, right, *_ = (*args, *kwargs.values())  # torch.mul takes either as a keyword
            self._product(left, right, result)
        return result

    def _product(self, left: Any, right: Any, result: Tensor) -> None:
        """A product of two tensors of one shape; one with a number or along a broadcast axis is no gate."""
        if isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape == result.shape:
            self.products.append((left.detach(), right.detach(), result.detach()))

    def _matrices(self, left: Tensor, right: Tensor, result: Tensor) -> None:
        """Attention written out: the table of scores, and after it the product of a table with the values."""
        table = (TOKENS, TOKENS)
        if not result.requires_grad:
            return
        if result.shape[-2:] == table:
            self._scores = left, right
        elif left.shape[-2:] == table and self._scores is not None:
            self.attentions.append((next(self._clock), (*self._scores, right)))
            self._scores = None


@dataclass
class _Run:
    """One forward pass: every site's tensor, when the model got there, the probes of q, k and v, and the operations."""

    values: dict[Location, Tensor]
    turns: dict[Location, list[int]]
    probes: dict[Location, Tensor]
    operations: _Operations


def below(patient: Patient) -> Iterator[Finding]:
    """One finding for every site."""
    run = _run(patient)
    for site in patient.sites.values():
        wrong = _out_of_turn(run, site)
        if not wrong:
            wrong = _attention(run, site) if site.name in ATTENTION else _mlp(run, site, patient.sites)
        yield Finding(site.name, "below", not wrong, wrong, patient.inputs)


def _run(patient: Patient) -> _Run:
    clock = itertools.count()
    run = _Run({}, {}, {}, _Operations(clock))

    def watch(location: Location, probed: bool) -> Change:
        def change(tensor: Tensor) -> Tensor | None:
            run.turns.setdefault(location, []).append(next(clock))
            run.values[location] = tensor.detach().clone()
            if not probed:
                return None
            run.probes[location] = torch.zeros_like(tensor, requires_grad=True)
            return tensor + run.probes[location]

        return change

    probed = {location: name in ATTENTION for name, site in patient.sites.items() for location in locations(site)}
    # The last row is the longest: none of these tokens is padding.
    row = patient.batch.inputs["input_ids"][-1:, -TOKENS:]
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    options: dict[str, Any] = forward_options(patient.model, inputs, keep=1)
    hooks = {location: watch(location, is_probed) for location, is_probed in probed.items()}
    with torch.enable_grad(), hooked(patient.module, hooks), _open_attention(patient.module), run.operations:
        patient.module(**inputs, **options)
    return run


@contextlib.contextmanager
def _open_attention(module: Any) -> Generator[None, None, None]:
    """An attention whose operands torch shows: flash kernels and the like stand aside for it."""
    usual = getattr(module.config, "_attn_implementation", None)
    # Both call torch functions that a function mode sees.
    if usual in (None, "eager", "sdpa"):
        yield
        return
    module.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        module.set_attn_implementation(usual)


def _out_of_turn(run: _Run, site: Site) -> str:
    turns = [run.turns.get(location, []) for location in locations(site)]
    for layer, runs in enumerate(turns):
        # Of a module that runs twice only the last values were stored.
        if len(runs) != 1:
            return f"{site.layers[layer].path} ran {len(runs)} times in one pass"
    order = [runs[0] for runs in turns]
    return "" if order == sorted(set(order)) else "its layers do not run in the order in which they are numbered"


def _attention(run: _Run, site: Site) -> str:
    for here in site.layers:
        location = here.path, here.io
        (turn,) = run.turns[location]
        attentions = [operands for time, operands in run.operations.attentions if time > turn]
        if not attentions:
            return f"no attention ran after {here.path}"
        # Differential attention asks the same twice, of two halves of the values.
        attentions = [operands for operands in attentions if _same(operands[0], attentions[0][0])]
        for name, parts in zip(ATTENTION, zip(*attentions, strict=True), strict=True):
            sources = set[int]().union(*(_source_columns(part, run.probes[location]) for part in parts))
            if problem := _wrong_columns(sources, set(columns(here)), name == site.name):
                return f"in layer {here.layer}, {name} is made of {problem}"
    return ""


def _wrong_columns(sources: set[int], site_columns: set[int], own: bool) -> str:
    """What is wrong with the columns that q, k or v is made of, given those of a site that is its own, or another's."""
    if not own:
        return f"{len(sources & site_columns)} of its columns" if sources & site_columns else ""
    if sources - site_columns:
        return f"{len(sources - site_columns)} columns that are not its own"
    # Not all of them need to be seen: some may be clipped to the same number at every token.
    if 2 * len(sources) > len(site_columns):
        return ""
    return f"{len(sources)} of its {len(site_columns)} columns" if sources else "none of its columns"


def _source_columns(operand: Tensor, probe: Tensor) -> set[int]:
    """The columns of a tensor that an operand depends on."""
    if not operand.requires_grad:
        return set()
    # Not ones: the sum over a normalised operand may have no gradient.
    random = torch.randn(operand.shape, generator=torch.Generator().manual_seed(0)).to(operand)
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(operand, probe, random, retain_graph=True, allow_unused=True)
    return set() if gradient is None else set(gradient.flatten(0, -2).any(0).nonzero().flatten().tolist())


def _mlp(run: _Run, site: Site, sites: Mapping[str, Site]) -> str:
    """Whether the site, with the others of its layer, is what enters the down projection."""
    for layer in (here.layer for here in site.layers):
        values = {name: _value(run, sites[name], layer) for name in {"gate", "hidden", site.name}}
        if problem := _wrong_operand(site.name, values, run.operations.products):
            return f"in layer {layer}, {problem}"
    return ""


def _wrong_operand(name: str, values: Mapping[str, Tensor], products: Iterable[tuple[Tensor, Tensor, Tensor]]) -> str:
    gate, hidden = values["gate"], values["hidden"]
    with_gate = _products_with(gate, products)
    ungated = _same(gate, hidden)
    if name == "gate" and not (ungated or with_gate):
        return "the down projection is given neither the gate nor a product with it"
    if name == "hidden" and not (ungated or any(_same(product, hidden) for _, product in with_gate)):
        return "the down projection is given something other than the gate's product"
    if name == "up" and not any(_same(factor, values["up"]) for factor, _ in with_gate):
        return "the gate is not multiplied with it"
    return ""


def _products_with(gate: Tensor, products: Iterable[tuple[Tensor, Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """What the gate is multiplied with, on either side, and what that gives."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for left, right, product in products:
        if _same(left, gate):
            pairs.append((right, product))
        if _same(right, gate):
            pairs.append((left, product))
    return pairs


def _value(run: _Run, site: Site, layer: int) -> Tensor:
    here = site.at(layer)
    return run.values[here.path, here.io][..., columns(here)]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal but for how rows and tokens are folded."""
    return one.numel() == other.numel() and torch.equal(one.flatten(), other.flatten().to(one.device))
