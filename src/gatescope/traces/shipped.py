"""What runs on a remote server: one job, a shard's batches in, sums and answers out.

These functions travel by value, as source text (gatescope.traces.travel), to a server that has torch and nnsight but not
this package; so do those of the modules imported here, which are what local steps call too. They take a model and plain
data (see gatescope.traces.jobs), and never touch the model's modules or tokenizer other than through it: NDIF runs a block
in a process that has no weights and may have no tokenizer. For the same reason generation is cut into invokes, nnsight's
public way, where a local run starts workers.

Axes: b batch, s sequence, n neuron of a layer, N of all layers one after the other, g group, c class of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import nnsight
import torch
from nnsight import TransformersModel
from torch import Tensor

from gatescope.core.answers import read_choice
from gatescope.kernels.eager import attribution, count_classes
from gatescope.traces.access import change_all
from gatescope.traces.counting import count_prompt, count_step, group_sums, no_counts
from gatescope.traces.holes import most_probable, no_number, with_holes
from gatescope.traces.likelihood import forced_logprobs, next_logits, option_logprobs
from gatescope.traces.readouts.options import best
from gatescope.traces.scoring import add_scores, score_batch
from gatescope.traces.workers import every_step

if TYPE_CHECKING:
    from gatescope.traces.counting import Layers
    from gatescope.traces.jobs import Asked, AttributeJob, Job, MaskRow, RecordJob, SweepJob


def run(model: TransformersModel, job: Job) -> dict[str, Any]:
    """Run a job. What comes back says whose it is, and does not grow with the number of tokens in the prompts."""
    result = {"record": record, "attribute": attribute, "sweep": sweep}[job["task"]](model, job)
    return {**result, "of": job["of"]}


def record(model: TransformersModel, job: RecordJob) -> dict[str, Any]:
    """K int64 and S float64 [c, g, N], T int64 [c, g], examples seen and counted int64 [g]; and the answers.

    Which answers are right is decided here where that can be; else ("undecided") only the answers go back, and a second
    job says which rows to count.
    """
    # NDIF may have no tokenizer where this runs; then a generated text cannot be read here.
    decides = "client" if job["decides"] == "text" and model.tokenizer is None else job["decides"]
    if decides == "client":
        return {"undecided": True, "answers": [run_batch(model, job, batch, []) for batch in job["batches"]]}
    groups = job["groups"]
    K = torch.zeros(job["classes"], groups, sum(job["widths"]), dtype=torch.int64)
    S = torch.zeros(K.shape, dtype=torch.float64)
    T = torch.zeros(job["classes"], groups, dtype=torch.int64)
    seen, counted = torch.zeros(groups, dtype=torch.int64), torch.zeros(groups, dtype=torch.int64)
    answers, dtype = [], ""
    for batch in job["batches"]:
        classes, tokens, answer, dtype = count_batch(model, job, batch)
        answers.append(answer)
        use = right(model, decides, batch, answer)
        # Every example is seen; only those whose answer counts are counted.
        seen += batch["group"].bincount(minlength=groups)
        counted += batch["group"][use].bincount(minlength=groups)
        for kind, group, tokens_counted, fired, summed in group_sums(classes, tokens, batch["group"], use):
            T[kind, group] += tokens_counted
            K[kind, group] += fired
            S[kind, group] += summed
    return {"K": K, "S": S, "T": T, "seen": seen, "counted": counted, "answers": answers, "dtype": dtype}


def count_batch(model: TransformersModel, job: RecordJob, batch: Asked) -> tuple[list[Layers], list[Tensor], Any, str]:
    """One batch: each class's counts and tokens [b], the answer, and the dtype of what was counted."""
    locations, masks = job["places"], batch["masks"]
    tokens = list(masks.sum(2))

    def prompt() -> tuple[list[Layers], str]:
        return count_prompt(model, locations, masks, count_classes)

    if batch["way"] != "generate":
        logits, (classes, dtype) = next_logits(model, batch["inputs"], batch["options"], prompt)
        return classes, tokens, read_options(model, batch, logits, []), dtype
    fed, later = torch.zeros(len(batch["group"]), dtype=torch.int64), []

    def step() -> None:
        count_step(model, locations, job["markers"], count_classes, fed, later)

    counting = step if job["generated"] else None
    ids, (classes, dtype) = generate(model, batch["inputs"], job["generation"], prompt, counting)
    if job["generated"]:
        # A run may end with its first token; then no later step has counted anything.
        classes.append(later or no_counts(len(fed), job["widths"]))
        tokens.append(fed)
    return classes, tokens, ids, dtype


def run_batch(model: TransformersModel, job: RecordJob | SweepJob, batch: Asked, mask: list[MaskRow]) -> Any:
    """One batch's answer under a mask, held at the prompt and at every generated token; an empty one changes nothing."""
    if batch["way"] == "generate":
        return generate(model, batch["inputs"], job["generation"], lambda: hold(model, mask) if mask else None)[0]
    logits = None
    if batch["way"] in ("next", "argmax"):
        logits, _ = next_logits(model, batch["inputs"], batch["options"], lambda: change_all(model, mask, {}))
    return read_options(model, batch, logits, mask)


def generate(
    model: TransformersModel,
    inputs: dict[str, Tensor],
    settings: dict[str, Any],
    prompt: Callable[[], Any],
    step: Callable[[], None] | None = None,
) -> tuple[Tensor, Any]:
    """The generated ids [b, t] without the prompt; `prompt` is called once, `step` at every step after the prefill."""
    failed = []
    with model.generate(**settings) as tracer:
        with tracer.invoke(**inputs):
            returned = nnsight.save(prompt())
        # An invoke of no input is given the rows of the whole batch; a second block cannot hold the first one up.
        if step is not None:
            with tracer.invoke():
                every_step(step, start=1)
        with tracer.invoke():
            every_step(lambda: failed.append(no_number(model.output.logits[:, -1])))
        with tracer.invoke():
            ids = nnsight.save(tracer.result)
    answers = with_holes(ids[:, inputs["input_ids"].shape[1] :], failed, settings["pad_token_id"])
    # int32 halves what travels back, and no vocabulary is that large.
    return answers.to(torch.int32).cpu(), returned


def read_options(model: TransformersModel, batch: Asked, logits: Tensor | None, mask: list[MaskRow]) -> Any:
    """For each row the log-probabilities of its options [o]: of the next token, or of whole texts put to the model; or the
    most probable token of all [b].
    """
    if batch["way"] == "none":
        return None
    if logits is None:  # whole texts are put to the model
        logprobs = [forced_logprobs(model, chunk, lambda: change_all(model, mask, {})) for chunk in batch["chunks"]]
        return list(torch.cat(logprobs).split([len(options) for options in batch["tokens"]]))
    if batch["way"] == "argmax":
        return most_probable(logits).to(torch.int32)
    return option_logprobs(logits, batch["tokens"])


def attribute(model: TransformersModel, job: AttributeJob) -> dict[str, Any]:
    """Sums over examples of P(y|x) times the reduced score, float64 [g, n], plain and clamped at 0; examples seen [g]."""
    sums = torch.zeros(job["groups"], job["width"], dtype=torch.float64)
    clamped, seen = torch.zeros_like(sums), torch.zeros(job["groups"], dtype=torch.int64)
    dtype = ""
    for batch in job["batches"]:
        scores, probability, dtype = score_batch(model, job, batch, attribution)
        # P(y|x) weights each example, as in CULNIG: what the model is sure of counts more.
        add_scores((scores * probability[:, None]).cpu(), batch["group"], sums, clamped, seen)
    return {"sums": sums, "clamped": clamped, "seen": seen, "dtype": dtype}


def sweep(model: TransformersModel, job: SweepJob) -> dict[str, Any]:
    """The answers to every batch under every mask, `answers[mask][batch]`; and the dtype of the model."""
    answers = [[] for _ in job["masks"]]
    for batch in job["batches"]:
        for of_mask, mask in zip(answers, job["masks"], strict=True):
            of_mask.append(run_batch(model, job, batch, mask))
    return {"answers": answers, "dtype": str(model.dtype).replace("torch.", "")}


def hold(model: TransformersModel, mask: list[MaskRow]) -> None:
    """Inside a trace or an edit: change a mask's neurons at every step of the run, or of every run to come."""
    moved = {}
    every_step(lambda: change_all(model, mask, moved))


def carried(mask: list[MaskRow]) -> Callable[[TransformersModel], None]:
    """A function that changes a mask's neurons where it is called, inside a trace."""

    def off(model: TransformersModel) -> None:
        change_all(model, mask, {})

    return off


def right(model: TransformersModel, decides: str, batch: Asked, answer: Any) -> Tensor:
    """Which rows count, bool [b]: those the client named, all, or those answered correctly."""
    if decides == "given":
        return batch["use"]
    if decides == "all":
        return torch.ones(len(batch["group"]), dtype=torch.bool)
    if decides == "token":
        return answer == batch["right"]
    if decides == "option":
        rows = zip(answer, batch["tokens"], batch["right"], strict=True)
        return torch.tensor([correct[best(logprobs, tokens, batch["how"])] for logprobs, tokens, correct in rows])
    # Algorithm 1 travels too, so that the server reads a text just as the client does.
    texts = model.tokenizer.batch_decode(answer.clamp(min=0).tolist(), skip_special_tokens=True)
    rows = zip(texts, batch["choices"], batch["answer"], strict=True)
    return torch.tensor([read_choice(text, choices, truth)[1] for text, choices, truth in rows])
