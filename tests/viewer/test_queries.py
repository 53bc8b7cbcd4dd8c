from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import make_mocked_request

from sidestream.store.library import PAGE
from sidestream.store.rows import State
from sidestream.store.shapes import RunFilter, TurnState, Unclear
from sidestream.viewer import queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

NOW = 1_790_000_000.0


def asked(query: str = "", **parameters: str) -> web.Request:
    return make_mocked_request("GET", f"/?{query or urlencode(parameters)}")


def test_a_query_of_everything_is_a_filter_of_everything() -> None:
    request = asked(
        dataset="demo",
        model="claude-x",
        state="failed",
        tool="look",
        errors="true",
        since="10",
        until="20.5",
        everything="true",
    )

    expected = RunFilter(
        dataset="demo",
        model="claude-x",
        state=TurnState.FAILED,
        tool="look",
        errors=True,
        since=10.0,
        until=20.5,
        everything=True,
    )
    assert expected == queries.filter_from(request)


def test_what_a_form_leaves_empty_is_not_asked_for() -> None:
    request = asked(dataset="", model=" ", state="", tool="", errors="", since="", until="", everything="")

    assert RunFilter() == queries.filter_from(request)
    assert (PAGE, None) == queries.page_from(asked(limit="", before=""))


def test_without_a_query_everything_may_be_meant() -> None:
    assert RunFilter() == queries.filter_from(make_mocked_request("GET", "/"))


@pytest.mark.parametrize(("text", "flag"), [("true", True), ("1", True), ("yes", True), ("false", False), ("0", False)])
def test_a_flag_is_true_or_false(text: str, flag: bool) -> None:
    assert flag is queries.flag_from(asked(errors=text), "errors")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1790000000", NOW),
        ("1790000000.25", NOW + 0.25),
        ("3d", NOW - 3 * 86400),
        ("90m", NOW - 5400),
        ("2026-11-22T14:00:00+00:00", datetime(2026, 11, 22, 14, tzinfo=UTC).timestamp()),
        ("2026-11-22", datetime(2026, 11, 22).astimezone().timestamp()),  # where the reader is
    ],
)
def test_a_time_is_unix_seconds_a_date_or_how_long_ago(text: str, moment: float) -> None:
    assert moment == queries.moment_from(asked(since=text), "since", NOW)


def test_both_ends_of_a_span_are_read_by_themselves() -> None:
    assert (None, 20.0) == queries.span_from(asked(until="20"))


@pytest.mark.parametrize(("query", "page"), [("limit=1", (1, None)), ("limit=200&before=abc", (200, "abc"))])
def test_a_page_has_a_length_and_a_place(query: str, page: tuple[int, str | None]) -> None:
    assert page == queries.page_from(asked(query))


def test_deliveries_are_asked_for_by_one_state_or_all() -> None:
    assert {State.DEAD} == queries.states_from(asked(state="dead"))
    assert queries.states_from(asked()) is None


@pytest.mark.parametrize(
    ("read", "query"),
    [
        (queries.filter_from, "state=no-such"),
        (queries.filter_from, "errors=no-such"),
        (queries.filter_from, "everything=no-such"),
        (queries.filter_from, "since=no-such"),
        (queries.filter_from, "since=nan"),
        (queries.filter_from, "since=-inf"),
        (queries.filter_from, "until=1e300"),
        (queries.filter_from, "until=9999999d"),
        (queries.filter_from, f"dataset={'no-such' * 200}"),
        (queries.states_from, "state=no-such"),
        (queries.page_from, "limit=0"),
        (queries.page_from, "limit=201"),
        (queries.page_from, "limit=no-such"),
        (queries.page_from, "limit=%D9%A1"),
        (queries.page_from, f"limit={'9' * 900}"),
    ],
)
def test_what_cannot_be_understood_is_named_and_not_repeated(read: Callable[[web.Request], Any], query: str) -> None:
    with pytest.raises(Unclear) as caught:
        read(asked(query))

    assert str(caught.value).startswith(f"{query.partition('=')[0]}: expected ")
    assert "no-such" not in str(caught.value)


@pytest.mark.parametrize("query", ["dataset=%FF%FE", "dataset=%ED%A0%80", "dataset=%00", "dataset=a&dataset=b"])
def test_any_bytes_can_be_a_name_that_a_store_takes(query: str) -> None:
    name = queries.text_from(asked(query), "dataset")

    assert name is None or name.encode()


def test_a_query_goes_on_with_some_of_it_changed() -> None:
    request = asked("dataset=a%26b&q=&before=x&limit=5")

    assert "?dataset=a%26b&limit=5&before=y+z" == queries.query_with(request, before="y z")
    assert "?dataset=a%26b&limit=5" == queries.query_with(request, before=None)
    assert "" == queries.query_with(asked("before=x"), before=None)
