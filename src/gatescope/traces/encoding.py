"""From examples to model inputs: the model's own chat template and processor, padded on the left.

And the one rule for which tokens count (VLM paper, section 3.1: "a valid-token mask to exclude padding and special
markers"): text and image-patch positions of the prompt. Not padding; not a token its tokenizer marks as special or
its chat template spells out as a marker (BOS, turn and image delimiters); not the line breaks LLaVA-NeXT inserts
between rows of image patches. The image placeholder is a special token too, but its positions carry the picture: it
counts. So does an unknown word.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from nnsight import TransformersModel
from PIL.Image import Image
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from gatescope.core.errors import GatescopeError
from gatescope.data import prompts
from gatescope.data.example import Example
from gatescope.traces.processing import processed

TOKEN_RULE = "text and image patches of the prompt; no padding, special tokens, template markers or image line breaks"
CLASSES = ("all", "text", "image", "generated")


@dataclass(frozen=True)
class Batch:
    """Encoded examples.

    Attributes:
        examples: the examples, one a row.
        inputs: what the model takes: input_ids and attention_mask [b, s], and the images' tensors if any.
        token_mask: which positions count, bool [b, s].
    """

    examples: tuple[Example, ...]
    inputs: dict[str, Tensor]
    token_mask: Bool[Tensor, "b s"]

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device; copied without waiting where they are pinned."""
        if device.type in ("cpu", "meta"):
            return self
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(self.examples, moved, self.token_mask.to(device, non_blocking=True))


def collate(model: TransformersModel, examples: Sequence[Example]) -> Batch:
    """Encode examples for a model from `load_model`.

    Raises:
        GatescopeError: if an example has a picture and the model takes none, or a picture cannot be opened.
    """
    pictures = _pictures(model, examples)
    if len({example.chat for example in examples}) > 1:
        raise GatescopeError("Passages and questions cannot be encoded together; record them apart.")
    texts = [prompt(model, example) for example in examples]
    options = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    if examples[0].chat and not _adds_bos(model, texts):
        options["add_special_tokens"] = False
    if model.processor is None:
        inputs = dict(model.tokenizer(texts, return_token_type_ids=False, **options))
    else:
        # By row: a processor such as Gemma 3's takes a plain list for the pictures of one row.
        images = [[picture] if picture is not None else [] for picture in pictures]
        inputs = processed(model, texts, images if any(images) else [], options)
    _check_tokens(inputs, examples)
    return Batch(tuple(examples), inputs, valid_tokens(model, inputs))


def _check_tokens(inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> None:
    """Refuse an example that is no token: a model cannot read it, and some give NaN for all that is padding."""
    for example, tokens in zip(examples, inputs["attention_mask"].sum(1).tolist(), strict=True):
        if not tokens:
            raise GatescopeError(
                f"Example {example.id!r} has no tokens for this tokenizer: its text is {example.prompt or example.question!r}. "
                f"Leave it out."
            )


def _pictures(model: TransformersModel, examples: Sequence[Example]) -> list[Image | None]:
    """Each example's picture, opened."""
    pictures = [example.picture() for example in examples]
    if model.processor is not None:
        return pictures
    for example, picture in zip(examples, pictures, strict=True):
        if picture is not None:
            raise GatescopeError(
                f"Example {example.id!r} has an image, but {type(model._module).__name__} takes text only. "
                f"Use a vision-language model, or leave the field 'image' out."
            )
    return pictures


THINKING = ("enable_thinking", "thinking")  # what chat templates call the switch


def prompt(model: TransformersModel, example: Example) -> str:
    """The text a model is given for an example: its chat template round the question, thinking switched off where it has
    a switch for that, then the example's prefix. A passage is given as it stands. A base model, which has no template, is
    asked the bare question, and a warning says so.
    """
    _check_placeholders(model, example)
    if not example.chat:
        return str(example.prompt)
    if not _has_template(model):
        warnings.warn(
            f"{type(model._module).__name__} has no chat template: prompts are sent as plain text, as to a base model.",
            stacklevel=2,
        )
        return _bare(model, example) + example.prefix
    text, tool = prompts.asked(example), _tool(model)
    written = str(getattr(tool, "chat_template", None) or model.tokenizer.chat_template)
    off = {switch: False for switch in THINKING if re.search(rf"\b{switch}\b", written)}
    problem: Exception | None = None
    # Some templates, such as Gemma 2's, refuse a system turn; then its text goes into the user's turn.
    for turns in _turns(example, text, model.processor is not None):
        try:
            return tool.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **off) + example.prefix
        except Exception as error:  # a template is a program, which may fail in any way
            problem = error
    raise GatescopeError(
        f"The chat template of {type(model._module).__name__} refuses example {example.id!r}: {problem or 'no reason given'}."
    ) from problem


def _check_placeholders(model: TransformersModel, example: Example) -> None:
    """Refuse a text that holds what stands for a picture: the model would look for a picture that is not there."""
    if model.processor is None:
        return
    names = set(model.tokenizer.convert_ids_to_tokens(sorted(placeholder_ids(model))))
    names.add(getattr(_tool(model), "image_token", None))
    texts = (example.system, prompts.asked(example) if example.chat else str(example.prompt), example.prefix)
    for name in names:
        if isinstance(name, str) and name and any(name in text for text in texts):
            raise GatescopeError(
                f"Example {example.id!r} has {name!r} in its text, which stands for a picture to "
                f"{type(model._module).__name__}. Take it out; a picture is given as `image`, and put where the chat template "
                f"wants it."
            )


def _tool(model: TransformersModel) -> Any:
    """What encodes prompts: the processor of a model that takes pictures, else the tokenizer."""
    return model.processor if model.processor is not None else model.tokenizer


def _bare(model: TransformersModel, example: Example) -> str:
    """A question without a template: the system's words, the question, a placeholder for its picture."""
    text = prompts.asked(example)
    text = f"{example.system}\n\n{text}" if example.system else text
    if example.image is None:
        return text
    if (marker := getattr(_tool(model), "image_token", None)) is None:
        raise GatescopeError(
            f"{type(_tool(model)).__name__} has neither a chat template nor an image_token, so where in the prompt of example "
            f"{example.id!r} its picture goes is not known. Give it a template: model.processor.chat_template = ..."
        )
    return f"{marker}\n{text}"


def _has_template(model: TransformersModel) -> bool:
    return bool(getattr(_tool(model), "chat_template", None) or getattr(model.tokenizer, "chat_template", None))


def _turns(example: Example, text: str, typed: bool) -> list[list[dict[str, Any]]]:
    """The turns to try: with a system turn if there is one, then with its text at the head of the user's turn."""

    def turn(role: str, words: str, image: bool = False) -> dict[str, Any]:
        # Processors' templates read typed content, tokenizers' templates a plain string.
        written = [{"type": "image"}] * image + [{"type": "text", "text": words}]
        return {"role": role, "content": written if typed else words}

    has_image = example.image is not None
    if not example.system:
        return [[turn("user", text, has_image)]]
    return [
        [turn("system", example.system), turn("user", text, has_image)],
        [turn("user", f"{example.system}\n\n{text}", has_image)],
    ]


def _adds_bos(model: TransformersModel, texts: Sequence[str]) -> bool:
    """Whether the tokenizer should add its special tokens: not if the template has written the BOS already."""
    if model.processor is None:
        return not model.tokenizer.chat_template
    # Some processors' templates write it, as Gemma 3's does, and some do not; two of them would change every answer.
    bos = model.tokenizer.bos_token
    return not (bos and texts[0].startswith(bos))


def valid_tokens(model: TransformersModel, inputs: dict[str, Tensor]) -> Bool[Tensor, "b s"]:
    """Which positions of encoded prompts count; the rule is this module's docstring."""
    ids = inputs["input_ids"]
    markers = torch.tensor(sorted(marker_ids(model)), dtype=ids.dtype, device=ids.device)
    token_mask = inputs["attention_mask"].bool() & ~torch.isin(ids, markers)
    breaks = _image_line_breaks(model, inputs)
    return token_mask if breaks is None else token_mask & ~breaks


def token_classes(model: TransformersModel, batch: Batch) -> dict[str, Bool[Tensor, "b s"]]:
    """The prompt's tokens that count: all, and apart those of the text and those that carry a picture's patches."""
    ids = batch.inputs["input_ids"]
    placeholder = torch.isin(ids, torch.tensor(sorted(placeholder_ids(model)), dtype=torch.long, device=ids.device))
    return {"all": batch.token_mask, "text": batch.token_mask & ~placeholder, "image": batch.token_mask & placeholder}


def class_masks(model: TransformersModel, batch: Batch, names: Collection[str]) -> Bool[Tensor, "c b s"]:
    """The masks of those named of the prompt's classes of tokens, in the order of `CLASSES`."""
    masks = [mask for name, mask in token_classes(model, batch).items() if name in names]
    return torch.stack(masks) if masks else batch.token_mask.new_zeros(0, *batch.token_mask.shape)


def marker_ids(model: TransformersModel) -> set[int]:
    """Ids of the tokens that are markers, not content."""
    tokenizer = model.tokenizer
    added = tokenizer.added_tokens_decoder
    template = f"{getattr(_tool(model), 'chat_template', None) or ''}{tokenizer.chat_template or ''}"
    markers = set(tokenizer.all_special_ids)
    # Some checkpoints do not mark their turn delimiters as special; that the template writes them gives them away.
    for i, token in added.items():
        written = token.content.strip() and token.content in template
        if token.special or written:
            markers.add(i)
    return markers - placeholder_ids(model) - {tokenizer.unk_token_id}


def uncounted_ids(model: TransformersModel) -> set[int]:
    """Ids that are not content where they are generated: markers, and placeholders, which carry no picture there."""
    return marker_ids(model) | placeholder_ids(model)


def placeholder_ids(model: TransformersModel) -> set[int]:
    """Ids whose positions carry a picture's patches."""
    config = model._module.config
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    ids = {getattr(owner, name, None) for owner in (config, model.processor) for name in names}
    # Configs without the attribute give None.
    return {i for i in ids if isinstance(i, int)}


def _image_line_breaks(model: TransformersModel, inputs: dict[str, Tensor]) -> Bool[Tensor, "b s"] | None:
    """Placeholder positions that hold LLaVA-NeXT's learned line break; None for models without one.

    They have the same token id as the patches, so the model's own packing is asked where it puts them: it is given
    patches of zeros and a line break of ones.
    """
    owner = next((m for m in model._module.modules() if "image_newline" in m._parameters), None)
    if owner is None or "pixel_values" not in inputs:
        return None
    config, sizes = owner.config, inputs["image_sizes"]
    tile = config.vision_config.image_size
    # The packing only needs to know how many patches a tile has, not what is in them.
    patches = (tile // config.vision_config.patch_size) ** 2
    tiles = [image_size_to_num_patches(size, config.image_grid_pinpoints, tile) for size in sizes.tolist()]
    # LLaVA-NeXT's packing asks for the strategy, LLaVA-OneVision's for the aspect ratio.
    parameters = inspect.signature(owner.pack_image_features).parameters
    settings = {name: getattr(config, name) for name in parameters if name.startswith("vision_") and hasattr(config, name)}
    zeros = [torch.zeros(count, patches, 1) for count in tiles]
    packed, _ = owner.pack_image_features(zeros, sizes, image_newline=torch.ones(1), **settings)
    placeholder = torch.isin(inputs["input_ids"], torch.tensor(sorted(placeholder_ids(model))))
    breaks = torch.zeros_like(placeholder)
    breaks[placeholder] = torch.cat([features[:, 0] for features in packed]).bool()
    return breaks
