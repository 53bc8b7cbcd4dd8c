"""Identities of exchanges and relays. A leaf: everything may use it, and it uses nothing of ours."""

from __future__ import annotations

import random
import time


def new_id() -> str:
    """32 hex digits that sort by time (UUIDv7's layout: 48 bits of milliseconds, the rest random)."""
    milliseconds = time.time_ns() // 1_000_000
    noise = random.getrandbits(74)  # to be unique, not to be secret
    return f"{milliseconds << 80 | 7 << 76 | (noise >> 62) << 64 | 2 << 62 | noise & (1 << 62) - 1:032x}"
