"""What a request's query asks for, for pages and the JSON API alike: filters, spans of time, places in a list.

An empty value is as good as none, because forms send those. Whatever cannot be understood is `Unclear`, and names the
parameter, never its value.
"""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar
from urllib.parse import urlencode

from sidestream.options import Duration
from sidestream.providers.jsons import clean_text
from sidestream.store.library import PAGE
from sidestream.store.rows import State
from sidestream.store.shapes import RunFilter, TurnState, Unclear

if TYPE_CHECKING:
    import enum

    from aiohttp import web

E = TypeVar("E", bound="enum.StrEnum")

LONGEST_PAGE: Final = 200
"""Runs, hits or deliveries that one answer holds at most."""
_LONGEST_TEXT: Final = 1000
_LARGEST_NUMBER: Final = 2**63 - 1
_LATEST: Final = 253_402_300_799.0
"""The end of the year 9999, where calendars end."""
_ANSWERS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def filter_from(request: web.Request) -> RunFilter:
    """``dataset``, ``model``, ``state``, ``tool``, ``errors``, ``since``, ``until`` and ``everything``."""
    since, until = span_from(request)
    return RunFilter(
        dataset=text_from(request, "dataset"),
        model=text_from(request, "model"),
        state=choice_from(request, "state", TurnState),
        tool=text_from(request, "tool"),
        errors=flag_from(request, "errors"),
        since=since,
        until=until,
        everything=flag_from(request, "everything") or False,
    )


def span_from(request: web.Request) -> tuple[float | None, float | None]:
    """``since`` and ``until`` as Unix time, each None where it is not given."""
    now = time.time()
    return moment_from(request, "since", now), moment_from(request, "until", now)


def page_from(request: web.Request) -> tuple[int, str | None]:
    """``limit``, from 1 to `LONGEST_PAGE`, and ``before``."""
    return number_from(request, "limit", 1, LONGEST_PAGE) or PAGE, text_from(request, "before")


def states_from(request: web.Request) -> set[State] | None:
    """The ``state`` of deliveries: one, or none for all."""
    state = choice_from(request, "state", State)
    return None if state is None else {state}


def moment_from(request: web.Request, name: str, now: float) -> float | None:
    """Unix time of ``1790000000``, ``2026-11-22``, ``2026-11-22T14:00``, or so long before `now`: ``3d``."""
    text = text_from(request, name)
    if text is None:
        return None
    for read in (float, lambda ago: now - Duration.parse(ago), _date):
        try:
            moment = float(read(text))
        except (ValueError, OverflowError, OSError):
            continue
        if math.isfinite(moment) and abs(moment) <= _LATEST:
            return moment
    return _unclear(name, "a time: 2026-11-22T14:00, Unix seconds, or how long ago, such as 3d or 12h")


def text_from(request: web.Request, name: str) -> str | None:
    """Text, without space around it."""
    text = clean_text(request.query.get(name, "")).strip()
    if len(text) > _LONGEST_TEXT:
        _unclear(name, f"a text of at most {_LONGEST_TEXT} characters")
    return text or None


def number_from(request: web.Request, name: str, least: int = 0, most: int = _LARGEST_NUMBER) -> int | None:
    """A whole number within these bounds, both included."""
    text = text_from(request, name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    return _unclear(name, f"a whole number from {least} to {most}")


def flag_from(request: web.Request, name: str) -> bool | None:
    """``true`` or ``false``."""
    text = text_from(request, name)
    if text is None:
        return None
    if text not in _ANSWERS:
        _unclear(name, "true or false")
    return _ANSWERS[text]


def choice_from(request: web.Request, name: str, choices: type[E]) -> E | None:
    """One of some words."""
    text = text_from(request, name)
    if text is None:
        return None
    try:
        return choices(text)
    except ValueError:
        return _unclear(name, f"one of {', '.join(choices)}")


def query_with(request: web.Request, **changes: str | None) -> str:
    """This request's query with some parameters changed, or left out for None: ``?a=b``, or "" where none is left."""
    kept = {name: clean_text(value) for name, value in request.query.items() if value and name not in changes}
    added = {name: value for name, value in changes.items() if value is not None}
    return f"?{query}" if (query := urlencode(kept | added)) else ""


def _date(text: str) -> float:
    return datetime.fromisoformat(text).astimezone().timestamp()


def _unclear(name: str, expected: str) -> NoReturn:
    raise Unclear(f"{name}: expected {expected}")
