"""gatescope finds the neurons of a language or vision-language model that matter for a group of inputs, and proves
it by switching them off, inside ordinary nnsight traces."""

from gatescope import _typing  # noqa: F401, I001 - beartype and anyio must be in before nnsight
from gatescope import data, organism, remote, select
from gatescope.attribute import attribute
from gatescope.attributions import Attributions
from gatescope.bake import baked_from, save_baked
from gatescope.counters import Counters
from gatescope.errors import GatescopeError
from gatescope.evaluate.perplexity import perplexity
from gatescope.evaluate.sweep import sweep
from gatescope.evaluate.table import Table
from gatescope.intervene import Intervention, ablate, add, scale, set_to
from gatescope.lens import lens_hooks
from gatescope.means import mean_activation
from gatescope.models import load_model
from gatescope.neurons import Layout, NeuronSet
from gatescope.record import record, record_classes
from gatescope.report import compare, report
from gatescope.runs import Run
from gatescope.select import Selection
from gatescope.sites import Site, sites_of
from gatescope.study import open_result, run_study

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
