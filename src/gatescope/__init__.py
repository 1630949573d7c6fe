"""gatescope finds the neurons of a language or vision-language model that matter for a group of inputs, and proves
it by switching them off, inside ordinary nnsight traces.

Names are loaded when they are first used (PEP 562), so that `import gatescope` and the command line's help cost nothing.
"""

import importlib

from gatescope import _typing  # noqa: F401 - beartype must be in before nnsight

_HOMES = {
    "Attributions": "core.attributions",
    "Counters": "core.counters",
    "GatescopeError": "core.errors",
    "Intervention": "interventions.intervention",
    "Layout": "core.layout",
    "NeuronSet": "core.neurons",
    "Ray": "steps.cluster",
    "Run": "steps.run",
    "Selection": "select.selection",
    "Site": "models.sites",
    "Table": "statistics.table",
    "ablate": "interventions.intervention",
    "add": "interventions.intervention",
    "attribute": "steps.attribute",
    "baked_from": "interventions.checkpoint",
    "compare": "reports.compare",
    "lens_hooks": "interop.lens",
    "load_model": "models.load",
    "mean_activation": "steps.means",
    "open_result": "studies.vlm",
    "open_run": "steps.run",
    "perplexity": "steps.perplexity",
    "record": "steps.record",
    "record_classes": "steps.record",
    "report": "reports.page",
    "run_study": "studies.vlm",
    "save_baked": "interventions.checkpoint",
    "scale": "interventions.intervention",
    "set_to": "interventions.intervention",
    "sites_of": "models.sites",
    "sweep": "steps.sweep",
}
_MODULES = {"data": "data", "organism": "organism", "remote": "steps.remote", "select": "select"}

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        value = importlib.import_module(f"gatescope.{_MODULES[name]}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"gatescope.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'gatescope' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
