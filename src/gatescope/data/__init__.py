"""Examples, where they come from, and how they become a model's inputs."""

from gatescope.data.blend import blend, blend_control
from gatescope.data.blend_short import blend_short
from gatescope.data.commonsenseqa import commonsenseqa
from gatescope.data.control import control
from gatescope.data.countryrc import countryrc
from gatescope.data.culturalbench import culturalbench
from gatescope.data.cvqa import cvqa
from gatescope.data.example import Example, Study, fingerprint
from gatescope.data.glue import mrpc, qnli
from gatescope.data.jsonl import jsonl
from gatescope.data.murel import murel
from gatescope.data.normad import normad
from gatescope.data.pictures import without_broken_pictures
from gatescope.data.registry import CARDS, load, load_control
from gatescope.data.wikipedia import wikipedia
from gatescope.data.worldvaluesbench import worldvaluesbench

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
