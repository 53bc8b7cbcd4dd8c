"""The agent's toy tools: what the model is told of them, and what they answer."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from sidestream.demo.picture import bars

if TYPE_CHECKING:
    from collections.abc import Callable

_WEEK: Final = (41, 38, 33, 30, 26, 22, 18)


def run(name: str, arguments: dict[str, Any]) -> str | list[dict[str, Any]]:
    """Run a tool; gives the content of its ``tool_result``: a string, or blocks where there is an image."""
    return _TOOLS[name](**arguments)


def definitions() -> list[dict[str, Any]]:
    """The tools as a request announces them."""
    return [
        _definition("read_probe", "Soil moisture of a bed, now.", bed="string", depth_cm="integer"),
        _definition("forecast", "The weather of the next days.", place="string", days="integer"),
        _definition("draw_week", "A week of soil moisture as a picture.", bed="string"),
        _definition("open_valve", "Water a bed in the evening.", bed="string", minutes="integer", note="string"),
    ]


def _definition(name: str, description: str, **parameters: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {parameter: {"type": kind} for parameter, kind in parameters.items()},
        "required": list(parameters),
    }
    return {"name": name, "description": description, "input_schema": schema}


def _read_probe(bed: str, depth_cm: int) -> str:
    return f"{bed}: {_WEEK[-1]} % at {depth_cm} cm. Moss wants 30 % or more."


def _forecast(place: str, days: int) -> str:
    return f"{place}: 31 °C and dry for {days} days."


def _draw_week(bed: str) -> list[dict[str, Any]]:
    data = base64.b64encode(bars(_WEEK)).decode()
    return [
        {"type": "text", "text": f"{bed}, the last {len(_WEEK)} days:"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
    ]


def _open_valve(bed: str, minutes: int, note: str) -> str:
    return f"{bed}: opens at 18:30 for {minutes} minutes ({note})."


_TOOLS: Final[dict[str, Callable[..., str | list[dict[str, Any]]]]] = {
    "read_probe": _read_probe,
    "forecast": _forecast,
    "draw_week": _draw_week,
    "open_valve": _open_valve,
}
