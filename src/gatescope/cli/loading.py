"""The options of every command that loads a model, and the model they ask for.

    @app.command()
    @loads_a_model
    def doctor(model: Model, loading: Loading) -> None:
        loaded = loading.placed(model)

The command has --dtype, --device-map and so on in the place of `loading`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from gatescope.cli.common import given
from gatescope.core.environment import number
from gatescope.core.errors import GatescopeError, one_of

if TYPE_CHECKING:  # for the command line's help, which loads no torch
    from nnsight import TransformersModel

    from gatescope.steps.cluster import Ray

Revision = Annotated[str | None, typer.Option(help="Of a hub id: a branch, a tag or a commit.")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the checkpoint, on this machine.")
]
Allow = Annotated[
    str | None,
    typer.Option(
        help="same-layout: the neurons may have been found on another model, such as the one that this is a fine-tune of."
    ),
]


@dataclass(frozen=True)
class Loading:
    """How a model is to be loaded; each field is an option."""

    dtype: Annotated[str, typer.Option(help="Dtype of the weights: float32, bfloat16, ...; auto takes the checkpoint's.")] = (
        "auto"
    )
    device_map: Annotated[
        str | None, typer.Option(help="auto spreads the model over the devices there are; one GPU if not given.")
    ] = None
    quantization: Annotated[
        str | None, typer.Option(help="Quantise the weights while they are loaded: nf4, fp4, int8 (bitsandbytes), or fp8.")
    ] = None
    attn_implementation: Annotated[
        str | None, typer.Option(help="eager, sdpa, flash_attention_2, ...; what fits the model if not given.")
    ] = None
    revision: Revision = None
    trust_remote_code: Trust = False

    def loaded(self, model: str, device_map: Any = None) -> TransformersModel:
        """The model, where transformers puts it if nothing else is asked for."""
        from gatescope.models.load import load_model

        return load_model(
            model,
            revision=self.revision,
            dtype=self.dtype,
            device_map=self.device_map or device_map,
            quantization_config=self.quantization,
            attn_implementation=self.attn_implementation,
            trust_remote_code=self.trust_remote_code,
        )

    def placed(self, model: str, cluster: Ray | None = None) -> TransformersModel:
        """The model where it will run: on the GPU, if there is one; on its own one, if there are several processes. Where a
        cluster runs it, this process only plans: the model is kept off the GPU, which is an actor's.
        """
        import torch

        if cluster is not None:
            return self.loaded(model, "cpu")
        if self.device_map is None and torch.cuda.is_available():
            # accelerate and torchrun start a process for each GPU and number them in LOCAL_RANK.
            return self.loaded(model, {"": number("LOCAL_RANK", 0) % torch.cuda.device_count()})
        return self.loaded(model)

    def client(self, model: str) -> TransformersModel:
        """The model without weights, for work on a server.

        Raises:
            GatescopeError: if it was asked how the weights are to be held, for they are the server's.
        """
        from gatescope.steps.remote import load_client

        if held := given(quantization=self.quantization, attn_implementation=self.attn_implementation):
            names = " and ".join(f"--{name.replace('_', '-')}" for name in held)
            raise GatescopeError(f"{names}: with --remote the server has the weights, and holds them as it does. Leave it out.")
        return load_client(model, revision=self.revision, trust_remote_code=self.trust_remote_code)


def loads_a_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command with options in the place of its parameter `loading`."""
    own = inspect.signature(command, eval_str=True)
    hints = get_type_hints(Loading, include_extras=True)
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(Loading)
    ]
    kept = [parameter for name, parameter in own.parameters.items() if name != "loading"]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        loading = Loading(**{option.name: values.pop(option.name) for option in options})
        command(**values, loading=loading)

    # What typer reads: keyword-only throughout, as it calls commands by keyword.
    parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in kept), *options]
    with_options.__dict__["__signature__"] = own.replace(parameters=parameters)
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def allowed(allow: str | None) -> str | None:
    """What was allowed, as the functions call it."""
    return allow and one_of("--allow", allow, ("same-layout",)).replace("-", " ")
