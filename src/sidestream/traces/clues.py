"""What conversations are found by beside their states: tasks that are passed on, and summaries of what was before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidestream.providers.digests import dense, digest

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHORTEST_CLUE: Final = 16
"""Characters, without white space, that a task must have to be known again as such."""
_MOST_CLUES: Final = 64
_SUMMARY: Final = re.compile(  # possessive: what comes before is never looked at twice
    r"\s*+(?:<system-reminder>(?>.*?</system-reminder>)\s*+)*+"
    r"(?:this session is being continued from a previous conversation"
    r"|<(?:conversation[_-])?summary>"
    r"|\W{0,4}(?:here is |here's |this is )?(?:the |a )?(?:conversation summary|summary of (?:the|our|this|your) "
    r"(?:previous |earlier |prior )?(?:conversation|session|history|context|discussion|work))"
    r"|\W{0,4}(?:previous|earlier) conversation (?:summary|\(?summarized)"
    r"|the (?:conversation )?history before this point was compacted)",
    re.IGNORECASE | re.DOTALL,
)


def clues(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Digests of texts, white space apart, by which a task is known again that was passed on."""
    bare = map(dense, texts)
    return tuple(dict.fromkeys(digest(text) for text in bare if len(text) >= _SHORTEST_CLUE))[:_MOST_CLUES]


def is_summary(openings: Iterable[str]) -> bool:
    """Whether one of these texts begins as summaries of conversations do."""
    return any(_SUMMARY.match(text[:20_000]) for text in openings)
