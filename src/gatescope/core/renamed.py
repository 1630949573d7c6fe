"""Names of the first release, which still work and warn: keywords of functions, fields of dataclasses."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keywords under their old names, `old="new"`.

    >>> @renamed(together="masks_per_batch")
    ... def sweep(masks_per_batch: int) -> int:
    ...     return masks_per_batch
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     sweep(together=3)
    3
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **keywords: P.kwargs) -> R:
            for old, new in names.items():
                if old in keywords:
                    _warn(old, new)
                    # The old name wins: dataclasses.replace gives the new one too, as it was.
                    keywords[new] = keywords.pop(old)
            return function(*args, **keywords)

        return called

    return decorate


def rename_fields(cls: type, **names: str) -> None:
    """Let a dataclass be made and read under the old names of its fields, `old="new"`. No decorator: type checkers see the
    class as it is."""
    made: Any = cls
    made.__init__ = renamed(**names)(made.__init__)
    for old, new in names.items():
        setattr(cls, old, property(functools.partial(_read, old=old, new=new)))


def _read(self: object, *, old: str, new: str) -> Any:
    _warn(old, new)
    return getattr(self, new)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"`{old}` is called `{new}` now; the old name will go.", DeprecationWarning, stacklevel=3)
