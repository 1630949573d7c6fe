"""Every way an answer is read: by hand on given logits, and against a plain Transformers loop on a tiny model."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch

import gatescope as gs
from gatescope.core.answers import Reading
from gatescope.data import Example
from gatescope.statistics.table import Row, Table
from gatescope.traces.batch import READOUTS, run_batch
from gatescope.traces.encoding import collate
from gatescope.traces.readouts.argmax import next_token
from gatescope.traces.readouts.generated import Short
from gatescope.traces.readouts.options import best, exclusive
from tiny import text_examples, tiny_llama

LABELS = ("A", "B", "C", "D")


def asked(example) -> str:
    """What is asked where options have labels, written out."""
    options = "\n".join(f"{label}. {choice}" for label, choice in zip(example.labels, example.choices, strict=True))
    return (
        f"Answer the following multiple-choice question.\nQuestion: {example.question}\nOptions: \n{options}\n"
        "Your response must be ONLY the label of the correct option, and nothing else."
    )


@pytest.fixture
def plain(llama_path):
    """The same model in plain Transformers, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(llama_path).eval(), AutoTokenizer.from_pretrained(llama_path)


@pytest.fixture(scope="module")
def questions():
    return [dataclasses.replace(e, labels=LABELS) for e in text_examples(each=3)]


def scale(top: int, answer: str, number: int = 0) -> Example:
    choices = tuple(map(str, range(1, top + 1)))
    return Example(f"w{number}", "north", "How much?", choices, answer, labels=choices, prompt=f"How much, 1 to {top}?")


def log_likelihood(plain, prompt: str, continuation: list[int]) -> float:
    """One row, no batch, no padding: the whole text through the model, token by token."""
    model, tokenizer = plain
    ids = tokenizer(prompt, return_tensors="pt").input_ids[0].tolist()
    with torch.no_grad():
        logs = model(torch.tensor([ids + continuation])).logits[0].double().log_softmax(-1)
    return sum(logs[len(ids) - 1 + i, token].item() for i, token in enumerate(continuation))


def tokens_of(plain, text: str) -> list[int]:
    return plain[1](text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("readout", ["loglik", "loglik_mean"])
def test_option_log_likelihood_is_a_plain_loops(llama, plain, questions, readout):
    found, _ = run_batch(llama, collate(llama, questions), readout=readout)
    for (text, reading), example in zip(found, questions, strict=True):
        scores = []
        for choice in example.choices:
            tokens = tokens_of(plain, choice)
            score = log_likelihood(plain, asked(example), tokens)
            scores.append(score / len(tokens) if readout == "loglik_mean" else score)
        assert text == reading.predicted == example.choices[scores.index(max(scores))]
        assert reading.correct == (text == example.answer)


def test_the_label_read_out_is_a_plain_loops(llama, plain, questions):
    found, _ = run_batch(llama, collate(llama, questions), readout="label")
    for (label, reading), example in zip(found, questions, strict=True):
        prompt = asked(example)
        scores = [log_likelihood(plain, prompt, tokens_of(plain, name)) for name in LABELS]
        assert label == LABELS[scores.index(max(scores))]
        assert reading.predicted == example.choices[LABELS.index(label)]


def test_a_scale_to_ten_is_read_over_its_two_tokens(llama, plain):
    examples = [scale(10, "7", number) for number in range(2)] + [scale(4, "2", 2)]
    found, _ = run_batch(llama, collate(llama, examples), readout="likert_label")
    for (label, reading), example in zip(found, examples, strict=True):
        chance = [
            torch.tensor(log_likelihood(plain, str(example.prompt), tokens_of(plain, c))).exp().item() for c in example.choices
        ]
        if len(chance) == 10:
            assert len(tokens_of(plain, "10")) == 2
            chance[0] -= chance[9]  # "1" and then no "0"
        assert label == example.choices[chance.index(max(chance))]
        low, high, answer = 1, len(chance), int(example.answer)
        assert reading.score == pytest.approx(1 - abs(answer - int(label)) / max(answer - low, high - answer))


def test_options_that_begin_others_by_hand():
    """0.5 for "1" as a first token, 0.2 of it followed by "0", half of that by another "0"."""
    options = [[1], [2], [1, 0], [1, 0, 0]]
    logs = torch.tensor([0.5, 0.45, 0.1, 0.05]).log()
    assert torch.allclose(exclusive(logs, options), torch.tensor([0.4, 0.45, 0.05, 0.05]))
    assert best(logs, options, "label") == 1  # 0.45 against 0.4, though "1" begins 0.5
    assert best(logs, options, "loglik") == 0
    assert best(torch.tensor([-1.0, -1.0]), [[1], [2]], "label") == 0  # the first of equals


def test_generation_is_a_plain_loops(llama, plain, questions):
    """Greedy, one row at a time, 6 tokens; then Algorithm 1."""
    model, tokenizer = plain
    found, _ = run_batch(llama, collate(llama, questions), readout="generate", max_new_tokens=6)
    for (text, _), example in zip(found, questions, strict=True):
        ids = tokenizer(asked(example)).input_ids
        start = len(ids)
        for _ in range(6):
            with torch.no_grad():
                ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert text == tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_a_checkpoints_own_sampling_and_beams_play_no_part(llama, llama_path, questions):
    other = gs.load_model(llama_path)
    other._module.generation_config.update(do_sample=True, temperature=9.0, num_beams=4, top_k=50, early_stopping=True)
    rows = [
        gs.sweep(model, questions, {}, readout="generate", max_new_tokens=8, progress=False).rows for model in (llama, other)
    ]
    assert rows[0] == rows[1]
    free = other._module.generate(**collate(other, questions).inputs, max_new_tokens=8)
    texts = other.tokenizer.batch_decode(free[:, -8:], skip_special_tokens=True)
    assert texts != [row.text for row in rows[0]], "its own settings make no difference here"


def test_labels_are_compared_in_float32_whatever_the_weights(llama_path, questions):
    """Logits 1/128 apart are four numbers in bfloat16; their log-probabilities, some six lower, are one or two."""
    model = gs.load_model(llama_path, dtype=torch.bfloat16)
    head, tokens = model._module.lm_head.weight, model.tokenizer.convert_tokens_to_ids(list(LABELS))
    blind = 0
    for example in questions[:4]:
        batch = collate(model, [example])
        with torch.no_grad():
            hidden = model._module.model(**batch.inputs).last_hidden_state[0, -1].float()
            peak = int(hidden.abs().argmax())
            for place, token in enumerate(tokens):
                head[token] = 0
                head[token, peak] = (1 + place / 128) / hidden[peak]
            logits = model._module(**batch.inputs).logits[0, -1]
        best = logits[tokens].float().argmax()
        blind += int(logits.log_softmax(-1)[tokens].argmax() != best)
        ((found, _),), _ = run_batch(model, batch, readout="label")
        assert found == LABELS[best]
    assert blind, "bfloat16 can tell all of these apart"


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A tiny model that answers k, and one that answers 3."""
    from tiny import letter_examples, teach

    examples = letter_examples(("north", "south"), 3, image=False)
    path = teach(tiny_llama(tmp_path_factory.mktemp("m") / "k"), examples)
    return gs.load_model(path), examples


def test_a_short_answer_is_right_if_any_accepted_one_is_in_it(taught):
    model, examples = taught
    short = [
        dataclasses.replace(e, prompt=gs.data.prompts.multiple_choice(e.question, e.choices, image=False),
                            choices=(), references=answers, answer=answers[0])
        for e, answers in zip(examples, [("K",), ("zz", "k"), ("zz",)] * 2, strict=True)
    ]  # fmt: skip
    table = gs.sweep(model, short, {}, readout="short", progress=False)
    assert [(row.reading.predicted, row.reading.correct) for row in table.rows[:3]] == [("K", True), ("k", True), ("k", False)]


@pytest.mark.parametrize("readout", [r for r in READOUTS if r not in ("none", "short", "likert", "likert_label")])
def test_every_read_out_goes_through_sweep_and_feels_the_mask(taught, readout):
    model, examples = taught
    labelled = [dataclasses.replace(e, labels=e.choices) for e in examples]
    layout = gs.sites_of(model)["gate"].layout
    everything = gs.NeuronSet(layout, torch.arange(layout.only().size), {})
    table = gs.sweep(model, labelled, {"all": gs.ablate(everything)}, readout=readout, progress=False)
    full = [row for row in table.rows if not row.mask]
    assert all(row.reading.correct for row in full)
    assert [row.text for row in full] != [row.text for row in table.rows if row.mask]


def test_argmax_is_the_published_evaluation_as_a_plain_loop(taught):
    """CULNIG's evaluate.py: the most probable of all tokens, and whether it is the right label's; one row at a time, in
    plain Transformers, a neuron switched off by its row of the gate projection. Neurons are taken off until some answers
    are no label: there the labels alone still say one, and its accuracy is another."""
    from transformers import AutoModelForCausalLM

    model, examples = taught
    examples = [dataclasses.replace(e, labels=e.choices) for e in examples]
    examples[0] = dataclasses.replace(examples[0], answer=next(c for c in examples[0].choices if c != "k"))
    layout = gs.sites_of(model)["gate_pre"].layout
    order = torch.randperm(layout.size, generator=torch.Generator().manual_seed(0))
    sets = {str(n): gs.NeuronSet(layout, order[:n], {}) for n in (20, 60, 100, 140)}
    masks = gs.ablate(sets)
    tables = {how: gs.sweep(model, examples, masks, readout=how, progress=False) for how in ("argmax", "label")}
    accuracies, unlabelled = {"argmax": [], "label": []}, 0
    for mask in ("", *masks):
        plain = AutoModelForCausalLM.from_pretrained(model._module.config._name_or_path).eval()
        for layer, indices in sets[mask].indices("gate_pre").items() if mask else ():
            plain.model.layers[layer].mlp.gate_proj.weight.data[indices] = 0
        rows = [row for row in tables["argmax"].rows if row.mask == mask]
        for row, example in zip(rows, examples, strict=True):
            tokenizer = model.tokenizer
            with torch.no_grad():
                best = plain(**tokenizer(gs.data.prompts.asked(example), return_tensors="pt")).logits[0, -1].argmax().item()
            right = best == tokenizer.convert_tokens_to_ids(example.label)
            named = [label for label in example.labels if tokenizer.convert_tokens_to_ids(label) == best]
            assert (row.reading.correct, row.text) == (right, named[0] if named else tokenizer.decode([best]))
            assert row.reading.fallback == (not named) == row.reading.predicted.startswith("no label: ")
            unlabelled += not named
        for how, found in accuracies.items():
            found.append(sum(row.reading.correct for row in tables[how].rows if row.mask == mask))
    assert unlabelled and accuracies["argmax"][0] == 5 and accuracies["argmax"] != accuracies["label"]
    assert all(one <= other for one, other in zip(accuracies["argmax"], accuracies["label"], strict=True))


def test_a_token_that_is_no_label_is_no_answer_and_another_one_is_a_flip(llama, questions):
    """By hand: tokens of the vocabulary, and an id beyond it, which models with a padded embedding have."""
    example, labels = questions[0], [llama.tokenizer.convert_tokens_to_ids(label) for label in LABELS]
    assert next_token(llama, example, labels[1], labels) == ("B", Reading(example.choices[1], False, False))
    assert next_token(llama, example, labels[0], labels) == ("A", Reading(example.choices[0], True, False))
    kite, drum = (llama.tokenizer.convert_tokens_to_ids(token) for token in "kd")
    beyond = len(llama.tokenizer) + 7
    found = [next_token(llama, example, token, labels)[1] for token in (kite, drum, beyond, beyond + 1)]
    assert [reading.predicted for reading in found] == [
        *("no label: k", "no label: d", f"no label: token {beyond}", f"no label: token {beyond + 1}")
    ]
    assert not any(reading.correct for reading in found) and all(reading.fallback for reading in found)


def test_argmax_refuses_labels_of_several_tokens_and_names_what_reads_them(llama):
    with pytest.raises(gs.GatescopeError, match=r"'w0': the label '10' is several tokens .*readout='label', which compares"):
        gs.sweep(llama, [scale(10, "7")], {}, readout="argmax", progress=False)
    with pytest.raises(gs.GatescopeError, match="has no labels, which readout='argmax' needs; 'generate' can read it"):
        gs.sweep(llama, text_examples(each=1), {}, readout="argmax", progress=False)


@pytest.mark.parametrize("readout", ["generate", "label", "argmax", "loglik"])
def test_counting_is_the_same_whatever_the_read_out(taught, readout):
    model, examples = taught
    labelled = [dataclasses.replace(e, labels=e.choices) for e in examples]
    counts = gs.record(model, labelled, readout=readout, progress=False, batch_size=4)
    truth = gs.record(model, labelled, readout="generate", progress=False, batch_size=4)
    assert counts.counted.tolist() == [3, 3] and torch.equal(counts.K, truth.K) and torch.equal(counts.T, truth.T)


def test_likert_answers_are_scored_by_distance():
    """Majority 7 of 1 to 10: furthest is 1, six away. 5 is two away, 10 three; words score 0."""
    from gatescope.traces.readouts.likert import read_likert

    numbers = [str(n) for n in range(1, 11)]
    found = [read_likert(text, numbers, "7") for text in ("7", " 5\n", "10", "seven", "0")]
    assert [r.score for r in found] == pytest.approx([1, 1 - 2 / 6, 1 - 3 / 6, 0, 0])
    assert [r.correct for r in found] == [True, False, False, False, False]
    assert [r.predicted for r in found] == ["7", "5", "10", "seven", "0"]


def test_a_tables_accuracy_is_the_mean_score_where_there_are_scores():
    from gatescope.traces.readouts.likert import read_likert

    def row(number, mask, text):
        return Row(f"w{number}", "north", "CAS" if mask else "", mask, text, read_likert(text, ["1", "2", "3", "4"], "3"))

    table = Table([row(0, "", "3"), row(1, "", "2"), row(0, "north", "1"), row(1, "north", "2")])
    assert table.accuracy().tolist() == [75.0]
    assert table.changes("CAS").tolist() == [[-50.0]] and table.flips("CAS").tolist() == [[50.0]]
    assert Table(Row.parse(r.plain()) for r in table.rows).rows == table.rows


@pytest.mark.parametrize(
    ("readout", "change", "message"),
    [
        ("label", {}, "Example 'x' has no labels, which readout='label' needs; 'generate' can read it"),
        ("likert", {}, "Example 'x' has no choices that are numbers on a scale, which readout='likert' needs"),
        ("likert_label", {"labels": ("A", "B")}, "no choices that are numbers on a scale, which readout='likert_label' needs"),
        ("likert_label", {}, r"Example 'x' has no labels, which readout='likert_label' needs.*labels=\('A', 'B', \.\.\.\)"),
        ("short", {}, "Example 'x' has no accepted answers, which readout='short' needs; 'generate' can read it"),
        ("generate", {"choices": (), "references": ("a",)}, "Example 'x' has no choices, .*; 'short' can read it"),
        ("read", {}, "readout is 'read'; it must be 'generate' or 'short' or"),
    ],
)
def test_an_example_a_read_out_cannot_read_is_refused_before_a_run_is_started(llama, tmp_path, readout, change, message):
    """A run that was started with the wrong read-out would refuse the right one."""
    example = dataclasses.replace(Example("x", "north", "q?", ("a", "b"), "a"), **change)
    options = {"readout": readout, "run": tmp_path / "run", "progress": False}
    with pytest.raises(gs.GatescopeError, match=message):
        gs.sweep(llama, [example], {}, **options)
    with pytest.raises(gs.GatescopeError, match=message):
        gs.record(llama, [example], **options)
    assert not (tmp_path / "run").exists()


def test_passages_are_counted_without_a_question(llama, plain):
    """Every token of the text, none of a template, no BOS; against the model's own activations."""
    texts = ["drums are heard", "the lamp burns by the river"]
    passages = [Example.passage(str(i), "north", text) for i, text in enumerate(texts)]
    counts = gs.record(llama, passages, readout="none", only_correct=False, progress=False)
    assert counts.T.tolist() == [sum(len(tokens_of(plain, text)) for text in texts)]
    model, tokenizer = plain
    fired = torch.zeros(3, 48, dtype=torch.int64)

    def hook(layer):
        def count(_module, _inputs, gate):
            fired[layer] += (gate[0, 1:] > 0).sum(0)  # without the BOS

        return count

    for layer, block in enumerate(model.model.layers):
        block.mlp.act_fn.register_forward_hook(hook(layer))
    for text in texts:
        with torch.no_grad():
            model(**tokenizer(text, return_tensors="pt"))
    assert torch.equal(counts.K[0], fired)


def test_passages_need_the_read_out_none_and_do_not_mix_with_questions(llama):
    passage = Example.passage("p", "north", "drums")
    with pytest.raises(gs.GatescopeError, match="readout='none' reads no answer, so none can be correct"):
        gs.record(llama, [passage], readout="none", progress=False)
    with pytest.raises(gs.GatescopeError, match="has no choices, which readout='generate' needs; 'none' can read it"):
        gs.record(llama, [passage], readout="generate", only_correct=False, progress=False)
    with pytest.raises(gs.GatescopeError, match="Passages and questions cannot be encoded together"):
        gs.record(llama, [passage, *text_examples(each=1)], readout="none", only_correct=False, progress=False)
    with pytest.raises(gs.GatescopeError, match="is a passage: it needs a text"):
        Example.passage("p", "north", "")


def test_examples_are_read_by_what_all_of_them_have_unless_it_is_said(llama, questions):
    read = gs.data.example.readout_of
    bare = [dataclasses.replace(e, labels=()) for e in questions]
    short = [dataclasses.replace(e, references=(e.answer,)) for e in questions]
    assert [read(some) for some in (questions, bare, [*questions, bare[0]], short)] == [
        "label",
        "generate",
        "generate",
        "short",
    ]
    assert read([Example.passage("p", "north", "drums")]) == "none"
    own, said = (gs.sweep(llama, questions, {}, readout=r, progress=False).rows for r in (None, "label"))
    assert own == said and {row.text for row in own} <= set(LABELS)
    counts = gs.record(llama, questions, only_correct=False, progress=False)
    assert counts.provenance["readout"] == "label"


def test_passages_run_no_further_than_the_last_neuron_that_is_read(llama):
    ran = []
    module = llama._module
    handles = [m.register_forward_hook(lambda *_, name=n: ran.append(name)) for n, m in module.named_modules()]
    try:
        gs.record(llama, [Example.passage("p", "north", "drums")], readout="none", only_correct=False, progress=False)
    finally:
        for handle in handles:
            handle.remove()
    assert "model.layers.2.mlp.gate_proj" in ran and "model.layers.2.mlp.down_proj" not in ran and "lm_head" not in ran


@pytest.mark.parametrize("run", ["record", "mean_activation"])
def test_a_pass_that_was_stopped_leaves_nothing_behind(llama, run):
    """Nothing of it waits for the garbage collector: on a GPU that would be a layer's activations for each batch."""
    kept = []
    module = llama._module
    watched = [module.model.layers[1].mlp, module.model.layers[2].mlp.gate_proj]
    handles = [m.register_forward_hook(lambda *a: kept.append(weakref.ref(a[2]))) for m in watched]
    passages = [Example.passage(str(i), "north", "drums") for i in range(3)]
    gc.collect()
    gc.disable()
    try:
        options = {"readout": "none", "only_correct": False} if run == "record" else {}
        getattr(gs, run)(llama, passages, batch_size=1, progress=False, **options)
        assert len(kept) == 2 * len(passages) and all(seen() is None for seen in kept)
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


def test_a_scale_may_begin_at_zero():
    from gatescope.traces.batch import readout_named

    choices = ("0", "1", "2")
    example = Example("x", "north", "How much?", choices, "0", labels=choices)
    for readout in ("likert", "likert_label"):
        readout_named(readout).check(example)


def test_a_short_answer_is_read_in_the_language_of_its_example():
    """A Korean particle is no part of the answer; where no language is said it is English, which has none."""

    def example(**facts):
        return Example("x", "north", "What?", (), "연", references=("연",), prompt="What?", facts=facts)

    read = Short().reading
    assert read("연을", example(language="ko")).correct
    assert not read("연을", example()).correct and read("연", example()).correct
