"""Where the neurons of a block's MLP are: gate_pre, gate, up and hidden.

An MLP is known by what it computes, not by what it is called. A projection, down, is given one of

    act(g) * u      g and u are two projections' outputs or two parts of one; u is multiplied as it was made
    act(g)          g is one projection's output, and each number is made of the one in its place

or that after a norm (BitNet). So the gates of attention, state spaces and convolutions are no MLPs: what they multiply is
not a projection's raw output. Of several that fit the widest is taken: Gemma 3n and 4 have a small one for the embeddings
of each layer.

    gate_pre, gate   input and output of the nonlinearity: of its module; where it is none, or one that layers share, without u
                     g and what down is given, else of its call in the forward
    up               u
    hidden           the product
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from nnsight.intervention.source import SourceNotAvailable, compiled
from torch import Tensor, nn

from gatescope.models.decoder import Decoder
from gatescope.models.found import Columns, Found, Weights, parts_of
from gatescope.models.probe import Call, Probe, same

_Part = tuple[Call, Columns | None]  # a projection's outputs, or some of them


@dataclass(frozen=True)
class _Mlp:
    """What fits.

    Attributes:
        down: the down projection.
        hidden: what is given the product, or the activation: down, or the norm before it.
        act: the nonlinearity; None where it is several operations of none of which it is the result.
        gate: what makes g, and which columns of it; None where g is changed before the nonlinearity.
        up: what makes u, and which columns of it; None without u.
    """

    down: Call
    hidden: Call
    act: Call | None
    gate: _Part | None
    up: _Part | None = None

    @property
    def width(self) -> int:
        """How many neurons."""
        return self.hidden.given.shape[-1]

    @property
    def into_down(self) -> Weights | None:
        """Where the product is in the weights."""
        return Weights(self.down.path, "input") if self.hidden is self.down else None


def mlp_sites(path: str, block: nn.Module, probe: Probe) -> Iterator[Found]:
    """The sites of a block's MLP; none where tokens are routed among experts, or nothing fits.

    Args:
        path: of the block, from the root of the model.
        block: the block itself.
        probe: of its decoder.
    """
    if experts(block) is not None:
        return
    ran = probe.within(path)
    fitting = [mlp for down in ran.projections if (mlp := _gated(down, ran) or _plain(down, ran)) is not None]
    if not fitting:
        return
    mlp = max(fitting, key=lambda mlp: mlp.width)
    gate = list(_gate(path, block, mlp, probe.shared))
    if not gate:
        return
    yield from gate
    if mlp.up is not None:
        up, columns = mlp.up
        # What ran first is asked for first.
        rank = 3 if mlp.act is not None and up.time < mlp.act.time else 6
        yield Found("up", up.path, "output", mlp.width, columns, rank, Weights(up.path, "output", columns))
    yield Found("hidden", mlp.hidden.path, "input", mlp.width, None, 7, mlp.into_down)


def why_no_mlp(decoder: Decoder) -> str:
    """Why no block has an MLP, as sentences, from the first block of which more can be said than that nothing fits."""
    for path, block in decoder.blocks.items():
        if (name := experts(block)) is not None:
            return (
                f"{path} is a mixture of experts ({name}): its experts are routed per token, which gatescope does not "
                f"support yet. Use a model with a dense MLP."
            )
    for path, block in decoder.blocks.items():
        for name, module in parts_of(block):
            if any(isinstance(child, nn.Conv1d) for child in module.children()):
                return (
                    f"{path} ({type(block).__name__}) mixes tokens by a state space or a convolution ({name}), and no layer "
                    f"has an MLP, in which gatescope looks for neurons. Use a model with MLPs."
                )
    path, block = next(iter(decoder.blocks.items()))
    return (
        f"{path} ({type(block).__name__}) has no MLP that gatescope knows, nor has any other layer: looked for a projection "
        f"that is given act(g) or act(g) * u, where g and u are other projections' outputs."
    )


def experts(block: nn.Module) -> str | None:
    """The path in a block of the experts among whom its tokens are routed."""
    for name, module in parts_of(block):
        if name.rpartition(".")[2] == "experts" or "Experts" in type(module).__name__:
            return name
    return None


def _gated(down: Call, ran: Probe) -> _Mlp | None:
    norms = [call for call in ran.nonlinearities if call.path and same(call.made, down.given)]
    for hidden in (down, *norms):
        for product in ran.products:
            if same(product.made, hidden.given):
                for gate, up in ((product.left, product.right), (product.right, product.left)):
                    act, raw = _act(gate, ran), _raw(up, ran)
                    if act is not None and raw is not None and not _attended(raw[0], ran):
                        return _Mlp(down, hidden, act, _raw(act.given, ran), raw)
    return None


def _plain(down: Call, ran: Probe) -> _Mlp | None:
    gate = next((call for call in ran.projections if call.path == down.source), None)
    if gate is None or _attended(gate, ran):
        return None
    act = _act(down.given, ran)
    return _Mlp(down, down, act, (gate, None) if act is None else _raw(act.given, ran))


def _act(made: Tensor, ran: Probe) -> Call | None:
    """What gave a tensor; a module rather than the function that it calls."""
    calls = [call for call in ran.nonlinearities if same(call.made, made)]
    return next((call for call in calls if call.path), calls[0] if calls else None)


def _raw(tensor: Tensor, ran: Probe) -> _Part | None:
    """The projection whose output, or half of it, a tensor is."""
    width = tensor.shape[-1]
    halves: tuple[range, ...] = (range(width), range(width, 2 * width), range(0, 2 * width, 2), range(1, 2 * width, 2))
    for call in ran.projections:
        if same(call.made, tensor):
            return call, None
        if call.made.shape[-1] == 2 * width:
            for half in halves:
                if same(call.made[..., half.start : half.stop : half.step], tensor):
                    return call, half if half.step == 1 else tuple(half)
    return None


def _attended(call: Call, ran: Probe) -> bool:
    """Whether attention is given what a projection made: then what it is multiplied with is a gate of attention's own."""
    return any(attention.uses(call.path) for attention in ran.attentions)


def _gate(path: str, block: nn.Module, mlp: _Mlp, shared: set[str]) -> Iterator[Found]:
    made = None if mlp.gate is None else Weights(mlp.gate[0].path, "output", mlp.gate[1])
    pre = Found("gate_pre", "", "input", mlp.width, None, 4, made)
    post = Found("gate", "", "output", mlp.width, None, 5, mlp.into_down)
    if mlp.act is not None and mlp.act.path and mlp.act.path not in shared:
        yield dataclasses.replace(pre, path=mlp.act.path)
        yield dataclasses.replace(post, path=mlp.act.path)
    elif mlp.gate is not None and mlp.up is None:
        yield dataclasses.replace(pre, path=mlp.gate[0].path, io="output")
        yield dataclasses.replace(post, path=mlp.hidden.path, io="input")
    elif mlp.act is not None and mlp.act.name and (call := _call_of(mlp.act, mlp.hidden, path, block)) is not None:
        yield dataclasses.replace(pre, path=call)
        yield dataclasses.replace(post, path=call)


def _call_of(act: Call, hidden: Call, path: str, block: nn.Module) -> str | None:
    """The function's call in the forward of the module beside whose parts it is, as nnsight's `source` names it."""
    holder = hidden.path.rpartition(".")[0]
    try:
        calls = compiled(type(block.get_submodule(holder.removeprefix(path).lstrip("."))).forward).names
    except SourceNotAvailable:
        return None
    # "F_silu_0" is the first call of F.silu.
    fitting = [call for call in calls if call.rpartition("_")[0].endswith(f"_{act.name}")]
    return f"{holder}.source.{fitting[0]}" if len(fitting) == 1 else None
