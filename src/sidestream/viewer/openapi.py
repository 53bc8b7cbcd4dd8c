"""The description of the JSON API, as OpenAPI 3.1: what there is to ask, what to say with it, and what comes back.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec

from sidestream.store.rows import State
from sidestream.store.shapes import (
    DatasetSummary,
    DeliveryCounts,
    ExchangeRecord,
    HitPage,
    Overview,
    Run,
    Running,
    RunPage,
    TurnMessages,
    TurnState,
)

_TEXT: Final = {"type": "string"}
_FLAG: Final = {"type": "boolean"}
_TIME: Final = {"type": "string", "description": "Unix seconds, an ISO 8601 date or time, or how long ago: 3d, 12h."}


class _Parameter(NamedTuple):
    name: str
    schema: dict[str, Any]
    about: str


class _Operation(NamedTuple):
    method: str
    path: str
    about: str
    answer: Any
    query: tuple[_Parameter, ...] = ()


_FILTERS: Final = (
    _Parameter("dataset", _TEXT, "Only of this dataset."),
    _Parameter("model", _TEXT, "Only those whose latest turn used this model."),
    _Parameter("state", {"type": "string", "enum": [*TurnState]}, "Only those whose latest turn stands so."),
    _Parameter("tool", _TEXT, "Only those in which this tool was called."),
    _Parameter("errors", _FLAG, "Only those with errors, or without."),
    _Parameter("since", _TIME, "Only what began then or later."),
    _Parameter("until", _TIME, "Only what began before."),
    _Parameter("everything", _FLAG, "Branches and sub-agents, too."),
)
_PAGE: Final = (
    _Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 200}, "How many."),
    _Parameter("before", _TEXT, "The `next` of the page before."),
)
_SPAN: Final = (_FILTERS[0], _FILTERS[5], _FILTERS[6])
_DELIVERIES: Final = (
    _Parameter("state", {"type": "string", "enum": [*State]}, "Only those in this state."),
    _Parameter("sink", _TEXT, "Only to this sink."),
    _FILTERS[0],
)
_OLDER: Final = _Parameter("before", {"type": "integer", "minimum": 0}, "Only older ones than that with this id.")
_COUNTED: Final = dict[str, int]

OPERATIONS: Final = (
    _Operation("get", "/ui/api/datasets", "All datasets, the one with the latest turn first.", list[DatasetSummary]),
    _Operation("delete", "/ui/api/datasets/{dataset}", "Remove a dataset; how many turns it had.", _COUNTED),
    _Operation("get", "/ui/api/runs", "Runs, newest first.", RunPage, (*_FILTERS, *_PAGE)),
    _Operation("get", "/ui/api/runs/{run}", "A run, its turns in lines, and its family.", Run),
    _Operation("delete", "/ui/api/runs/{run}", "Remove a run with its branches and sub-agents.", _COUNTED),
    _Operation(
        "get",
        "/ui/api/runs/{run}/messages",
        "What turns of a run added.",
        list[TurnMessages],
        (
            _Parameter("first", {"type": "integer", "minimum": 1}, "From this turn on."),
            _Parameter("count", {"type": "integer", "minimum": 1, "maximum": 500}, "How many."),
        ),
    ),
    _Operation(
        "post",
        "/ui/api/runs/{run}/deliver",
        "Have a run delivered to a sink; how many turns.",
        _COUNTED,
        (_Parameter("sink", _TEXT, "The sink's name; needed."),),
    ),
    _Operation("get", "/ui/api/running", "The turns under way.", list[Running]),
    _Operation("get", "/ui/api/turns/{turn}", "What a turn added, or, under way, has added so far.", TurnMessages),
    _Operation("get", "/ui/api/turns/{turn}/record", "The exchange as it was on the wire.", ExchangeRecord),
    _Operation(
        "get",
        "/ui/api/search",
        "Messages with all of these words, newest first. A page may be empty and still have a `next`.",
        HitPage,
        (_Parameter("q", _TEXT, 'Words; "several together", or a beginning*.'), *_FILTERS, *_PAGE),
    ),
    _Operation(
        "get",
        "/ui/api/overview",
        "What happened in a span of time; of the last day, if nothing is said.",
        Overview,
        (*_SPAN, _Parameter("buckets", {"type": "integer", "minimum": 1, "maximum": 500}, "Into how many parts.")),
    ),
    _Operation(
        "get", "/ui/api/deliveries", "Where deliveries stand.", DeliveryCounts, (*_DELIVERIES, _PAGE[0], _OLDER)
    ),
    _Operation(
        "post",
        "/ui/api/redeliver",
        "Have deliveries begin anew that are dead or parked, or, if asked for, delivered; how many.",
        _COUNTED,
        (*_DELIVERIES, _Parameter("turn", _TEXT, "Only of this turn.")),
    ),
)
"""All but the feed and this description itself."""


@functools.cache
def description() -> dict[str, Any]:
    """The whole document."""
    answers = list(dict.fromkeys(str(operation.answer) for operation in OPERATIONS))
    kinds = {str(operation.answer): operation.answer for operation in OPERATIONS}
    schemas, components = msgspec.json.schema_components(
        [kinds[answer] for answer in answers], ref_template="#/components/schemas/{name}"
    )
    by_answer = dict(zip(answers, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = {
            "summary": operation.about,
            "parameters": [*_in_path(operation.path), *map(_in_query, operation.query)],
            "responses": {
                "200": {
                    "description": "What was asked for.",
                    "content": {"application/json": {"schema": by_answer[str(operation.answer)]}},
                },
                "default": {
                    "description": "Why not, in words.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
        }
    paths["/ui/api/events"] = _EVENTS
    problem = {"type": "object", "properties": {"error": _TEXT, "detail": _TEXT}, "required": ["error", "detail"]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sidestream",
            "version": version("sidestream"),
            "description": "Times are Unix seconds, durations seconds, sizes bytes, costs US dollars.",
        },
        "paths": paths,
        "components": {"schemas": {**components, "Problem": problem}},
    }


_EVENTS: Final = {
    "get": {
        "summary": "What happens, as server-sent events: began, progress, ended, gone, removed, reset.",
        "parameters": [
            {"name": name, "in": place, "schema": _TEXT, "description": about}
            for name, place, about in (
                ("dataset", "query", "Only of this dataset."),
                ("run", "query", "Only of this run."),
                ("kinds", "query", "Only events of these kinds, with commas between."),
                ("after", "query", "The id of the last event that is known."),
                ("Last-Event-ID", "header", "The same."),
            )
        ],
        "responses": {"200": {"description": "Without end.", "content": {"text/event-stream": {"schema": _TEXT}}}},
    }
}


def _in_path(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]


def _in_query(parameter: _Parameter) -> dict[str, Any]:
    return {"name": parameter.name, "in": "query", "schema": parameter.schema, "description": parameter.about}
