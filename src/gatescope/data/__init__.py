"""Examples, where they come from, and how they become a model's inputs."""

from gatescope.data.example import Example, Study, fingerprint
from gatescope.data.jsonl import jsonl

__all__ = ["Example", "Study", "fingerprint", "jsonl"]
