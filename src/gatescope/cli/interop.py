"""The model with neurons switched off, for other tools."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from gatescope.cli.common import AsJson, Dtype, Map, Model, app, as_json, placed
from gatescope.core.errors import GatescopeError

Mask = Annotated[Path, typer.Option(help="A file of neurons, as `NeuronSet.save` writes it.")]


@app.command()
def bake(
    model: Model,
    mask: Mask,
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint; new or empty.")],
    factor: Annotated[float, typer.Option(help="What the activations are multiplied by; 0 switches off, 2 enhances.")] = 0.0,
    dtype: Dtype = "auto",
) -> None:
    """Write a model with neurons switched off as an ordinary checkpoint.

    Example: gatescope bake --model ./model --mask arveni.safetensors --out ./model-without-arveni
    """
    from gatescope.core.neurons import NeuronSet
    from gatescope.interventions.checkpoint import save_baked
    from gatescope.interventions.intervention import ablate, scale
    from gatescope.models.identity import identity
    from gatescope.models.load import load_model

    if not math.isfinite(factor):  # before the model is loaded
        raise GatescopeError(f"--factor is {factor}; it must be a finite number, such as 0 or 2.")
    loaded = load_model(model, dtype=dtype)
    # The identity is checked at once: neurons of another model would be other neurons.
    neurons = NeuronSet.load(mask, identity(loaded))
    # The checkpoint's note says what was done: "zero", not a scale by 0.
    save_baked(ablate(neurons) if factor == 0 else scale(neurons, factor), loaded, out)
    typer.echo(f"{out}: {len(neurons)} neurons {'switched off' if factor == 0 else f'times {factor:g}'}")


@app.command("lm-eval")
def lm_eval(
    model: Model,
    tasks: Annotated[str, typer.Option(help="Names of lm-eval's tasks, separated by commas.")],
    mask: Annotated[Path | None, typer.Option(help="A file of neurons to switch off; the full model if not given.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Directory with tasks of your own.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many questions a task.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions a batch.")] = 16,
    dtype: Dtype = "auto",
    device_map: Map = None,
    json: AsJson = False,
) -> None:
    """Run lm-eval's tasks with neurons switched off.

    Example: gatescope lm-eval --model ./model --mask arveni.safetensors --tasks hellaswag,arc_easy
    """
    from gatescope.core.neurons import NeuronSet
    from gatescope.interop.lm_eval import evaluate
    from gatescope.interventions.intervention import ablate
    from gatescope.models.identity import identity

    loaded = placed(model, dtype, device_map)
    chosen = ablate(NeuronSet.load(mask, identity(loaded))) if mask else None
    output = evaluate(loaded, chosen, tasks.split(","), include_path=include_path, limit=limit, batch_size=batch_size)
    if json:
        typer.echo(as_json(output["results"]))
        return
    for task, values in output["results"].items():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))
        typer.echo(f"{task}: {shown}")
