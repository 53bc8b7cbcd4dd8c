"""How much of something is done at a time, so that nobody else waits long for the store.

A store's thread does one thing after the other, so the longest of them is what a commit may have to wait for.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

_SECONDS: Final = 0.01
"""What a step is to take: the odd one takes some times as long."""
_FASTER: Final = 1.5
"""How much more at most is tried after a step that was quick."""


class Pace:
    """An `amount` that is learned from how long it took: at first, and at most, so much; at least 1."""

    def __init__(self, first: int, most: int) -> None:
        self.amount = first
        self._most = most

    def measured(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a step with that amount, in the thread that it takes the time of."""
        began = perf_counter()
        result = None
        try:
            result = step(*args, **kwargs)
        finally:
            took = max(perf_counter() - began, 1e-6)
            if result is not False or took > _SECONDS:  # that there was nothing to do says nothing
                self.amount = max(1, min(int(self.amount * min(_SECONDS / took, _FASTER)) + 1, self._most))
        return result
