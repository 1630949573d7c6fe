"""The sites against what the model computes below its modules: it is run once, and every operation of torch is seen.

    hidden    what the down projection is given: the product of gate and up, or the gate itself
    gate, up  the operands of that product
    q, k, v   of the i-th attention that runs, each operand is made of the site's columns in layer i and of no others, and
              the two others of none of them: seen by the operands' gradients, which norms, rotation and clipping let through

The i-th layer is the i-th to run. A site whose module runs twice, or out of turn, is not what it is said to be.
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
from gatescope.doctor.references import Change, Place, columns, hooked, places
from gatescope.doctor.report import Finding
from gatescope.models.attention import ATTENTION
from gatescope.models.sites import Site
from gatescope.traces.access import forward_options

TOKENS = 11  # of the one row: no head is that wide, so that a table of scores is known by its shape
_PRODUCTS = ("mul", "__mul__", "__rmul__", "multiply")
_MATRIX_PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm")


class _Seen(TorchFunctionMode):
    """The products of one forward pass, and what each attention was given."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Tensor, Tensor, Tensor]] = []
        self.attentions: list[tuple[Tensor, ...]] = []
        self._scores: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            self.attentions.append((given["query"], given["key"], given["value"]))
        elif name in _MATRIX_PRODUCTS:
            # baddbmm is given what it adds to before the two that it multiplies.
            *_, left, right = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
            self._matrices(left, right, result)
        elif name in _PRODUCTS:
            self._product(args[0], args[1], result)
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
            self.attentions.append((*self._scores, right))
            self._scores = None


@dataclass
class _Run:
    """One forward pass: every site's tensor, when the model got there, the probes of q, k and v, and the operations."""

    values: dict[Place, Tensor]
    turns: dict[Place, list[int]]
    probes: dict[Place, Tensor]
    seen: _Seen


def below(patient: Patient) -> Iterator[Finding]:
    """One finding for every site."""
    run = _run(patient)
    depth = patient.module.config.get_text_config(decoder=True).num_hidden_layers
    for site in patient.sites.values():
        wrong = _out_of_turn(run, site, depth)
        if not wrong:
            wrong = _attention(run, site, depth) if site.name in ATTENTION else _mlp(run, site, patient.sites)
        yield Finding(site.name, "below", not wrong, wrong, patient.inputs)


def _run(patient: Patient) -> _Run:
    clock = itertools.count()
    run = _Run({}, {}, {}, _Seen())

    def watch(place: Place, probed: bool) -> Change:
        def change(whole: Tensor) -> Tensor | None:
            run.turns.setdefault(place, []).append(next(clock))
            run.values[place] = whole.detach().clone()
            if not probed:
                return None
            run.probes[place] = torch.zeros_like(whole, requires_grad=True)
            return whole + run.probes[place]

        return change

    probed = {place: name in ATTENTION for name, site in patient.sites.items() for place in places(site)}
    # The last row is the longest: none of these tokens is padding.
    row = patient.batch.inputs["input_ids"][-1:, -TOKENS:]
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    options: dict[str, Any] = forward_options(patient.model, inputs, keep=1)
    hooks = {place: watch(place, it) for place, it in probed.items()}
    with torch.enable_grad(), hooked(patient.module, hooks), _open_attention(patient.module), run.seen:
        patient.module(**inputs, **options)
    return run


@contextlib.contextmanager
def _open_attention(module: Any) -> Generator[None, None, None]:
    """An attention whose operands torch shows: flash kernels and the like stand aside for it."""
    usual = getattr(module.config, "_attn_implementation", None)
    if usual in (None, "eager", "sdpa"):
        yield
        return
    module.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        module.set_attn_implementation(usual)


def _out_of_turn(run: _Run, site: Site, depth: int) -> str:
    if len(site.paths) != depth:
        return f"it has {len(site.paths)} layers of {depth}"
    turns = [run.turns.get(place, []) for place in places(site)]
    for layer, each in enumerate(turns):
        if len(each) != 1:
            return f"{site.paths[layer]} ran {len(each)} times in one pass"
    order = [each[0] for each in turns]
    return "" if order == sorted(set(order)) else "its layers do not run in the order in which they are numbered"


def _attention(run: _Run, site: Site, depth: int) -> str:
    if len(run.seen.attentions) != depth:
        return f"{len(run.seen.attentions)} attentions ran in {depth} layers"
    mine = set(columns(site))
    for layer, (place, operands) in enumerate(zip(places(site), run.seen.attentions, strict=True)):
        for name, operand in zip(ATTENTION, operands, strict=True):
            problem = _wrong_columns(_made_of(operand, run.probes[place]), mine, name == site.name)
            if problem:
                return f"in layer {layer}, {name} is made of {problem}"
    return ""


def _wrong_columns(made_of: set[int], mine: set[int], own: bool) -> str:
    """What is wrong with the columns that q, k or v is made of, given those of a site that is its own, or another's."""
    if not own:
        return f"{len(made_of & mine)} of its columns" if made_of & mine else ""
    if made_of - mine:
        return f"{len(made_of - mine)} columns that are not its own"
    # Not all of them need to be seen: some may be clipped to the same number at every token.
    return "" if made_of else "none of its columns"


def _made_of(operand: Tensor, probe: Tensor) -> set[int]:
    """The columns of a tensor that an operand depends on."""
    if not operand.requires_grad:
        return set()
    random = torch.randn(operand.shape, generator=torch.Generator().manual_seed(0)).to(operand)
    slope: Tensor | None
    (slope,) = torch.autograd.grad(operand, probe, random, retain_graph=True, allow_unused=True)
    return set() if slope is None else set(slope.flatten(0, -2).any(0).nonzero().flatten().tolist())


def _mlp(run: _Run, site: Site, sites: Mapping[str, Site]) -> str:
    """Whether the site, with the others of its layer, is what enters the down projection."""
    for layer in range(len(site.paths)):
        values = {name: _value(run, sites[name], layer) for name in {"gate", "hidden", site.name}}
        if problem := _wrong_operand(site.name, values, run.seen.products):
            return f"in layer {layer}, {problem}"
    return ""


def _wrong_operand(name: str, values: Mapping[str, Tensor], products: Iterable[tuple[Tensor, Tensor, Tensor]]) -> str:
    gate, hidden = values["gate"], values["hidden"]
    with_gate = _products_with(gate, products)
    ungated = _same(gate, hidden)
    if name == "gate" and not (ungated or with_gate):
        return "the down projection is given neither the gate nor a product with it"
    if name == "hidden" and not (ungated or any(_same(product, hidden) for _, product in with_gate)):
        return "the down projection is given something else than the gate's product"
    if name == "up" and not any(_same(factor, values["up"]) for factor, _ in with_gate):
        return "the gate is not multiplied with it"
    return ""


def _products_with(gate: Tensor, products: Iterable[tuple[Tensor, Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """What the gate is multiplied with, on either side, and what that gives."""
    found: list[tuple[Tensor, Tensor]] = []
    for left, right, product in products:
        if _same(left, gate):
            found.append((right, product))
        if _same(right, gate):
            found.append((left, product))
    return found


def _value(run: _Run, site: Site, layer: int) -> Tensor:
    return run.values[site.paths[layer], site.io][..., columns(site)]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal but for how rows and tokens are folded."""
    return one.numel() == other.numel() and torch.equal(one.flatten(), other.flatten().to(one.device))
