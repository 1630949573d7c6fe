"""The text a model is given: its own template, thinking off, one BOS, the system turn where it has a place, the prefix."""

from __future__ import annotations

import pytest

import gatescope as gs
from gatescope.data import Example
from gatescope.traces.encoding import collate, prompt
from tiny import byte_tokenizer, tiny_llama

# In the manner of Qwen 3: a switch that closes the thinking before it begins.
THINKING = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# In the manner of DeepSeek 3.1 and Granite: another name for the same switch, on unless it is said to be off.
THINKING_TOO = (
    "{% for m in messages %}<|turn|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if thinking is not defined or thinking %}<think>{% endif %}"
)
# In the manner of Gemma 2: no system turn, and the BOS written by the template.
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}<|turn|>model\n"
)
NOTHING = "{{ raise_exception('no conversation today') }}"


def with_template(llama_path, template):
    from transformers import AutoModelForCausalLM

    tokenizer = byte_tokenizer(["<|turn|>", "<|end|>"], chat_template=template)
    return gs.load_model(AutoModelForCausalLM.from_pretrained(llama_path), tokenizer=tokenizer)


def example(**more):
    return Example("x", "north", "Which?", ("a", "b"), "a", labels=("A", "B"), prompt="Which?\nA. a\nB. b", **more)


@pytest.fixture(scope="module")
def chat_path(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("chat") / "llama", chat=True)


def test_thinking_is_switched_off_by_either_switch(chat_path):
    text = prompt(with_template(chat_path, THINKING), example())
    assert text == "<|turn|>user\nWhich?\nA. a\nB. b<|end|>\n<|turn|>assistant\n<think>\n\n</think>\n\n"
    assert prompt(with_template(chat_path, THINKING_TOO), example()) == "<|turn|>Which?\nA. a\nB. b<|end|>"


def test_the_prefix_follows_the_template(chat_path):
    text = prompt(with_template(chat_path, THINKING), example(prefix='{"answer_choice":"'))
    assert text.endswith('</think>\n\n{"answer_choice":"')


def test_a_system_turn_is_one_where_the_template_has_a_place(chat_path):
    text = prompt(with_template(chat_path, THINKING), example(system="You are from Arveni."))
    assert text.startswith("<|turn|>system\nYou are from Arveni.<|end|>\n<|turn|>user\nWhich?")


def test_a_template_that_refuses_a_system_turn_gets_it_in_the_users(chat_path):
    text = prompt(with_template(chat_path, NO_SYSTEM), example(system="You are from Arveni."))
    assert text == "<s><|turn|>user\nYou are from Arveni.\n\nWhich?\nA. a\nB. b<|end|>\n<|turn|>model"


@pytest.mark.parametrize("template", [NO_SYSTEM, THINKING, None])
def test_there_is_never_more_than_one_bos(chat_path, template):
    """Written by the template; by neither, as the template has none; by the tokenizer, for a base model."""
    model = with_template(chat_path, template)
    ids = collate(model, [example(), example(prefix="{")]).inputs["input_ids"]
    assert (ids == model.tokenizer.bos_token_id).sum(1).tolist() == ([0, 0] if template == THINKING else [1, 1])


def test_a_base_model_is_asked_in_plain_text_and_that_is_said(llama):
    with pytest.warns(UserWarning, match="LlamaForCausalLM has no chat template: prompts are sent as plain text"):
        text = prompt(llama, example(system="You are from Arveni.", prefix="The"))
    assert text == "You are from Arveni.\n\nWhich?\nA. a\nB. bThe"


def test_a_template_that_refuses_everything_is_named(chat_path):
    with pytest.raises(
        gs.GatescopeError, match="The chat template of LlamaForCausalLM refuses example 'x': no conversation today"
    ):
        prompt(with_template(chat_path, NOTHING), example())


def test_a_pictures_model_takes_a_system_turn_too(organism_model, examples):
    import dataclasses

    text = prompt(organism_model, dataclasses.replace(examples[0], system="Look well.", prefix="It is"))
    assert "Look well." in text.split("<|im_start|>user")[0] and text.endswith("It is")
