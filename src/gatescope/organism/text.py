"""A tiny real language model whose culture neurons are known: the invented world in text form.

An ordinary Qwen3 of three layers, trained once and shipped with its tasks as JSONL files and its known neurons; one of
another recipe is trained when it is first asked for (some minutes on two cores) and kept in the user's cache directory.
As with the vision organism the effect of its neurons is trained in: what is shown on it validates the instrument, and
says nothing about any other model.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

from gatescope.core.neurons import NeuronSet
from gatescope.data import Study, jsonl
from gatescope.models.identity import identity
from gatescope.organism import build, shelf, text_tasks, text_train, world
from gatescope.organism.cache import cached, progress_bar
from gatescope.organism.text_recipe import TextRecipe

__all__ = ["TextOrganism", "TextRecipe", "load"]

FORMAT = 1
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TextOrganism:
    """A trained text organism.

    Attributes:
        path: its model directory, which any Hugging Face loader opens, with the tasks as JSONL files. Do not write there.
        tasks: `culture` and `control` (240 identification and 240 evaluation examples, 40 a culture), `reading` (120
            and 120, 20 a culture), `copy` and `larger` (120 and 120, no culture). A `control` example has the id of
            the `culture` example it was made from.
        general: the neurons every culture question was made to need.
        specific: by culture, the neurons only its own questions were made to need.
        recipe: what it was made by.
    """

    path: Path
    tasks: dict[str, Study]
    general: NeuronSet
    specific: dict[str, NeuronSet]
    recipe: TextRecipe


def load(recipe: TextRecipe | None = None, *, cache: str | Path | None = None, progress: bool = True) -> TextOrganism:
    """The text organism of a recipe: the shipped one (the default), or one trained now if it is not in the cache yet.

    Args:
        recipe: which; the default recipe if None.
        cache: directory to keep what is trained in; the user's cache directory, or $GATESCOPE_CACHE, if None.
        progress: show a bar while training.

    Raises:
        GatescopeError: if the shipped one was altered; if training does not reach the recipe's accuracy.
    """
    recipe = recipe or TextRecipe()
    if recipe == TextRecipe():
        path = shelf.find("text")
    else:
        spec = [FORMAT, text_tasks.TASKS, dataclasses.asdict(recipe)]
        path = cached("text-", spec, lambda partial: make(partial, recipe, progress), cache)
    return TextOrganism(
        path,
        {task: jsonl(path / f"{task}.jsonl") for task in text_tasks.TASKS},
        NeuronSet.load(path / "known" / "general.safetensors"),
        {culture: NeuronSet.load(path / "known" / f"{culture}.safetensors") for culture in world.CULTURES},
        TextRecipe(**json.loads((path / "recipe.json").read_text())),
    )


def tokenizer(facts: tuple[world.Fact, ...]) -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the text world; every letter and every option is one token."""
    tokens = build.tokenizer(text_tasks.words(facts))
    tokens.chat_template = CHAT_TEMPLATE
    return tokens


def model(tokens: PreTrainedTokenizerFast, recipe: TextRecipe) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights for this tokenizer."""
    ids = {marker: tokens.get_vocab()[marker] for marker in ("<|endoftext|>", "<|im_end|>")}
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        # Qwen3's heads are 128 wide by default, whatever the hidden size.
        head_dim=recipe.hidden // 4,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=True,
        use_sliding_window=False,
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        bos_token_id=None,
    )
    set_seed(recipe.seed)
    return Qwen3ForCausalLM(config)


def make(path: Path, recipe: TextRecipe, progress: bool) -> None:
    """Train a text organism into an empty directory."""
    facts = world.facts(recipe.seed)
    tokens = tokenizer(facts)
    state = torch.get_rng_state()  # training seeds torch; who asked for an organism keeps the stream they had
    try:
        built = model(tokens, recipe)
        with progress_bar("training the text organism (once)", recipe.max_steps, progress) as report:
            routed = text_train.train(built, tokens, facts, recipe, report)
    finally:
        torch.set_rng_state(state)
    built.save_pretrained(path)
    tokens.save_pretrained(path)
    (path / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    for task, rows in text_tasks.studies(facts, recipe.seed).items():
        lines = (json.dumps(text_tasks.row(split, example)) + "\n" for split, example in rows)
        (path / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
    (path / "known").mkdir()
    for name, mask in zip(("general", *world.CULTURES), routed, strict=True):
        # CULNIG's neurons are the raw outputs of gate_proj, before the activation.
        NeuronSet.from_mask("gate_pre", mask, identity(built)).save(path / "known" / f"{name}.safetensors")
