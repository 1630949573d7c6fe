"""A client to be killed, run in a process of its own: it records and stores shards."""

from __future__ import annotations

from pathlib import Path

from gatescope.models.sites import site_of
from gatescope.steps.remote import Server, load_client, record_shards
from tiny import text_examples


def shards() -> dict[int, list]:
    """Six shards of two batches of two."""
    examples = text_examples(each=12)
    batches = [examples[i : i + 2] for i in range(0, len(examples), 2)]
    return {n: batches[2 * n : 2 * n + 2] for n in range(6)}


def record(path: Path, address: str, directory: Path) -> None:
    """Record on the server at `address` with the model at `path`, and store each shard in `directory`."""
    left = {n: shard for n, shard in shards().items() if not (directory / f"{n}.safetensors").is_file()}
    client = load_client(path)
    server = Server(address, in_flight=3, pause=0.05)
    options = {"only_correct": False, "max_new_tokens": 2, "remote": server, "ledger": directory / "jobs.json"}
    for number, counters, _ in record_shards(client, left, site_of(client, "gate"), ("north", "south"), **options):
        counters["all"].save(directory / f"{number}.safetensors")
