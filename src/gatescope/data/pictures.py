"""Looking at every picture before a long run, rather than failing in the middle of it."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from gatescope.core.errors import GatescopeError
from gatescope.core.progress import bar
from gatescope.data.example import Example, Study
from gatescope.data.source import LeftOut


def without_broken_pictures(study: Study, *, progress: bool = True) -> Study:
    """The study without the examples whose picture is truncated, a decompression bomb, or none; counted in its notes.

    Every picture is decoded once, by several threads.
    """
    left = LeftOut(study.name)
    shown = bar(len(study.identification) + len(study.evaluation), "looking at pictures", "pictures", show=progress)

    def opens(example: Example) -> bool:
        try:
            example.picture()
        except GatescopeError:
            return False
        return True

    kept: list[list[Example]] = []
    with ThreadPoolExecutor() as pool, shown:
        for half in (study.identification, study.evaluation):
            kept.append([])
            for example, good in zip(half, pool.map(opens, half), strict=True):
                shown.update()
                if good:
                    kept[-1].append(example)
                else:
                    left.add(example.id, "the picture cannot be opened")
    told = "; ".join(filter(None, (study.notes.get("left out"), left.notes().get("left out"))))
    notes = study.notes | ({"left out": told} if told else {})
    return dataclasses.replace(study, identification=kept[0], evaluation=kept[1], notes=notes)
