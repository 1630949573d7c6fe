"""Where q, k and v are in a block: three projections, or columns of one that makes all three.

How a fused projection lays its columns out is nowhere in the structure: the same name and the same width stand for
"one after the other", "in turn for each head" and others. So the layout is that of the attention's class, read in its
source and held by the tests against what its attention is given. A class that is not listed has no sites q, k and v:
fewer rather than wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from gatescope.core.errors import GatescopeError

ATTENTION = ("q", "k", "v")
Columns = range | tuple[int, ...]
Projection = tuple[str, str, int, Columns | None]  # which, path of the module, width, columns if fused


def attention_projections(path: str, block: nn.Module, config: Any) -> Iterator[Projection]:
    """q, k and v of a block's own attention; nothing where it is of another kind, or laid out as nobody has read.

    Args:
        path: of the block, from the root of the model.
        config: of the text decoder.

    Raises:
        GatescopeError: if a projection has another number of outputs than the config's heads say.
    """
    for name, module in parts_of(block):
        if "cross" in name.rpartition(".")[2]:
            continue  # its keys and values are those of a picture, or of an encoder
        children: dict[str, nn.Module] = dict(module.named_children())
        if all(f"{which}_proj" in children for which in ATTENTION):
            for which, width in _widths(config).items():
                where = f"{path}.{name}.{which}_proj"
                _same_width(where, width, size(children[f"{which}_proj"])[1])
                yield which, where, width, None
            return
        if (fused := _fused(module)) is not None:
            layout = _LAYOUTS.get(_class(module))
            if layout is None:
                return
            widths = _widths(config)
            where = f"{path}.{name}.{fused}"
            _same_width(where, sum(widths.values()), size(children[fused])[1])
            for which, columns in layout(module, widths, config.num_attention_heads).items():
                yield which, where, widths[which], columns
            return


def parts_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module in this one with its path, itself included with an empty one: torch's own list, with a type."""
    return list(module.named_modules())


def why_missing(block: nn.Module) -> str:
    """Why a block has no sites q, k and v, as a sentence."""
    for module in block.modules():
        if (fused := _fused(module)) is not None and _class(module) not in _LAYOUTS:
            return (
                f"Its attention, {type(module).__name__}, makes q, k and v in one projection ({fused}), and the layout of its "
                f"columns is known only for {', '.join(_LAYOUTS)}."
            )
    return "q, k and v are sites where every layer has q_proj, k_proj and v_proj, or one projection of a known layout."


def size(projection: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a projection."""
    if isinstance(projection, Conv1D):  # its weight is that of nn.Linear, transposed
        return projection.weight.shape[0], projection.weight.shape[1]
    linear: Any = projection  # a quantised one need not be an nn.Linear
    return linear.in_features, linear.out_features


def _class(module: nn.Module) -> str:
    """The class's name, if it is transformers' own: code that came with a checkpoint may lay out otherwise."""
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("transformers.models.") else f"{kind.__module__}.{kind.__name__}"


def _fused(module: nn.Module) -> str | None:
    """The name of a child that is wide enough for q, k and v and is called as such projections are."""
    named = ("qkv_proj", "c_attn", "query_key_value", "Wqkv", "W_pack", "wqkv")
    return next((name for name in named if isinstance(getattr(module, name, None), nn.Linear | Conv1D)), None)


def _widths(config: Any) -> dict[str, int]:
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or (1 if getattr(config, "multi_query", False) else heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return {"q": heads * head, "k": keys * head, "v": keys * head}


def _in_order(_module: nn.Module, widths: dict[str, int], _heads: int) -> dict[str, Columns]:
    """One after the other."""
    ends = [widths["q"], widths["q"] + widths["k"], sum(widths.values())]
    return {"q": range(ends[0]), "k": range(ends[0], ends[1]), "v": range(ends[1], ends[2])}


def _by_head(_module: nn.Module, widths: dict[str, int], heads: int) -> dict[str, Columns]:
    """q, k and v of head 0, then of head 1, ..."""
    head = widths["q"] // heads
    return {
        which: tuple(3 * head * h + head * position + i for h in range(heads) for i in range(head))
        for position, which in enumerate(ATTENTION)
    }


def _by_core(_module: nn.Module, widths: dict[str, int], _heads: int) -> dict[str, Columns]:
    """CodeGen: four blocks, as many as the cores it was trained on, each of q, then v, then k."""
    block = widths["q"] // 4
    return {
        which: tuple(3 * block * core + block * position + i for core in range(4) for i in range(block))
        for position, which in enumerate(("q", "v", "k"))
    }


def _bigcode(module: nn.Module, widths: dict[str, int], heads: int) -> dict[str, Columns]:
    return (_in_order if getattr(module, "multi_query", False) else _by_head)(module, widths, heads)


_LAYOUTS: dict[str, Callable[[nn.Module, dict[str, int], int], dict[str, Columns]]] = {
    "Phi3Attention": _in_order,
    "Phi4MultimodalAttention": _in_order,
    "GPT2Attention": _in_order,
    "GPTNeoXAttention": _by_head,
    "GPTNeoXJapaneseAttention": _by_head,
    "PersimmonAttention": _by_head,
    "CodeGenAttention": _by_core,
    "GPTBigCodeAttention": _bigcode,
}


def _same_width(where: str, expected: int, actual: int) -> None:
    if expected != actual:
        raise GatescopeError(
            f"{where} has {actual} outputs; the config's heads say {expected}. gatescope does not know this attention."
        )
