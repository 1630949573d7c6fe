"""Where q, k and v are in a block: the outputs of projections, or columns of them, of which its attention's operands are made.

How a fused projection lays its columns out is nowhere in the structure: the same name and the same width stand for
"one after the other", "in turn for each head" and others. Nor does a projection that is there need to run. So both are seen
on a twin (see `gatescope.models.probe`). A block whose attention is of another kind has none of the three; one that is given
the keys and values of another layer (Gemma 3n, Gemma 4), or makes them of more than one projection or both of the same one,
has q alone: fewer rather than wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from gatescope.models.decoder import Decoder
from gatescope.models.found import Columns, Found, Weights
from gatescope.models.probe import Probe, Sources, same

ATTENTION = ("q", "k", "v")


def attention_sites(path: str, probe: Probe) -> Iterator[Found]:
    """q, k and v of a block's own attention.

    Args:
        path: of the block, from the root of the model.
        probe: of its decoder.
    """
    ran = probe.within(path)
    if ran.picture is not None and any(same(call.given, ran.picture) for call in ran.projections):
        return  # its keys and values are the picture's
    widths = {call.path: call.made.shape[-1] for call in ran.projections}
    operands = _operands(ran)
    own = {name: _neurons(sources, set(widths)) for name, sources in operands.items()}
    names = ["q"] if own["q"] and not own["q"] & (own["k"] | own["v"]) else []
    if own["k"] and own["v"] and not own["k"] & own["v"]:
        names += ["k", "v"]
    for name in names:
        ((projection, columns),) = operands[name].items()
        mine = _of(columns, widths[projection])
        weights = Weights(projection, "output", mine)
        yield Found(name, projection, "output", len(columns), mine, ATTENTION.index(name), weights)


def why_no_attention(decoder: Decoder, probe: Probe) -> str:
    """Why no block has one of the three sites, as a sentence."""
    for path in decoder.blocks:
        operands = _operands(probe.within(path))
        if any(operands.values()):
            made = ", ".join(
                f"{name} of {' and '.join(source.removeprefix(f'{path}.') for source in sources) or 'nothing of its own'}"
                for name, sources in operands.items()
            )
            return f"{path} makes {made}; a site is what one projection of the layer makes for nothing else."
    return "No layer has an attention that is given queries, keys and values."


def _operands(ran: Probe) -> dict[str, Sources]:
    """What q, k and v of a block's attention are made of; differential attention is two, of the same projections."""
    operands: dict[str, Sources] = {name: {} for name in ATTENTION}
    for attention in ran.attentions:
        for name in ATTENTION:
            for projection, columns in getattr(attention, name).items():
                operands[name][projection] = sorted({*operands[name].get(projection, []), *columns})
    return operands


def _neurons(sources: Sources, block: set[str]) -> set[tuple[str, int]]:
    """The columns of the one projection, if it is one of the block's; none if there are several."""
    if len(sources) != 1 or not set(sources) <= block:
        return set()
    return {(projection, column) for projection, columns in sources.items() for column in columns}


def _of(columns: list[int], width: int) -> Columns | None:
    """Columns in the shortest form: nothing for all of them, a range where they are one after the other."""
    if len(columns) == width:
        return None
    first, last = columns[0], columns[-1]
    return range(first, last + 1) if last - first + 1 == len(columns) else tuple(columns)
