"""What the installed transformers offers, and what is known of each family.

    tested      the suite runs it, tiny and with random weights, against plain PyTorch
    structure   its sites are found; nobody has looked further: `gatescope doctor CHECKPOINT` does
    refused     it has no sites that gatescope can tell, and why
    not tried   a model of its default config cannot be built, and why

Models are built without weights, from the first layers of their default configs: a family whose config can mean several
architectures is told by the one that it means by default.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from gatescope.core.errors import GatescopeError, first_line
from gatescope.core.progress import bar
from gatescope.models.sites import Site, sites_of

Outcome = Literal["tested", "structure", "refused", "not tried"]
_LONGEST = 100  # characters of a reason
_DEPTH = 8  # layers


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: its `model_type`.
        pictures: whether its models take pictures.
        outcome: see the module's docstring.
        sites: those its models have.
        detail: which sites are in some layers only; or why there are none.
    """

    name: str
    pictures: bool
    outcome: Outcome
    sites: tuple[str, ...] = ()
    detail: str = ""


def families(names: Iterable[str] = (), *, progress: bool = True) -> list[Family]:
    """Look at every family of the installed transformers that writes text.

    Args:
        names: only these, by model_type; all if empty.
        progress: show a bar.

    Raises:
        GatescopeError: for a name that transformers does not know.
    """
    known = dict(_offered())
    chosen = list(names) or sorted(known)
    for name in chosen:
        if name not in known:
            raise GatescopeError(f"transformers {transformers.__version__} has no family {name!r} that writes text.")
    found: list[Family] = []
    with bar(len(chosen), "looking", "families", show=progress) as shown, _quiet():
        for name in chosen:
            found.append(_look(name, *known[name]))
            shown.update(1)
    return found


def table(found: Iterable[Family]) -> str:
    """The families as text, a line each."""
    lines = [f"{'family':28}{'reads':10}{'':11}sites"]
    for family in found:
        reads = "pictures" if family.pictures else "text"
        sites = " ".join(family.sites)
        detail = f"{sites} ({family.detail})" if sites and family.detail else sites or family.detail
        lines.append(f"{family.name:28}{reads:10}{family.outcome:11}{detail}")
    return "\n".join(lines)


def _offered() -> Iterator[tuple[str, tuple[type, bool]]]:
    """Name, config class and whether it takes pictures of every family; of one that is offered both ways, with pictures."""
    for mapping, pictures in ((MODEL_FOR_CAUSAL_LM_MAPPING, False), (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, True)):
        for config in mapping:
            yield config.model_type, (config, pictures)


def _look(name: str, config: type, pictures: bool) -> Family:
    found = _resolved(name, config, pictures)
    if name not in TESTED:
        return found
    # The suite builds it from a config of its own, where the default one means experts, or nothing that can be built.
    detail = f"by default: {found.detail}" if not found.sites else found.detail
    return Family(name, pictures, "tested", found.sites, detail)


def _resolved(name: str, config: type, pictures: bool) -> Family:
    mapping: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if pictures else MODEL_FOR_CAUSAL_LM_MAPPING
    try:
        architecture = mapping[config]
        with torch.device("meta"):
            model = (architecture[0] if isinstance(architecture, tuple) else architecture)._from_config(_shallow(config()))
    except Exception as error:  # whatever a config that nobody meant to be used makes of it
        return Family(name, pictures, "not tried", detail=_short(f"{type(error).__name__}: {first_line(error)}"))
    try:
        sites = sites_of(model)
    except GatescopeError as error:
        return Family(name, pictures, "refused", detail=_short(str(error)))
    except Exception as error:  # a defect, and this is where it shows
        return Family(name, pictures, "refused", detail=_short(f"{type(error).__name__}: {first_line(error)}"))
    return Family(name, pictures, "structure", tuple(sites), _in_some_layers(sites.values()))


def _shallow(config: Any) -> Any:
    """A config with its first layers only, which have one of each kind: a family is looked at in a second, not in ten."""
    text = config.get_text_config(decoder=True)
    depth = getattr(text, "num_hidden_layers", None)
    if isinstance(depth, int) and depth > _DEPTH:
        for name, value in list(vars(text).items()):
            if isinstance(value, list) and len(value) == depth:
                setattr(text, name, value[:_DEPTH])
        text.num_hidden_layers = _DEPTH
    return config


def _in_some_layers(sites: Iterable[Site]) -> str:
    partly = [site.name for site in sites if not site.everywhere]
    return f"{' '.join(partly)} in some layers only" if partly else ""


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Without what transformers says of default configs."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)


# Model types; the suite holds it against what it runs.
TESTED = frozenset(
    [
        "apertus",
        "arcee",
        "aya_vision",
        "bamba",
        "biogpt",
        "bitnet",
        "bloom",
        "chameleon",
        "codegen",
        "cohere2",
        "cohere2_vision",
        "deepseek_v3",
        "deepseek_vl",
        "diffllama",
        "ernie4_5",
        "falcon",
        "falcon_h1",
        "gemma3",
        "gemma3_text",
        "gemma3n",
        "gemma3n_text",
        "gemma4",
        "gemma4_text",
        "gemma4_unified",
        "gemma4_unified_text",
        "glm4",
        "glm4v",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "granitemoehybrid",
        "hunyuan_v1_dense",
        "idefics2",
        "idefics3",
        "internvl",
        "jais2",
        "jamba",
        "janus",
        "lfm2",
        "lighton_ocr",
        "llama",
        "llama4_text",
        "llava",
        "llava_next",
        "llava_onevision",
        "minicpm3",
        "mistral",
        "mistral3",
        "mllama",
        "modernbert-decoder",
        "mpt",
        "nemotron",
        "nemotron_h",
        "olmo",
        "olmo2",
        "olmo3",
        "olmo_hybrid",
        "openai-gpt",
        "opt",
        "paligemma",
        "perception_lm",
        "persimmon",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3",
        "qwen3_5",
        "qwen3_5_text",
        "qwen3_next",
        "qwen3_vl",
        "recurrent_gemma",
        "seed_oss",
        "smollm3",
        "smolvlm",
        "stablelm",
        "starcoder2",
        "xglm",
    ]
)
