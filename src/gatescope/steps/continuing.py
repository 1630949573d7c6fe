"""With what a step may be continued: the facts it was started with, versions and kernel excepted."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatescope.core.errors import GatescopeError

MAY_DIFFER = {"versions", "shards", "kernel"}  # not refused: they change no more than the last bit
_DIFFERENCES = {
    "fingerprint": "examples: their texts, prompts, options, groups or pictures differ",
    "masks": "interventions: their neurons, rate or kind differ",
}


def refuse_others(path: Path, step: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a step with other facts than it was started with.

    Raises:
        GatescopeError: naming both.
    """
    changed = [name for name in now if name not in MAY_DIFFER and before.get(name) != now[name]]
    if changed:
        raise GatescopeError(_changed(path, step, changed[0], _short(before.get(changed[0])), _short(now[changed[0]])))


def warn_of_versions(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say that a step is continued with other versions."""
    if before.get("versions") != now.get("versions"):
        warnings.warn(
            f"{path} was started with {before.get('versions')} and is continued with {now.get('versions')}: sums may differ in "
            f"their last bit from those of one version.",
            stacklevel=4,
        )


def _changed(path: Path, step: str, name: str, was: str, now: str) -> str:
    if name in _DIFFERENCES:
        return (
            f"{path} was started ({step}) with other {_DIFFERENCES[name]}. Continue it with the same, or choose "
            f"another directory. ({name}: {was}, and this is {now}.)"
        )
    return (
        f"{path} was started ({step}) with {name} {was}, and this is {name} {now}. Continue it with the same, or "
        f"choose another directory."
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]} ... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"
