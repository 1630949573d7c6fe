"""Recording, attributing and sweeping on a server that has the weights: NDIF, or any that speaks nnsight's protocol."""

from gatescope.interventions.carry import carry
from gatescope.models.client import load_client
from gatescope.steps.remote.attribute import attribute_shards
from gatescope.steps.remote.estimate import Estimate, estimate, estimate_record
from gatescope.steps.remote.record import record_shards
from gatescope.steps.remote.server import Server
from gatescope.steps.remote.sweep import sweep_shards

__all__ = [
    "Estimate",
    "Server",
    "attribute_shards",
    "carry",
    "estimate",
    "estimate_record",
    "load_client",
    "record_shards",
    "sweep_shards",
]
