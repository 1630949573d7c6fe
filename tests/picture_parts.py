"""What tiny models that see pictures are put together from: a decoder, a tower, a tokenizer with markers, a template.

Builders name their classes as `transformers.X` when they run: importing one family's modules takes a while, and a worker
of the suite builds only some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gatescope.data import Example
from tiny import byte_tokenizer

Builder = Callable[[Path], PreTrainedModel]  # writes the model with its processor into a directory

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "initializer_range": 0.3,
}  # fmt: skip
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
SIDE = 28
SQUARE = {"height": SIDE, "width": SIDE}
TILE = {**TOWER, "image_size": SIDE, "patch_size": 14}  # four patches
FINE_TILE = {**TOWER, "image_size": SIDE, "patch_size": 7}  # sixteen, to be merged by four
HEADLESS = {"vision_use_head": False}  # SigLIP without what makes one vector of a picture
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def template(image: str) -> str:
    return (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )


def tokenizer_of(markers: Sequence[str] = (), *, bos: bool = True, **named: str) -> PreTrainedTokenizerFast:
    """Bytes and markers; some of the markers have names by which the processor asks for them."""
    extra = list(dict.fromkeys([*markers, *named.values()]))
    backend = byte_tokenizer(extra, chat_template=None).backend_tokenizer
    if not bos:
        backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=named
    )


def decoder(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    ids = {name: getattr(tokenizer, name) for name in IDS}
    return {"vocab_size": len(tokenizer), **SHAPE, **ids, **more}


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """A token's id, which must be one."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), token
    return found


def write(path: Path, model: type[PreTrainedModel], config: Any, processor: Any) -> PreTrainedModel:
    """The model as it was written, ready to be asked."""
    torch.manual_seed(0)
    made = model(config)
    for name, parameter in made.named_parameters():
        if name.endswith("_gate"):  # mllama's cross-attention, shut until it is trained
            parameter.data.fill_(1.0)
        if name.endswith("mm_input_projection_weight"):  # Gemma 3's projector: zeros as it is made
            parameter.data.normal_(std=0.3)
        if name.endswith("embed_tokens.weight"):  # padding of zeros has no gradient through Gemma 3n's norms but NaN
            parameter.data[processor.tokenizer.pad_token_id].normal_(std=0.3)
        if ".vqmodel." in name and ".embedding." not in name and parameter.ndim > 1:  # Chameleon: or all patches look alike
            parameter.data.mul_(8)
    made.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    made.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    made.save_pretrained(path)
    processor.save_pretrained(path)
    return made.eval()


def questions() -> list[Example]:
    """A wide picture, none, and a tall one; each question is a group, and options are of several lengths."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    pictures = [Image.fromarray(each).resize(size, 0) for each, size in zip(noise, ((112, 56), (56, 84)), strict=True)]
    asked = ("What is this?", "What is a kite made of?", "What?")
    return [
        Example(str(row), f"group {row}", "Which?", ("up", "kite"), "up", image, prompt=text)
        for row, (text, image) in enumerate(zip(asked, (pictures[0], None, pictures[1]), strict=True))
    ]
