"""gatescope finds the neurons of a language or vision-language model that matter for a group of inputs, and proves
it by switching them off, inside ordinary nnsight traces."""

from gatescope import _typing  # noqa: F401, I001 - beartype and anyio must be in before nnsight
from gatescope import data, organism, select
from gatescope.steps import remote
from gatescope.steps.attribute import attribute
from gatescope.core.attributions import Attributions
from gatescope.interventions.checkpoint import baked_from, save_baked
from gatescope.core.counters import Counters
from gatescope.core.errors import GatescopeError
from gatescope.steps.perplexity import perplexity
from gatescope.steps.sweep import sweep
from gatescope.statistics.table import Table
from gatescope.interventions.intervention import Intervention, ablate, add, scale, set_to
from gatescope.interop.lens import lens_hooks
from gatescope.steps.means import mean_activation
from gatescope.models.load import load_model
from gatescope.core.layout import Layout
from gatescope.core.neurons import NeuronSet
from gatescope.steps.record import record, record_classes
from gatescope.reports import compare, report
from gatescope.steps.run import Run
from gatescope.select import Selection
from gatescope.models.sites import Site, sites_of
from gatescope.studies.vlm import open_result, run_study

open_run = Run.open

__all__ = [
    "Attributions",
    "Counters",
    "GatescopeError",
    "Intervention",
    "Layout",
    "NeuronSet",
    "Run",
    "Selection",
    "Site",
    "Table",
    "ablate",
    "add",
    "attribute",
    "baked_from",
    "compare",
    "data",
    "lens_hooks",
    "load_model",
    "mean_activation",
    "open_result",
    "open_run",
    "organism",
    "perplexity",
    "record",
    "record_classes",
    "remote",
    "report",
    "run_study",
    "save_baked",
    "scale",
    "select",
    "set_to",
    "sites_of",
    "sweep",
]
