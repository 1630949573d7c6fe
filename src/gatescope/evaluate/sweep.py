"""Sweep: answer the same questions with the full model and under every intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gatescope.batches import collate
from gatescope.data.example import Example, fingerprint
from gatescope.errors import GatescopeError
from gatescope.evaluate.answers import Reading
from gatescope.evaluate.table import ALL, FULL, Row, Table
from gatescope.generate import ask
from gatescope.intervene import Intervention
from gatescope.models import identity
from gatescope.progress import bar
from gatescope.runs import Run

Interventions = Mapping[str, Intervention] | Mapping[str, Mapping[str, Intervention]]


def sweep(
    model,
    examples: Sequence[Example],
    interventions: Interventions,
    *,
    run: str | Path | Run | None = None,
    batch_size: int = 16,
    readout: str = "generate",
    max_new_tokens: int = 20,
    progress: bool = True,
) -> Table:
    """Generate every example's answer with the full model and under each intervention.

    Interventions that are equal are run once; a selector whose masks are all the same (RND) has one, named "*".

    Args:
        model: from `load_model`.
        examples: what to ask.
        interventions: by the group the neurons were found on, or by selector and then by group.
        run: directory to write the answers to.
        batch_size: examples a batch.
        readout: how an answer is read: generated text, or the most probable label.
        max_new_tokens: at most this many tokens an answer (the paper: 20).
        progress: show a bar if it takes longer than a few seconds.

    Returns:
        The table of answers.

    Raises:
        GatescopeError: without examples, or if neurons belong to another model.
    """
    if not examples:
        raise GatescopeError("A sweep needs examples; there are none.")
    named = _by_selector(interventions)
    unique: list[Intervention | None] = [None, *dict.fromkeys(i for masks in named.values() for i in masks.values())]
    readings: dict[Intervention | None, list[tuple[str, Reading]]] = {mask: [] for mask in unique}
    with bar(len(examples) * len(unique), "sweeping", "answers", show=progress) as shown:
        for start in range(0, len(examples), batch_size):
            batch = collate(model, examples[start : start + batch_size])
            for mask in unique:
                inside = partial(mask.apply, model) if mask is not None else lambda: None
                answered, _ = ask(model, batch, inside, readout=readout, max_new_tokens=max_new_tokens)
                readings[mask] += answered
                shown.update(len(answered))
    keys = {FULL: None} | {(selector, group): mask for selector, masks in named.items() for group, mask in masks.items()}
    table = Table(
        Row(e.id, e.group, *key, text, reading)
        for key, mask in keys.items()
        for e, (text, reading) in zip(examples, readings[mask], strict=True)
    )
    if run is not None:
        facts = {"examples": len(examples), "fingerprint": fingerprint(examples), "batch_size": batch_size}
        facts |= {
            "readout": readout,
            "max_new_tokens": max_new_tokens,
            "masks": [f"{s}/{g}" for s, m in named.items() for g in m],
        }
        Run.at(run, identity(model)).add_answers(table, facts)
    return table


def _by_selector(interventions: Interventions) -> dict[str, dict[str, Intervention]]:
    flat = {k: v for k, v in interventions.items() if isinstance(v, Intervention)}
    named = {k: dict(v) for k, v in interventions.items() if not isinstance(v, Intervention)} | ({"mask": flat} if flat else {})
    return {k: {ALL: next(iter(m.values()))} if len(m) > 1 and len(set(m.values())) == 1 else m for k, m in named.items()}
