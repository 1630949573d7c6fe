"""Examples, where they come from, and how they become a model's inputs."""

from gatescope.data.benchmarks.blend import blend, blend_control
from gatescope.data.benchmarks.blend_short import blend_short
from gatescope.data.benchmarks.commonsenseqa import commonsenseqa
from gatescope.data.benchmarks.countryrc import countryrc
from gatescope.data.benchmarks.culturalbench import culturalbench
from gatescope.data.benchmarks.cvqa import cvqa
from gatescope.data.benchmarks.glue import mrpc, qnli
from gatescope.data.benchmarks.murel import murel
from gatescope.data.benchmarks.normad import normad
from gatescope.data.benchmarks.wikipedia import wikipedia
from gatescope.data.benchmarks.worldvaluesbench import worldvaluesbench
from gatescope.data.control import control
from gatescope.data.example import Example, Study, fingerprint
from gatescope.data.jsonl import jsonl
from gatescope.data.pictures import without_broken_pictures
from gatescope.data.registry import CARDS, load, load_control

__all__ = [
    "CARDS",
    "Example",
    "Study",
    "blend",
    "blend_control",
    "blend_short",
    "commonsenseqa",
    "control",
    "countryrc",
    "culturalbench",
    "cvqa",
    "fingerprint",
    "jsonl",
    "load",
    "load_control",
    "mrpc",
    "murel",
    "normad",
    "qnli",
    "wikipedia",
    "without_broken_pictures",
    "worldvaluesbench",
]
