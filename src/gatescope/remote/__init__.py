"""Recording, attributing and sweeping on a server that has the weights: NDIF, or any that speaks nnsight's protocol."""

from gatescope.remote.attribute import attribute_shards
from gatescope.remote.carry import carry, refuse
from gatescope.remote.client import load_client
from gatescope.remote.estimate import Estimate, estimate, estimate_record
from gatescope.remote.jobs import Server
from gatescope.remote.record import record_shards
from gatescope.remote.sweep import sweep_shards

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

refuse()
