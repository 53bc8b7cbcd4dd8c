"""How much work something is: functions that are called, which no other process changes as it does times."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def effort(work: Callable[[], object]) -> int:
    """The number of calls of functions, builtins among them, in this thread."""
    calls = 0

    def called(_frame: FrameType, event: str, _what: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
