"""The run of a study: begun by one, continued by any that means the same, and cleared away if nothing came of it."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError
from gatescope.steps.run import Run


@contextlib.contextmanager
def begun(out: str | Path, model: Mapping[str, str], study: Mapping[str, Any], decisive: Mapping[str, Any]) -> Iterator[Run]:
    """The run of a study, in which no other rates or options can be mixed with these from now on.

    A user's mistake in a run that is begun here leaves nothing half-written; what was finished is kept, and so is a run to
    which another process has come by then.

    Args:
        out: its directory.
        model: the identity of the model.
        study: what the manifest is to say of it.
        decisive: what must be the same whenever it is continued, as it is called in a message.

    Raises:
        GatescopeError: if the directory holds something else, or the run of other rates or options.
    """
    alone = secrets.token_hex(8)
    run = Run.at(out, model, alone=alone)
    try:
        with run.locked():
            refuse_others(run.path, run.manifest.get("study", {}), decisive)
            run.note({"study": dict(study)})
        yield run
    except GatescopeError:
        _clear(run, alone)
        raise
    if "alone" in run.manifest:
        run.note({"alone": ""})


def refuse_others(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other rates or options: its answers would be of neither.

    Raises:
        GatescopeError: naming both.
    """
    # The selectors of a run are stored as the keys of their options.
    held = dict(before) | ({"selectors": list(before["options"])} if "options" in before else {})
    # Through JSON, as what is in the manifest has been.
    for name, value in json.loads(json.dumps(now)).items():
        if name in held and held[name] != value:
            raise GatescopeError(
                f"{out} was started with {name} {held[name]}, and this is {name} {value}. Continue it with what it was "
                f"started with, or choose another directory."
            )


def _clear(run: Run, alone: str) -> None:
    """Remove a run, if it was started here, nobody else has come to it, and it holds nothing yet."""
    with run.locked():
        if run.manifest.get("alone") != alone or any(run.path.glob("shards*/*.safetensors")):
            return
        # A finished shard may be hours of work; a manifest and questions are worth nothing.
        for folder in (run.path / "questions", *run.path.glob("shards*")):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("manifest.json", "manifest.lock"):
            (run.path / name).unlink(missing_ok=True)
        # Whatever else the user has put there is the user's.
        with contextlib.suppress(OSError):
            run.path.rmdir()
