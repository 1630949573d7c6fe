"""Sweep: answer the same questions with the full model and under every intervention.

Masks go side by side: a batch's rows are put to the model several times at once, each time under another mask, and a
picture's features are computed once for all of them. The answers are those of one mask at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatescope.core.answers import Reading
from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.data.example import Example, fingerprint, listed, readout_of
from gatescope.interventions.value import Intervention
from gatescope.models.load import identity, versions
from gatescope.statistics.table import ALL, FULL, Row, Table
from gatescope.steps.plan import backing_off, plan, prepared
from gatescope.steps.run import Run
from gatescope.steps.shards import Shards, first
from gatescope.traces import vision
from gatescope.traces.encoding import Batch, collate
from gatescope.traces.generate import ask

Interventions = Mapping[str, Intervention] | Mapping[str, Mapping[str, Intervention]]
Answer = tuple[str, Reading]
Masks = Sequence[Intervention | None]
ROWS = {"cpu": 64, "cuda": 256}  # at most so many rows side by side, unless a batch alone has more


def sweep(
    model,
    examples: Sequence[Example],
    interventions: Interventions,
    *,
    run: str | Path | Run | None = None,
    name: str = "",
    batch_size: int | str = 16,
    shard_size: int = 256,
    together: int | None = None,
    readout: str | None = None,
    max_new_tokens: int = 20,
    workers: int = 0,
    remote: Any = None,
    progress: bool = True,
) -> Table:
    """Generate every example's answer with the full model and under each intervention.

    Interventions that are equal are run once; a selector whose masks are all the same (RND) has one, named "*". One that
    changes no neuron has the full model's answers.

    Args:
        model: from `load_model`; without weights if the work is done remotely.
        examples: what to ask.
        interventions: by the group the neurons were found on, or by selector and then by group.
        run: directory for shards, answers and manifest. What is done there already is not done again.
        name: of this sweep in the run, where it has several.
        batch_size, shard_size, workers, remote: as for `record`.
        together: masks side by side in one batch; as many as fit well if None, 1 for one at a time.
        readout: how an answer is read (see `gatescope.traces.generate`): "generate", "label", "loglik", "short", ...; None takes
            what fits the examples, as for `record`.
        max_new_tokens: at most this many tokens an answer (the paper: 20).
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        The table of answers.

    Raises:
        GatescopeError: without examples, if neurons belong to another model, or if `run` was begun with something else.
    """
    readout = readout or readout_of(listed(examples))
    if not examples:
        raise GatescopeError("A sweep needs examples; there are none.")
    if together is not None and together < 1:
        raise GatescopeError(f"together is {together}; at least one mask must be run at a time.")
    named = _by_selector(interventions)
    masks: list[Intervention | None] = list(
        dict.fromkeys([None, *(_touching(m) for ms in named.values() for m in ms.values())])
    )
    for mask in masks:
        if mask is not None:
            mask.targets(model)

    def planned() -> list[list[list[int]]]:
        return plan(model, examples, batch_size, shard_size)

    directory = shards = None
    step = f"sweep of {name}" if name else "sweep"
    if run is not None:
        directory = Run.at(run, identity(model))
        facts = {"fingerprint": fingerprint(examples), "readout": readout, "max_new_tokens": max_new_tokens}
        facts |= {"masks": {f"{s}/{g}": mask.digest() for s, ms in named.items() for g, mask in ms.items()}}
        facts |= {"versions": versions(), "examples": len(examples)}
        shards, batches = Shards.start(directory, step, facts, [e.id for e in examples], planned)
        todo = shards.open() if remote is None else iter(shards.missing)
    else:
        batches = planned()
        todo = iter(range(len(batches)))
    answers: dict[int, list[list[Answer]]] = {}
    with bar(len(examples) * len(masks), "sweeping", "answers", show=progress and first()) as shown:
        if remote is None:
            how = {"readout": readout, "max_new_tokens": max_new_tokens}
            found = _local(model, examples, batches, todo, masks, together, workers, how, shown.update)
        else:
            from gatescope.steps.remote.sweep import sweep_shards

            jobs = {index: [[examples[i] for i in batch] for batch in batches[index]] for index in todo}
            ledger = None if directory is None else directory.path / f"jobs.{step.replace(' ', '-')}.json"
            settings = {"readout": readout, "max_new_tokens": max_new_tokens, "remote": remote, "ledger": ledger}
            found = sweep_shards(model, jobs, masks, **settings)
        for index, under in found:
            if remote is not None:
                shown.update(sum(map(len, under)))
            if shards is None:
                answers[index] = under
            else:
                shards.save(index, {}, {"answers": [[_plain(answer) for answer in rows] for rows in under]})
    if shards is not None:
        answers = {i: [[_parse(a) for a in rows] for rows in more["answers"]] for i, (_, more) in enumerate(shards.all())}
    table = _table(examples, batches, answers, masks, named)
    if directory is not None:
        directory.add_answers(table, name)
    return table


def _local(
    model,
    examples: Sequence[Example],
    batches: Sequence[Sequence[Sequence[int]]],
    todo: Iterator[int],
    masks: Masks,
    together: int | None,
    workers: int,
    how: Mapping[str, Any],
    done: Callable[[int], Any],
) -> Iterator[tuple[int, list[list[Answer]]]]:
    for index in todo:
        under: list[list[Answer]] = [[] for _ in masks]
        planned = [[examples[i] for i in batch] for batch in batches[index]]
        for places, batch in zip(batches[index], prepared(model, planned, workers), strict=True):
            ready = [batch]

            def work(some: Sequence[int], ready=ready) -> list[list[Answer]]:
                encoded = ready.pop() if ready else collate(model, [examples[i] for i in some]).to(model._module.device)
                return _all_masks(model, encoded, masks, together, how)

            for part in backing_off(work, places, lambda i: examples[i].id):
                for mine, more in zip(under, part, strict=True):
                    mine += more
            done(len(places) * len(masks))
        yield index, under


def _all_masks(model, batch: Batch, masks: Masks, together: int | None, how: Mapping[str, Any]) -> list[list[Answer]]:
    """A batch's answers under every mask."""
    rows = len(batch.examples)
    most = together or max(1, ROWS.get(model._module.device.type, 64) // rows)
    pictures = vision.features(model, batch) if len(masks) > 1 else None

    def some(side: Masks) -> list[list[Answer]]:
        answered, _ = ask(model, vision.repeated(batch, len(side), pictures), masks=side, **how)
        return [answered[start : start + rows] for start in range(0, len(answered), rows)]

    pieces = [masks[start : start + most] for start in range(0, len(masks), most)]
    return [answers for piece in pieces for part in backing_off(some, piece, last=None) for answers in part]


def _table(
    examples: Sequence[Example],
    batches: Sequence[Sequence[Sequence[int]]],
    answers: Mapping[int, list[list[Answer]]],
    masks: Masks,
    named: Mapping[str, Mapping[str, Intervention]],
) -> Table:
    """The answers in the order of the examples, whatever order they were asked in."""
    order = [
        (place, index, row) for index, shard in enumerate(batches) for row, place in enumerate(i for b in shard for i in b)
    ]
    order.sort()
    keys: dict[tuple[str, str], Intervention | None] = {FULL: None}
    keys |= {(selector, group): _touching(mask) for selector, ms in named.items() for group, mask in ms.items()}
    return Table(
        Row(examples[place].id, examples[place].group, *key, *answers[index][which][row])
        for key, mask in keys.items()
        for which in [masks.index(mask)]
        for place, index, row in order
    )


def _touching(mask: Intervention) -> Intervention | None:
    return mask if len(mask.neurons) else None


def _plain(answer: Answer) -> list:
    text, reading = answer
    return [text, reading.predicted, reading.correct, reading.fallback, reading.score]


def _parse(plain: Sequence) -> Answer:
    return plain[0], Reading(*plain[1:])


def _by_selector(interventions: Interventions) -> dict[str, dict[str, Intervention]]:
    for key, value in interventions.items():
        for of, mask in value.items() if isinstance(value, Mapping) else ((key, value),):
            if not isinstance(mask, Intervention):
                raise GatescopeError(
                    f"What is to be done under {of!r} is a {type(mask).__name__}, no intervention. Neurons are switched off by "
                    f"{{group: gs.ablate(neurons) for group, neurons in selection.items()}}."
                )
    flat = {k: v for k, v in interventions.items() if isinstance(v, Intervention)}
    named = {k: dict(v) for k, v in interventions.items() if not isinstance(v, Intervention)} | ({"mask": flat} if flat else {})
    return {k: {ALL: next(iter(m.values()))} if len(m) > 1 and len(set(m.values())) == 1 else m for k, m in named.items()}
