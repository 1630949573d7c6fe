"""Tiny random models of real architectures, with real processors, written as ordinary directories."""

from __future__ import annotations

import random
from pathlib import Path

import nnsight
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from gatescope.data import Example
from gatescope.organism import world


class Parts(nnsight.TransformersModel):
    """Some parts of a model, such as its tokenizer, and no model."""

    def __init__(self, **parts) -> None:
        self.__dict__.update(parts)


def byte_tokenizer(extra: list[str], *, chat_template: str | None) -> PreTrainedTokenizerFast:
    """Bytes as tokens, a BOS put first as Llama does, and a few added markers."""
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in ["<s>", "</s>", "<pad>", *extra]])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=chat_template
    )


def tiny_llama(path: Path, *, chat: bool = False, layers: int = 3) -> Path:
    template = (
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
        "<|turn|>assistant\n"
    )
    tokenizer = byte_tokenizer(["<|turn|>", "<|end|>"], chat_template=template if chat else None)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_llava_next(path: Path, text: type = MistralConfig) -> Path:
    """LLaVA-NeXT over Mistral (or Qwen2, as Pangea): 28-pixel tiles of 14-pixel patches, grids of up to two tiles a side."""
    template = (
        "{% for m in messages %}[INST] {% for part in m['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %} [/INST]{% endfor %}"
    )
    tokenizer = byte_tokenizer(["<image>"], chat_template=None)
    grid = [[28, 56], [56, 28], [56, 56]]
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    torch.manual_seed(0)
    decoder = text(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, sliding_window=None, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = LlavaNextConfig(
        vision_config=vision, text_config=decoder, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    LlavaNextForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


def with_adapter(module):
    """A LoRA adapter that is not the identity, on attention and MLP."""
    import peft  # takes a second to import

    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "gate_proj", "down_proj"], r=4)
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(module, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return wrapped.eval()


def varied_examples(count: int = 16, seed: int = 0) -> list[Example]:
    """Questions of the organism's world (that of a seed), pictures of unequal size, wording of unequal length."""
    rng = random.Random("varied")
    facts = world.facts(seed)
    sizes = [(56, 56), (84, 56), (56, 112), (112, 84)]
    found = []
    for number in range(count):
        fact = facts[(number * 17) % len(facts)]
        choices, _ = world.options(fact, facts, rng)
        question = world.question(fact.kind) + " What is this called?" * (number % 3)
        picture = world.draw(fact, rng, sizes[number % len(sizes)])
        found.append(Example(f"v{number}", fact.culture, question, tuple(choices), fact.word, picture))
    return found


def text_examples(groups: tuple[str, ...] = ("north", "south"), each: int = 6) -> list[Example]:
    """Questions without pictures."""
    rng = random.Random("text")
    found = []
    for group in groups:
        for number in range(each):
            choices = [f"{group}-{number}", *rng.sample(["kite", "boat", "drum", "lamp", "rope", "bell"], 3)]
            found.append(Example(f"{group}{number}", group, f"Which of these is {group}?", tuple(choices), choices[0]))
    return found


def teach(path: Path, examples: list[Example], steps: int = 60) -> Path:
    """Train a tiny model until it answers these examples, each by one token and an end; so that a study counts something."""
    import gatescope as gs
    from gatescope.traces.encoding import collate

    wrapped = gs.load_model(path)
    batch = collate(wrapped, examples)
    ids = [wrapped.tokenizer(e.answer, add_special_tokens=False).input_ids for e in examples]
    assert all(len(i) == 1 for i in ids), "answers of one token only"
    answer = torch.tensor(ids)
    target = torch.cat([answer, torch.full_like(answer, wrapped.tokenizer.eos_token_id)], 1)
    inputs = batch.inputs | {"input_ids": torch.cat([batch.inputs["input_ids"], answer], 1)}
    inputs["attention_mask"] = torch.cat([batch.inputs["attention_mask"], torch.ones_like(answer)], 1)
    module = wrapped._module.train().requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(steps):
        logits = module(**inputs).logits[:, -2:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        if loss < 0.05:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3, loss.item()
    module.eval().save_pretrained(path)
    return path


def letter_examples(groups: tuple[str, ...], each: int, image: bool) -> list[Example]:
    """Questions whose right answer is always the letter k, with pictures or without."""
    rng = random.Random("letters")
    pictures = [world.draw(fact, rng, (56, 56 if i % 2 else 28)) if image else None for i, fact in enumerate(world.facts())]
    return [
        Example(
            f"{g}{i}", g, f"Which letter is {g} {i}?", tuple(rng.sample(["k", "b", "d", "l"], 4)), "k", pictures[20 * n + i]
        )
        for n, g in enumerate(groups)
        for i in range(each)
    ]
