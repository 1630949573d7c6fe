"""lm-eval: the tasks of EleutherAI's evaluation harness, put to the model under an intervention.

    before = evaluate(model, None, ["hellaswag"])
    after = evaluate(model, gs.ablate(neurons), ["hellaswag"])
    after["results"]["hellaswag"]["acc,none"]

The intervention is baked into the weights for as long as the tasks run, and the harness is given the plain Hugging Face
module. What it scores is what `sweep(readout="loglik")` scores where both are asked the same: the log-likelihood of each
choice's tokens after the prompt, the best of them being the answer ("acc"). They differ where a task makes them differ:
it puts a `target_delimiter` (a space, if it names none) before each choice; it encodes prompt and choice together and cuts
at the prompt's length, which moves a trailing space of the prompt to the choice and may join tokens across the seam;
"acc_norm" divides by the choice's bytes, `readout="loglik_mean"` by its tokens; and no chat template is applied unless asked.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nnsight

from gatescope.core.errors import GatescopeError
from gatescope.interventions.bake import baked
from gatescope.interventions.intervention import Intervention
from gatescope.models.identity import identity


def evaluate(
    model: nnsight.TransformersModel,
    intervention: Intervention | None,
    tasks: Sequence[str | Mapping[str, Any]],
    *,
    include_path: str | Path | Sequence[str | Path] | None = None,
    only_included: bool = False,
    batch_size: int = 16,
    **more: Any,
) -> dict[str, Any]:
    """Run tasks of lm-eval on a model under an intervention.

    Args:
        model: from `load_model`.
        intervention: one that can be baked (see `gatescope.interventions.bake`), or None for the full model.
        tasks: names of tasks, or tasks written out as dicts.
        include_path: directories of task files of your own.
        only_included: know those alone; the harness's own, some ten thousand, take seconds to list.
        batch_size: requests a batch.
        more: handed to `lm_eval.simple_evaluate`: limit, num_fewshot, apply_chat_template, log_samples, ...

    Returns:
        What `lm_eval.simple_evaluate` returns ("results", "samples", "versions", ...), with "gatescope" added: the
        model's identity and the intervention.

    Raises:
        GatescopeError: if lm-eval is not installed, a task is unknown, there is none, or the intervention cannot be
            baked.
    """
    harness, wrapper, manager = _harness()
    if not tasks:
        raise GatescopeError("No task was given; `lm-eval ls tasks` lists the tasks.")
    paths = _directories(include_path)
    known = manager(include_path=paths or None, include_defaults=not only_included)
    _check_known(tasks, known, only_included)
    before = identity(model)  # baked weights have another digest
    with contextlib.nullcontext(model._module) if intervention is None else baked(intervention, model) as module:
        # The harness sets padding on the tokenizer it is given.
        wrapped = wrapper(pretrained=module, tokenizer=copy.deepcopy(model.tokenizer), batch_size=batch_size)
        # Copied, since the harness may change the dicts it is given.
        written_out = [task if isinstance(task, str) else dict(task) for task in tasks]
        results = harness.simple_evaluate(wrapped, tasks=written_out, task_manager=known, **more)
    return {**(results or {}), "gatescope": {"model": before, **_plain(intervention)}}


def _harness() -> tuple[Any, Any, Any]:
    """lm-eval, its wrapper of Hugging Face models and its list of tasks: Any, because its signatures are hidden by
    decorators, and by `None` as the only type of a default.
    """
    try:
        import lm_eval
        from lm_eval.models import huggingface
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise GatescopeError("lm-eval is not installed: pip install 'gatescope[eval]'.") from error
    return lm_eval, huggingface.HFLM, TaskManager


def _directories(include_path: str | Path | Sequence[str | Path] | None) -> list[str]:
    given = [include_path] if isinstance(include_path, str | Path) else include_path or []
    paths = [str(path) for path in given]
    for path in paths:
        if not Path(path).is_dir():
            raise GatescopeError(f"No directory {path!r} to read tasks from.")
    return paths


def _check_known(tasks: Sequence[str | Mapping[str, Any]], known: Any, only_included: bool) -> None:
    for name in tasks:
        if isinstance(name, str) and not known.match_tasks([name]):
            have = f"It knows {', '.join(sorted(known.all_tasks))}." if only_included else "`lm-eval ls tasks` lists them."
            raise GatescopeError(f"lm-eval knows no task {name!r}. {have}")


def _plain(intervention: Intervention | None) -> dict[str, Any]:
    """An intervention as JSON says it; nothing for the full model."""
    if intervention is None:
        return {}
    neurons = intervention.neurons
    return {"kind": intervention.kind, "neurons": len(neurons), "origin": dict(neurons.provenance)}
