"""Where a reader of somebody else's protocol puts what it has no rule for: kept, not dropped, and bounded."""

from __future__ import annotations

from typing import Any, Final

MOST_BYTES: Final = 64 << 10
MOST_ITEMS: Final = 64


class Extras:
    """Leftovers by kind. What would go beyond the bounds is only counted, as ``dropped``."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self._bytes = MOST_BYTES
        self._items = MOST_ITEMS
        self._dropped = 0

    def keep(self, kind: str, item: Any, size: int) -> None:
        """Add `item`, which takes about `size` bytes, to the list of its `kind`."""
        if not self._items or size > self._bytes:
            self._dropped += 1
            return
        self._items -= 1
        self._bytes -= size
        self._kept.setdefault(kind, []).append(item)

    def facts(self) -> dict[str, Any]:
        """Everything kept; empty when every rule fitted."""
        return {**self._kept, **({"dropped": self._dropped} if self._dropped else {})}
