"""Check every picture before a long run, rather than fail in the middle of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.data.example import Example, Study
from gatescope.data.skipped import Skipped


def without_broken_pictures(study: Study, *, progress: bool = True) -> Study:
    """The study without the examples whose picture is truncated, a decompression bomb, or none; counted in its notes.

    Every picture is decoded once, by several threads.
    """
    skipped = Skipped(study.name)
    shown = bar(len(study.identification) + len(study.evaluation), "looking at pictures", "pictures", show=progress)

    def readable(half: Sequence[Example]) -> list[Example]:
        examples: list[Example] = []
        for example, opens in zip(half, pool.map(_opens, half), strict=True):
            shown.update()
            if opens:
                examples.append(example)
            else:
                skipped.add(example.id, "the picture cannot be opened")
        return examples

    # Threads: Pillow decodes outside the interpreter's lock.
    with ThreadPoolExecutor() as pool, shown:
        identification, evaluation = readable(study.identification), readable(study.evaluation)
    notes = study.notes
    if broken := skipped.notes().get("left out"):
        # The loader may have skipped rows before; both belong in the one note.
        earlier = notes.get("left out")
        notes = notes | {"left out": f"{earlier}; {broken}" if earlier else broken}
    return dataclasses.replace(study, identification=identification, evaluation=evaluation, notes=notes)


def _opens(example: Example) -> bool:
    try:
        example.picture()
    except GatescopeError:
        return False
    return True
