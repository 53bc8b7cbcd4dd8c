"""Which traces may have an append under way: two at a time bring an Explorer to a standstill, for good.

The engine sends the turns of a trace one after the other, and looks before it sends one again. This is the last word
on it, at the one place where appends leave: whatever was decided elsewhere, and whatever the clock was set to, none
leaves for a trace while another one may be under way there. No I/O; times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from sidestream.errors import Ambiguous, DeliveryError, Retryable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MANY = 1000


class Appends:
    """Those of one sink. One whose end was not seen may be under way for `settle` seconds more."""

    def __init__(self, settle: float, clock: Callable[[], float]) -> None:
        self._settle = settle
        self._clock = clock
        self._until: dict[str, float] = {}

    @contextlib.contextmanager
    def one(self, trace: str) -> Iterator[None]:
        """An append to `trace` within the block; `Retryable` if another one may be under way.

        It is over when the block ends, or raises a `DeliveryError` that says what became of it.
        """
        self._forget()
        left = self._until.get(trace, -math.inf) - self._clock()
        if left > 0:
            raise Retryable("an earlier append may still be under way", after=min(left, self._settle))
        self._until[trace] = math.inf
        over = False
        try:
            yield
            over = True
        except DeliveryError as error:
            over = not isinstance(error, Ambiguous)
            raise
        finally:
            if over:
                del self._until[trace]
            else:
                self._until[trace] = self._clock() + self._settle

    def _forget(self) -> None:
        if len(self._until) >= _MANY:
            now = self._clock()
            self._until = {trace: until for trace, until in self._until.items() if until > now}
