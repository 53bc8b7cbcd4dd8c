"""What the model says in the demo: a run of four calls, as content blocks of the Messages API.

It has what makes agents' streams hard to relay and to read: thinking with a signature, text, two tool calls at once, a
picture among the results, characters of one to four bytes, quotes inside of JSON inside of JSON.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Final

MODEL: Final = "claude-demo-1"
BED: Final = "north gate"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model; tokens as its usage says."""

    content: list[dict[str, Any]]
    input_tokens: int
    output_tokens: int

    @property
    def stop_reason(self) -> str:
        """Why the model stopped: for a tool, or because it was done."""
        return "tool_use" if self.content[-1]["type"] == "tool_use" else "end_turn"


def _thinking(text: str) -> dict[str, Any]:
    signature = base64.b64encode(hashlib.sha512(text.encode()).digest()).decode()
    return {"type": "thinking", "thinking": text, "signature": signature}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_demo_{number}", "name": name, "input": arguments}


ANSWERS: Final = (
    Answer(
        [
            _thinking(
                "Two things decide this: how wet the soil is, and whether rain is coming. "
                "Neither depends on the other, so I can ask for both at once."
            ),
            _text("I'll look at the soil and at the sky. 🌿"),
            _call(1, "read_probe", bed=BED, depth_cm=5),
            _call(2, "forecast", place="京都", days=3),
        ],
        input_tokens=612,
        output_tokens=131,
    ),
    Answer(
        [
            _text("18 % is dry, and at 31 °C it won't get better by itself. A bad day, or a bad week?"),
            _call(3, "draw_week", bed=BED),
        ],
        input_tokens=809,
        output_tokens=64,
    ),
    Answer(
        [
            _thinking("Every bar is lower than the one before: about four points a day. A slow soak, not a flood."),
            _call(4, "open_valve", bed=BED, minutes=12, note='no jet, "mist" for the 苔'),
        ],
        input_tokens=968,
        output_tokens=88,
    ),
    Answer(
        [
            _text(
                "Yes: the bed by the north gate fell from 41 % to 18 % within a week, and no rain is coming.\n"
                "The valve opens at 18:30 for twelve minutes of fine mist. The 苔 will thank you. 🍵"
            ),
        ],
        input_tokens=1102,
        output_tokens=57,
    ),
)
