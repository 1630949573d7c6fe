"""What runs on a remote server: one job, a shard's batches in, sums and answers out.

These functions travel by value, as source text (gatescope.traces.travel), to a server that has torch and nnsight but not
this package. So they take a model and plain data, use nnsight's public face only, and never touch the model's modules or
tokenizer other than through it: NDIF runs a block in a process that has no weights and may have no tokenizer.

A job is a dict: "task", "batches", and what the task needs. A place is a module's path, "input" or "output", and the
columns of its last axis that the neurons are: None for all, a pair (start, stop), or a list. An answer to a batch is the
generated ids [b, t], each row's most probable next token [b], for each row the log-probabilities of its options, or None.
Axes: b batch, s sequence, l layer, n neuron, g group, c class of tokens.
"""

from __future__ import annotations

import re

import torch

from gatescope.kernels.change import change
from gatescope.kernels.eager import attribution, count_classes
from gatescope.traces.forced import answer_logs
from gatescope.traces.readouts.options import best


def run(model, job: dict) -> dict:
    """Run a job. What comes back does not grow with the number of tokens in the prompts."""
    return {"record": record, "attribute": attribute, "sweep": sweep}[job["task"]](model, job)


def record(model, job: dict) -> dict:
    """K int64 and S float64 [c, g, l, n], T int64 [c, g], examples seen and counted int64 [g]; and the answers.

    Which answers are right is decided here where that can be; else ("undecided") only the answers go back, and a second
    job says which rows to count.
    """
    decides = job["decides"]
    if decides == "text" and model.tokenizer is None:
        decides = "client"
    classes, groups, layers, width = job["shape"]
    K, S = (torch.zeros(classes, groups, layers, width, dtype=kind) for kind in (torch.int64, torch.float64))
    T = torch.zeros(classes, groups, dtype=torch.int64)
    seen, counted = torch.zeros(groups, dtype=torch.int64), torch.zeros(groups, dtype=torch.int64)
    answers, dtype = [], []
    for batch in job["batches"]:
        inputs = batch["inputs"]
        if decides == "client":
            answers.append(ask(model, job, batch, inputs, [], dtype))
            continue
        found, tokens, answer = count_batch(model, job, batch, inputs, dtype)
        answers.append(answer)
        counts = right(model, decides, batch, answer)
        for g in range(groups):
            mine = batch["group"] == g
            use = mine & counts
            seen[g] += mine.sum()
            counted[g] += use.sum()
            if not use.any():
                continue
            for c in range(classes):
                T[c, g] += tokens[c][use].sum()
                for layer, (fired, summed) in enumerate(found[c]):
                    kept = use.to(fired.device)
                    K[c, g, layer] += fired[kept].sum(0).cpu()
                    S[c, g, layer] += summed[kept].sum(0, dtype=torch.float64).cpu()
    if decides == "client":
        return {"undecided": True, "answers": answers, "dtype": dtype[0] if dtype else None}
    return {"K": K, "S": S, "T": T, "seen": seen, "counted": counted, "answers": answers, "dtype": dtype[0]}


def count_batch(model, job: dict, batch: dict, inputs: dict, dtype: list) -> tuple:
    """One batch: each class's (K, S) [b, n] a layer, each class's tokens [b], and the answer."""
    masks = batch["masks"]
    found, tokens = [[] for _ in range(len(masks))], list(masks.sum(2))
    later, fed = [], [torch.zeros(len(batch["group"]), dtype=torch.int64)]
    if batch["way"] != "generate":
        with torch.no_grad(), model.trace(**inputs, **batch["options"]):
            count_layers(model, job["places"], masks, found, dtype)
            logits = model.output.logits[:, -1].float().cpu()
        return found, tokens, read_options(model, batch, logits, [], dtype)
    with model.generate(**job["generation"]) as tracer:
        with tracer.invoke(**inputs):
            count_layers(model, job["places"] if len(masks) else job["places"][:1], masks, found, dtype)
        if job["generated"]:
            with tracer.invoke():
                for _ in tracer.iter[1:]:
                    count_step(model, job, fed, later)
        with tracer.invoke():
            ids = tracer.result
    if job["generated"]:
        # A run that ended with its first token has no later step.
        nothing = torch.zeros(len(fed[0]), job["shape"][3])
        found.append(later or [(nothing.long(), nothing)] * job["shape"][2])
        tokens.append(fed[0])
    return found, tokens, new_tokens(ids, inputs)


def ask(model, job: dict, batch: dict, inputs: dict, mask: list, dtype: list):
    """One batch's answer under a mask, held at the prompt and at every generated token; an empty one changes nothing."""
    if batch["way"] != "generate":
        logits = None
        if batch["way"] in ("next", "argmax"):
            with torch.no_grad(), model.trace(**inputs, **batch["options"]):
                change_all(model, mask, dtype)
                logits = model.output.logits[:, -1].float().cpu()
        return read_options(model, batch, logits, mask, dtype)
    with model.generate(**job["generation"]) as tracer:
        with tracer.invoke(**inputs):
            if mask:
                for _ in tracer.iter[:]:
                    change_all(model, mask, dtype)
        with tracer.invoke():
            ids = tracer.result
    return new_tokens(ids, inputs)


def read_options(model, batch: dict, logits, mask: list, dtype: list):
    """For each row the log-probabilities of its options [o]: of the next token, or of whole texts put to the model; or the
    most probable token of all [b].
    """
    if batch["way"] == "none":
        return None
    if batch["way"] == "argmax":
        return logits.argmax(-1).to(torch.int32)
    if batch["way"] == "next":
        rows = zip(logits.log_softmax(-1), batch["tokens"], strict=True)
        return [row[torch.tensor(each).flatten()] for row, each in rows]
    logs = []
    for chunk in batch["chunks"]:
        keep = max(map(len, chunk["forced"]))
        with torch.no_grad(), model.trace(**chunk["inputs"], **chunk["options"]):
            change_all(model, mask, dtype)
            found = answer_logs(model.output.logits[:, -keep:], chunk["forced"]).cpu()
        logs.append(found)
    return list(torch.cat(logs).split([len(each) for each in batch["tokens"]]))


def count_layers(model, places: list, masks: torch.Tensor, found: list, dtype: list) -> None:
    """Inside a trace: every layer's K and S [b, n] in every class of masks [c, b, s], appended to `found[c]`."""
    for place in places:
        gate = part(by_token(read(model, place), masks.shape[1:]), place)
        note(gate, dtype)
        if len(masks):
            fired, summed = count_classes(gate, masks.to(gate.device))
            for c in range(len(masks)):
                found[c].append((fired[c], summed[c]))


def count_step(model, job: dict, tokens: list, layers: list) -> None:
    """Inside a trace, at a step after the prefill: K and S of rows whose last token is content, added to `layers`."""
    ids = model.inputs[1]["input_ids"]  # not the embedding's, which Chameleon also gives its pictures' tokens
    fed = ~torch.isin(ids, job["markers"].to(ids.device))
    tokens[0] = tokens[0] + fed.sum(1).cpu()
    found = []
    for place in job["places"]:
        fired, summed = count_classes(part(by_token(read(model, place), fed.shape), place), fed[None])
        found.append((fired[0], summed[0]))
    layers[:] = [(k + k0, s + s0) for (k, s), (k0, s0) in zip(found, layers, strict=True)] if layers else found


def attribute(model, job: dict) -> dict:
    """Sums over examples of P(y|x) times the reduced score, float64 [g, n], plain and clamped at 0; examples seen [g]."""
    groups, width = job["shape"]
    sums, clamped = (torch.zeros(groups, width, dtype=torch.float64) for _ in range(2))
    seen, dtype = torch.zeros(groups, dtype=torch.int64), []
    for batch in job["batches"]:
        scores, probability = score_batch(model, job, batch, batch["inputs"], dtype)
        weighted = (scores * probability[:, None]).double().cpu()
        for row, group in enumerate(batch["group"].tolist()):
            sums[group] += weighted[row]
            clamped[group] += weighted[row].clamp(min=0)
            seen[group] += 1
    return {"sums": sums, "clamped": clamped, "seen": seen, "dtype": dtype[0]}


def score_batch(model, job: dict, batch: dict, inputs: dict, dtype: list) -> tuple:
    """Reduced scores [b, n] over all places one after the other, and P(y|x) [b]."""
    real, answers = batch["real"], batch["answers"]
    how = "sum" if job["reduce"] == "norm" else job["reduce"]
    keep = max(map(len, answers))
    with torch.enable_grad(), model.trace(**inputs, **batch["options"]):
        read(model, job["embedding"]).requires_grad_(True)
        whole = {(path, io): read(model, (path, io, None)) for path, io in job["order"]}
        probability = answer_logs(model.output.logits[:, -keep:], answers).exp()
        gradients = dict(zip(whole, torch.autograd.grad(probability.sum(), list(whole.values())), strict=True))
        scores = []
        for place, projection in job["places"]:
            activation = part(by_token(whole[place[0], place[1]].detach(), real.shape), place)
            gradient = part(by_token(gradients[place[0], place[1]], real.shape), place)
            note(activation, dtype)
            if projection is not None:
                activation = activation - bias(model, projection, activation)
            scored = attribution(activation, gradient, real.to(activation.device), how, job["pad_zero"])
            scores.append(scored.to(probability.device))
        scores = torch.cat(scores, 1)
        probability = probability.detach()
    return scores, probability


def bias(model, projection: tuple, like: torch.Tensor) -> torch.Tensor:
    """A projection's bias: what it makes of zeros. Its weights may be in another process than this code."""
    path, inputs, columns = projection
    made = model.get(path)(torch.zeros(1, 1, inputs, dtype=like.dtype, device=like.device))
    return part(made.detach(), (path, "output", columns))


def sweep(model, job: dict) -> dict:
    """The answers to every batch under every mask: `answers[mask][batch]`."""
    answers, dtype = [[] for _ in job["masks"]], []
    for batch in job["batches"]:
        inputs = batch["inputs"]
        for which, mask in enumerate(job["masks"]):
            answers[which].append(ask(model, job, batch, inputs, mask, dtype))
    return {"answers": answers, "dtype": dtype[0] if dtype else None}


def hold(model, mask: list) -> None:
    """Inside an edit: change a mask's neurons at every step of every run to come."""
    from nnsight.intervention.interleaver import OutOfOrderError
    from nnsight.intervention.iterator import Iterations

    try:
        for _ in Iterations()[:]:
            change_all(model, mask, [])
    except OutOfOrderError:  # the run ends by not making another step
        pass


def carried(mask: list):
    """A function that changes a mask's neurons where it is called, inside a trace."""

    def off(model) -> None:
        change_all(model, mask, [])

    return off


def change_all(model, mask: list, dtype: list) -> None:
    """Inside a trace: change a mask's neurons, layer by layer, in the order in which the model reaches them."""
    for path, io, columns, kind, values in mask:
        activation = read(model, (path, io, None))
        note(activation, dtype)
        changed = change(activation, columns.to(activation.device), kind, values.to(activation))
        envoy = model.get(path)
        if io == "input":
            envoy.input = changed
        else:
            envoy.output = changed


def read(model, place: tuple):
    """Inside a trace: a module's input or output; an error that names the module if the model does not get there."""
    from nnsight.intervention.interleaver import Mediator, OutOfOrderError

    envoy = model.get(place[0])
    try:
        return envoy.input if place[1] == "input" else envoy.output
    except OutOfOrderError:
        # A run ends so by making no other step, or by being stopped before it has a result (see gatescope.traces.workers).
        worker = Mediator.current("read")
        if worker.iteration not in (0, None) or not worker.occurrence("result"):
            raise
        raise unreached(place[0]) from None


def unreached(path: str) -> Exception:
    """What to raise where a module did not run in a step; gatescope's own error where there is gatescope."""
    said = (
        f"{path} did not run where it was waited for, so what was to be read or changed there was not. The model may run it "
        f"for some inputs only, as Llama 3.2 Vision does its cross-attention layers, which run where there is a picture: leave "
        f"its neurons out, or give pictures."
    )
    try:
        from gatescope.core.errors import GatescopeError
    except ImportError:  # on a server
        return RuntimeError(said)
    return GatescopeError(said)


def part(whole: torch.Tensor, place: tuple) -> torch.Tensor:
    """The neurons of a place [..., n] out of the module's tensor."""
    columns = place[2]
    if columns is None:
        return whole
    if isinstance(columns, tuple):
        return whole[..., columns[0] : columns[1]]
    return whole[..., torch.tensor(columns, device=whole.device)]


def by_token(activation: torch.Tensor, shape: tuple) -> torch.Tensor:
    """The activation as [b, s, n]; OPT's MLP sees the tokens of all rows as one list."""
    return activation if activation.ndim == 3 else activation.unflatten(0, tuple(shape))


def note(activation: torch.Tensor, dtype: list) -> None:
    """Remember what the server computes in."""
    dtype[:] = [str(activation.dtype).replace("torch.", "")]


def new_tokens(ids: torch.Tensor, inputs: dict) -> torch.Tensor:
    """The generated ids [b, t] without the prompt."""
    return ids[:, inputs["input_ids"].shape[1] :].to(torch.int32).cpu()


def right(model, decides: str, batch: dict, answer) -> torch.Tensor:
    """Which rows count, bool [b]: those the client named, all, or those answered correctly."""
    if decides == "given":
        return batch["use"]
    if decides == "all":
        return torch.ones(len(batch["group"]), dtype=torch.bool)
    if decides == "token":
        return answer == batch["right"]
    if decides == "option":
        rows = zip(answer, batch["tokens"], batch["right"], strict=True)
        return torch.tensor([each[best(logs, tokens, batch["how"])] for logs, tokens, each in rows])
    texts = model.tokenizer.batch_decode(answer.tolist(), skip_special_tokens=True)
    rows = zip(texts, batch["choices"], batch["answer"], strict=True)
    return torch.tensor([read_answer(text, choices, truth)[1] for text, choices, truth in rows])


def read_answer(text: str, choices: list, answer: str) -> tuple:
    """Algorithm 1 (gatescope.core.answers): the choice read, whether it is right, whether no choice occurred."""
    text, truth = normalise(text), normalise(answer)
    last, found = -1, None
    for choice in [normalise(choice) for choice in choices]:
        for match in re.finditer(rf"(?<!\w){re.escape(choice)}(?!\w)", text):
            if match.start() > last:
                last, found = match.start(), choice
    if found is not None:
        return found, found == truth, False
    return (truth, True, True) if truth and truth in text else (text, False, True)


def normalise(text: str) -> str:
    """Lowercase, collapse white space, trim."""
    return " ".join(text.lower().split())
