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
from typing import Any, cast

from gatescope.core.errors import GatescopeError
from gatescope.interventions.bake import baked
from gatescope.interventions.intervention import Intervention
from gatescope.models.identity import identity


def evaluate(
    model,
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
    try:
        import lm_eval as harness
        from lm_eval.models import huggingface
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise GatescopeError("lm-eval is not installed: pip install 'gatescope[eval]'.") from error
    if not tasks:
        raise GatescopeError("No task was given; `lm-eval ls tasks` lists those there are.")
    paths = [str(p) for p in ([include_path] if isinstance(include_path, str | Path) else include_path or [])]
    missing = next((path for path in paths if not Path(path).is_dir()), None)
    if missing is not None:
        raise GatescopeError(f"No directory {missing!r} to read tasks from.")
    # their signatures are hidden by decorators, and by `None` as the only type of a default
    manager, wrap, run = (cast(Any, part) for part in (TaskManager, huggingface.HFLM, harness.simple_evaluate))
    known = manager(include_path=paths or None, include_defaults=not only_included)
    unknown = [name for name in tasks if isinstance(name, str) and not known.match_tasks([name])]
    if unknown:
        have = f" It knows {', '.join(sorted(known.all_tasks))}." if only_included else " `lm-eval ls tasks` lists them."
        raise GatescopeError(f"lm-eval knows no task {unknown[0]!r}.{have}")
    described = identity(model)
    with contextlib.ExitStack() as stack:
        module = model._module if intervention is None else stack.enter_context(baked(intervention, model))
        # the harness sets padding on the tokenizer it is given
        wrapped = wrap(pretrained=module, tokenizer=copy.deepcopy(model.tokenizer), batch_size=batch_size)
        found = run(wrapped, tasks=[t if isinstance(t, str) else dict(t) for t in tasks], task_manager=known, **more)
    note: dict[str, Any] = {"model": described}
    if intervention is not None:
        origin = dict(intervention.neurons.origin)
        note |= {"kind": intervention.kind, "neurons": len(intervention.neurons), "origin": origin}
    return dict(found or {}) | {"gatescope": note}
