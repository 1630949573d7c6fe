"""What an actor of a cluster is sent, and what it does with it.

Sent are a model's name, to be loaded there once, and a step without its model, which is put in its place again. Whatever can
change a result is compared with the model here, so that an actor computes with the same model or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel

from gatescope.core.errors import GatescopeError
from gatescope.kernels import compiled
from gatescope.models.identity import identity, module_of, versions
from gatescope.models.load import load_model
from gatescope.steps.batches import Plan
from gatescope.steps.compute import compute
from gatescope.steps.step import Step


@dataclass(frozen=True)
class Source:
    """A model by name, as an actor loads it.

    Attributes:
        name, revision, dtype: of the checkpoint.
        device_map: where in the actor's process.
        tokenizer, processor: those in use here, which may differ from the checkpoint's own.
        options: with which else it was loaded: quantisation, attention, trust.
        facts: of the model here, by what they are called in a message; an actor's must be the same.
        threads, kernel: what an actor computes with, since both decide a result's last bits.
    """

    name: str
    revision: str | None
    dtype: str
    device_map: Any
    tokenizer: Any
    processor: Any
    options: dict[str, Any]
    facts: dict[str, str]
    threads: int
    kernel: str

    @classmethod
    def of(cls, model: TransformersModel, gpus: float) -> Source:
        """Where a model came from.

        Raises:
            GatescopeError: if it cannot be loaded again: it exists in memory alone, is edited, or has no weights.
        """
        card, module = identity(model), module_of(model)
        if getattr(model, "_edits", None):
            raise GatescopeError(
                "The model is edited, and Ray's actors load the checkpoint, which is not. Give the model without the edit "
                "(gs.sweep runs it under masks), or save it changed with gs.save_baked, and load that."
            )
        if not card["digest"]:
            raise GatescopeError(
                "The model has no weights here, so that Ray's actors could not tell whether theirs are the same. Load it with "
                "load_model (device_map='cpu' keeps it off the GPU), or run it on a server with remote=."
            )
        name = str(getattr(module.config, "_name_or_path", "") or "")
        if not name:
            raise GatescopeError(
                f"The {card['class']} exists in memory alone, and Ray's actors are processes that load it again. Save it with "
                f"save_pretrained (and its tokenizer or processor), and load that directory with load_model."
            )
        where = Path(name)
        # 1 GPU or a share of one: the actor sees no other. More: the model is spread over them.
        device_map = "cpu" if not gpus else {"": 0} if gpus <= 1 else "auto"
        return cls(
            name=str(where.resolve()) if where.is_dir() else name,  # actors may work in another directory
            revision=card["revision"] or None,
            dtype=card["dtype"],
            device_map=device_map,
            tokenizer=model.tokenizer,
            processor=getattr(model, "processor", None),
            options=_options(model),
            facts=_facts(model),
            threads=torch.get_num_threads(),
            kernel=compiled.mode(),
        )

    def load(self) -> TransformersModel:
        """The model, in an actor.

        Raises:
            GatescopeError: if it cannot be loaded, or is not the model that is meant.
        """
        torch.set_num_threads(self.threads)
        os.environ["GATESCOPE_KERNEL"] = self.kernel
        try:
            model = load_model(
                self.name,
                revision=self.revision,
                dtype=self.dtype,
                device_map=self.device_map,
                tokenizer=self.tokenizer,
                processor=self.processor,
                **self.options,
            )
        except GatescopeError as error:
            raise GatescopeError(f"An actor of Ray could not load the model. {error}") from error
        found = _facts(model)
        for what, here in self.facts.items():
            if found[what] != here:
                raise GatescopeError(
                    f"The model that Ray's actors load from {self.name} is not the one here: {what} is {found[what]} there "
                    f"and {here} here. If it was changed in memory, save it with save_pretrained and load that directory."
                )
        return model


class Actor:
    """A process of the cluster: it loads the model once, and computes shards of whatever steps it is sent."""

    def __init__(self) -> None:
        self.model: Any = None
        self.key, self.step, self.plan = "", None, None

    def load(self, source: Source) -> None:
        """Load the model; in a call of its own, so that what goes wrong comes back as it was raised."""
        self.model = source.load()

    def compute(self, parcel: tuple[str, bytes], index: int, workers: int) -> Any:
        """One shard of a step."""
        key, content = parcel
        if key != self.key:
            self.step, self.plan = unpacked(content, self.model)
            self.key = key
        step: Any = self.step
        planned: Any = self.plan
        with step.running():
            return compute(step, planned, index, workers, lambda _: None)


def packed(step: Step[Any], planned: Plan, pickler: type) -> tuple[str, bytes]:
    """A step without its model, and its plan; with a digest of both.

    Args:
        step, planned: what is sent.
        pickler: cloudpickle's, since an example's picture may be read by a function of its data set.
    """

    class WithoutModel(pickler):
        def persistent_id(self, value: Any) -> str | None:
            return "model" if value is step.model else None

    file = io.BytesIO()
    WithoutModel(file).dump((step, planned))
    content = file.getvalue()
    return hashlib.sha256(content).hexdigest(), content


def unpacked(content: bytes, model: TransformersModel) -> tuple[Step[Any], Plan]:
    """What `packed` was given, with this model."""
    import pickle

    class WithModel(pickle.Unpickler):
        def persistent_load(self, _name: str) -> TransformersModel:
            return model

    return WithModel(io.BytesIO(content)).load()


def _options(model: TransformersModel) -> dict[str, Any]:
    """With which options of `load_model` a model was loaded, beside those that it shows."""
    # As it was asked for, not as it came out: parts of a model may differ in it.
    options: dict[str, Any] = {"attn_implementation": getattr(model, "kwargs", {}).get("attn_implementation")}
    quantiser: Any = getattr(module_of(model), "hf_quantizer", None)
    # A checkpoint that is quantised says so itself.
    if quantiser is not None and not quantiser.pre_quantized:
        options["quantization_config"] = quantiser.quantization_config
    return options | ({"trust_remote_code": True} if "code" in identity(model) else {})


def _facts(model: TransformersModel) -> dict[str, str]:
    """Whatever of a model decides a result."""
    module, card = module_of(model), identity(model)
    config = {name: value for name, value in module.config.to_dict().items() if name not in ("_name_or_path", "_commit_hash")}
    generation = getattr(module, "generation_config", None)
    return {
        "its class": card["class"],
        "its dtype": card["dtype"],
        "the digest of its weights": card["digest"],
        "its attention": str(getattr(module.config, "_attn_implementation", None)),
        "the digest of its config": _digest(config),
        "the digest of its generation config": _digest({} if generation is None else generation.to_dict()),
        "the digest of its weights' dtypes": _digest({name: str(p.dtype) for name, p in module.named_parameters()}),
        "its software": versions(),
    }


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
