"""Everything that is wrong with a run: each of its files is looked at, and each file that lies among them.

The manifest answers for the run's files by their SHA-256, and for itself. Shards answer for themselves as well, by a
checksum and by what they are part of, and so do they in a run that has not come to its end, or is of the first release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from gatescope.core.errors import GatescopeError
from gatescope.steps.manifest import Manifest, digest_of
from gatescope.steps.places import stem
from gatescope.steps.remote import ledger_file
from gatescope.steps.shards import Shards

# What the run itself reads: a file put there would be taken for one of its own.
_READ = re.compile(r"(selections|questions|shards[^/]*)/.*|(manifest|identification|answers|jobs)\b[^/]*")


def problems(run: Manifest, steps: Mapping[str, Shards]) -> Iterator[str]:
    """What is wrong, a sentence for each file.

    Args:
        run: the run.
        steps: the shards of every step that was started.
    """
    files = run.files
    for step, shards in steps.items():
        yield from _of_shards(step, shards, files or {})
    if files is not None:
        names = {shards.name(index) for shards in steps.values() for index in range(len(shards))}
        # The table as it was read above: with the plan of a large run beside it, it takes long to read for each file.
        said = (run.wrong(name, files) for name in files if name not in names)
        yield from filter(None, said)
        yield from _strangers(run, {*files, *names}, steps)
    yield from _of_ledgers(run)


def _of_shards(step: str, shards: Shards, files: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the shards of a step."""
    missing = set(shards.missing)
    for index in range(len(shards)):
        if index not in missing and (said := _of_shard(shards, index, files.get(shards.name(index)))):
            yield said
    if missing:
        yield f"{step}: {len(missing)} of {len(shards)} shards are not done: {_ranges(sorted(missing))}."


def _of_shard(shards: Shards, index: int, digest: str | None) -> str:
    if digest is not None and digest == digest_of(shards.file(index)):
        return ""
    try:
        shards.load(index)
    except GatescopeError as error:
        return str(error)
    # Read as it should be, and yet not the bytes that were written; not bound yet, if the step is not done.
    return "" if digest is None else shards.run.wrong(shards.name(index))


def _of_ledgers(run: Manifest) -> Iterator[str]:
    """What is wrong with the ledgers of jobs that are under way; a ledger goes with its last job."""
    for path in sorted(run.path.glob("jobs.*.json")):
        try:
            ledger_file.read(path)
        except GatescopeError as error:
            yield str(error)


def _strangers(run: Manifest, own: set[str], steps: Mapping[str, Shards]) -> Iterator[str]:
    """Files that lie where the run would read them, and are not its own; locks that hold something."""
    manifest = run.manifest
    own |= {"manifest.json", *(f"jobs.{stem(step, manifest)}.json" for step in steps)}
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        # Hidden files are the system's, or half written.
        if name in own or path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".lock":
            if path.stat().st_size:
                yield f"{path} is a lock, and should be empty. Delete it while nobody works on the run."
        elif _READ.fullmatch(name):
            yield f"{path} is no file of this run, which did not write it. Move it to another place."


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in words.

    >>> _ranges([0, 1, 2, 5])
    '0 to 2, 5'
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans)
