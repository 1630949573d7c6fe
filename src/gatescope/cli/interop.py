"""The model with neurons switched off, for other tools."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from gatescope.cli.common import AsJson, Model, app, as_json
from gatescope.cli.loading import Allow, Loading, allowed, loads_a_model
from gatescope.core.errors import GatescopeError

Mask = Annotated[Path, typer.Option(help="A file of neurons, as `NeuronSet.save` writes it.")]


@app.command()
@loads_a_model
def bake(
    loading: Loading,
    model: Model,
    mask: Mask,
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint; new or empty.")],
    factor: Annotated[float, typer.Option(help="What the activations are multiplied by; 0 switches off, 2 enhances.")] = 0.0,
    allow: Allow = None,
) -> None:
    """Write a model with neurons switched off as an ordinary checkpoint.

    Example: gatescope bake --model ./model --mask arveni.safetensors --out ./model-without-arveni
    """
    from gatescope.core.neurons import NeuronSet
    from gatescope.interventions.checkpoint import save_baked
    from gatescope.interventions.intervention import ablate, scale

    if not math.isfinite(factor):  # before the model is loaded
        raise GatescopeError(f"--factor is {factor}; it must be a finite number, such as 0 or 2.")
    permitted = allowed(allow)
    loaded = loading.loaded(model)
    # Checked at once: neurons of another model would be other neurons.
    neurons = NeuronSet.load(mask, for_model=loaded, allow=permitted)
    # The checkpoint's note says what was done: "zero", not a scale by 0.
    save_baked(ablate(neurons) if factor == 0 else scale(neurons, factor), loaded, out)
    typer.echo(f"{out}: {len(neurons)} neurons {'switched off' if factor == 0 else f'times {factor:g}'}")


@app.command("lm-eval")
@loads_a_model
def lm_eval(
    loading: Loading,
    model: Model,
    tasks: Annotated[str, typer.Option(help="Names of lm-eval's tasks, separated by commas.")],
    mask: Annotated[Path | None, typer.Option(help="A file of neurons to switch off; the full model if not given.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Directory with tasks of your own.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many questions a task.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions a batch.")] = 16,
    allow: Allow = None,
    json: AsJson = False,
) -> None:
    """Run lm-eval's tasks with neurons switched off.

    Example: gatescope lm-eval --model ./model --mask arveni.safetensors --tasks hellaswag,arc_easy
    """
    from gatescope.core.neurons import NeuronSet
    from gatescope.interop.lm_eval import evaluate
    from gatescope.interventions.intervention import ablate

    permitted = allowed(allow)
    if permitted and mask is None:
        raise GatescopeError("--allow is for the neurons of --mask, and there are none: add it, or leave --allow out.")
    loaded = loading.placed(model)
    chosen = ablate(NeuronSet.load(mask, for_model=loaded, allow=permitted)) if mask else None
    output = evaluate(loaded, chosen, tasks.split(","), include_path=include_path, limit=limit, batch_size=batch_size)
    if json:
        typer.echo(as_json(output["results"]))
        return
    for task, values in output["results"].items():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))
        typer.echo(f"{task}: {shown}")
