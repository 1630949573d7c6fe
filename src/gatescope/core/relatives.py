"""Whether two artefacts are of one model, and what may be done where the two models are only relatives.

Neurons mean nothing in another model, so they are refused there. A base model and its fine-tune, or a model and its
quantisation, are an exception that somebody may want to make: their neurons have the same numbers, and whether they do the
same is the question. It is made in words, `allow="same layout"`, and what comes out says which two models it is about:

    theirs = gs.NeuronSet.load("arveni.safetensors", for_model=instruct, allow="same layout")
    theirs.provenance["found on"], theirs.provenance["used on"]
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from gatescope.core.errors import GatescopeError, one_of
from gatescope.core.layout import Layout

SAME_LAYOUT = "same layout"
FOUND, USED = "found on", "used on"  # in the provenance of neurons that are used on a relative
Identity = Mapping[str, str]  # see `gatescope.models.identity.identity`
_ALLOW = (
    ". If the two are relatives, such as a model and its fine-tune, allow it: NeuronSet.load(path, for_model=model, "
    "allow='same layout'), neurons.used_on(model, allow='same layout'), or --allow same-layout."
)
_UNSIGNED = (
    " One is in float16, and the first release did not write down what dtypes are compared by: load the model in the other's."
)


@functools.singledispatch
def address_in(model: Any, layout: Layout) -> tuple[dict[str, str], Layout]:
    """A model's identity, and the space of its own neurons in the sites of a layout; `gatescope.models` knows how.

    Raises:
        GatescopeError: for what is no model, or has no such site.
    """
    raise GatescopeError(f"Neurons are used on a model, from gs.load_model; this is a {type(model).__name__}.")


def asked_for(for_model: Any, allow: str | None) -> bool:
    """Whether neurons that are loaded are for a model.

    Raises:
        GatescopeError: if something is allowed, and there is none.
    """
    if for_model is None and allow is not None:
        raise GatescopeError(f"allow={allow!r} says what may be done on another model; give that model, for_model=model.")
    return for_model is not None


def readdressed(
    layout: Layout, ours: Identity, model: Any, allow: str | None, what: str = "use these neurons"
) -> tuple[Identity, dict[str, str]]:
    """The identity with which neurons can be used on a model, and what is to be said in their provenance.

    Args:
        layout, ours: the neurons' space, and the model they were found on.
        model: the one they are to be used on.
        allow: "same layout" where it may be another one.
        what: is refused otherwise.

    Raises:
        GatescopeError: if it is another model, and that is not allowed, or its layout is not the same.
    """
    if allow is not None:
        one_of("allow", allow, (SAME_LAYOUT,))
    theirs, own = address_in(model, layout)
    if allow is None:
        check_same_model(ours, theirs, what, relatives=True)
    if same_model(ours, theirs):
        return ours, {}
    if own != layout:
        raise GatescopeError(
            f"allow={allow!r} needs two models with the same layout: {name_of(ours)} has {layout}, and {name_of(theirs)} has "
            f"{own}."
        )
    return theirs, {FOUND: name_of(ours), USED: name_of(theirs)}


def same_model(ours: Identity, theirs: Identity) -> bool:
    """Whether two identities are of one model.

    They are if their weight digests agree, or, where one has none (a model without weights, for remote use), if id and
    revision do. Where one of the two is in float16, which has neither the range of bfloat16 nor the precision of float32, and
    so rounds some weights to others, their signs decide. An empty identity agrees with everything.
    """
    if not ours or not theirs:
        return True
    # Weights first: one model may be called by several names, its directory's and the hub's.
    if ours.get("digest") and theirs.get("digest"):
        return _same_weights(ours, theirs)
    return all(ours.get(key) == theirs.get(key) for key in ("id", "revision"))


def _same_weights(ours: Identity, theirs: Identity) -> bool:
    # A quantised model may compute in float16 and has other weights, whose signs may all the same be those of the original.
    both_full = not (ours.get("quantised") or theirs.get("quantised"))
    if _rounded(ours, theirs) and both_full and _signed(ours, theirs):
        return ours["signs"] == theirs["signs"]
    # What is packed beside the parameters, earlier versions did not look at.
    packed = {model["packed"] for model in (ours, theirs) if model.get("packed")}
    return ours["digest"] == theirs["digest"] and len(packed) < 2


def check_same_model(ours: Identity, theirs: Identity, what: str, *, relatives: bool = False) -> None:
    """Refuse to mix artefacts of two models.

    Args:
        ours, theirs: the two identities; see `same_model`.
        what: cannot be done.
        relatives: whether it could be allowed, so that the message says how.

    Raises:
        GatescopeError: naming both models.
    """
    if not same_model(ours, theirs):
        raise GatescopeError(
            f"Cannot {what}: one model is {name_of(ours)}, the other {_beside(ours, theirs)}. Neurons of one model mean "
            f"nothing in another; select them again with the model you want to use{_ALLOW if relatives else '.'}"
            f"{_UNSIGNED if _rounded(ours, theirs) and not _signed(ours, theirs) else ''}"
        )


def _rounded(ours: Identity, theirs: Identity) -> bool:
    """Whether both have weights, and those of one are rounded to float16: in any other two dtypes the digests are exact."""
    dtypes = {ours.get("dtype"), theirs.get("dtype")}
    return "float16" in dtypes and len(dtypes) > 1 and bool(ours.get("digest") and theirs.get("digest"))


def _signed(ours: Identity, theirs: Identity) -> bool:
    return bool(ours.get("signs") and theirs.get("signs"))


def same_card(ours: Identity, theirs: Identity) -> bool:
    """Whether all is the same that two identities say of a model; the first release did not say its signs, nor whose code
    it runs.

    >>> same_card({"id": "m", "dtype": "float32"}, {"id": "m", "dtype": "float32", "signs": "0f"})
    True
    """
    unsaid = {"signs": "", "code": ""}
    return {**ours, **unsaid} == {**theirs, **unsaid}


def name_of(model: Identity) -> str:
    """A model in words.

    >>> name_of({"id": "org/model", "revision": "", "digest": "0123456789abcdef", "quantised": "bitsandbytes 4-bit nf4"})
    'org/model weights 0123456789ab (quantised: bitsandbytes 4-bit nf4)'
    """
    revision, digest, quantised = (model.get(key) for key in ("revision", "digest", "quantised"))
    name = model.get("id", "unknown")
    name += f" revision {revision}" if revision else ""
    name += f" weights {digest[:12]}" if digest else ""
    return name + (f" (quantised: {quantised})" if quantised else "")


def _beside(ours: Identity, theirs: Identity) -> str:
    """The second of two models in words, where the first has been named."""
    same = all(ours.get(key) == theirs.get(key) for key in ("id", "revision"))
    before, now = ours.get("quantised"), theirs.get("quantised")
    if not same or before == now:
        return name_of(theirs)
    return f"the same checkpoint, {f'quantised ({now})' if now else 'not quantised'}"
