"""What a call cost: a right number, or none."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.traces.prices import _KNOWN, _model, _provider, cost_of

if TYPE_CHECKING:
    from collections.abc import Iterator

NOVEMBER = datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()
SONNET = "claude-sonnet-4-6"
USAGE: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100}
FLAT = {"service_tier": "standard", "inference_geo": "global", "speed": "standard"}


def dollars(usage: Any, model: str = SONNET, at: float = NOVEMBER, **more: Any) -> Any:
    cost = cost_of(model, usage, at, "anthropic", **more)
    return None if cost is None else cost["usd"]


def test_a_cost_says_where_its_prices_are_from() -> None:
    expected = {"usd": 0.0045, "prices": f"genai-prices {genai_prices.__version__}"}
    assert expected == cost_of(SONNET, USAGE, NOVEMBER, "anthropic")


def test_what_was_read_from_the_cache_costs_less_and_is_no_part_of_the_input() -> None:
    assert dollars(USAGE) + 0.3e-6 * 2000 == pytest.approx(dollars(USAGE | {"cache_read_input_tokens": 2000}))


def test_what_was_written_to_the_cache_costs_more_and_most_if_it_is_kept_for_an_hour() -> None:
    written = USAGE | {"cache_creation_input_tokens": 2000}
    parts = {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500}
    assert dollars(USAGE) + 3.75e-6 * 2000 == pytest.approx(dollars(written))
    assert dollars(USAGE) + 3.75e-6 * 500 + 6e-6 * 1500 == pytest.approx(dollars(written | {"cache_creation": parts}))


def test_web_searches_are_paid_for_and_fetches_are_not() -> None:
    tools = {"web_search_requests": 3, "web_fetch_requests": 5}
    assert dollars(USAGE) + 0.03 == pytest.approx(dollars(USAGE | {"server_tool_use": tools}))


def test_fast_answers_cost_more_where_the_price_is_known() -> None:
    assert (1000 * 5 + 100 * 25) / 1e6 == pytest.approx(dollars(USAGE, "claude-opus-4-8"))
    assert (1000 * 10 + 100 * 50) / 1e6 == pytest.approx(dollars(USAGE | {"speed": "fast"}, "claude-opus-4-8"))
    assert dollars(USAGE | {"speed": "fast"}) is None


def test_the_price_is_that_of_the_day_on_which_the_call_began() -> None:
    long = {"input_tokens": 300_000, "output_tokens": 0}
    before, after = (datetime(2026, 3, day, tzinfo=UTC).timestamp() for day in (12, 13))
    assert (3.0, 1.5) == (dollars(long, "claude-opus-4-6", before), dollars(long, "claude-opus-4-6", after))


def test_what_costs_nothing_more_changes_nothing() -> None:
    details = {
        "output_tokens_details": {"thinking_tokens": 90},
        "iterations": [{"type": "message", "input_tokens": 1000, "output_tokens": 100}],
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "server_tool_use": None,
        "cache_read_input_tokens": None,
        "something_new": 0,
    }
    assert dollars(USAGE) == dollars(USAGE | FLAT | details)


@pytest.mark.parametrize(
    "shown",
    [
        {"service_tier": "priority"},
        {"service_tier": "batch"},
        {"inference_geo": "us"},
        {"speed": "warp"},
        {"server_tool_use": {"code_execution_requests": 1}},
        {"cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_5m_input_tokens": 5}},
        {"cache_creation": {"ephemeral_1h_input_tokens": 5}},
        {"iterations": [{"type": "compaction", "input_tokens": 9, "output_tokens": 9}]},
        {"iterations": [{"type": "message", "model": "claude-opus-4-8"}]},
        {"fallback_credit": {"input_tokens": 3}},
        {"something_new": 1},
    ],
)
def test_there_is_no_cost_where_the_usage_shows_what_has_no_known_price(shown: dict[str, Any]) -> None:
    assert dollars(USAGE | shown) is None


def test_what_was_asked_for_counts_where_the_usage_says_nothing_of_it() -> None:
    assert dollars(USAGE, asked={"inference_geo": "us"}) is None
    assert dollars(USAGE, asked={"speed": "fast"}) is None
    assert dollars(USAGE) == dollars(USAGE | FLAT, asked={"inference_geo": "us", "speed": "fast"})
    assert dollars(USAGE) == dollars(USAGE, asked={"temperature": 1})


def test_there_is_no_cost_where_a_model_has_no_price_for_what_was_counted() -> None:
    assert dollars(USAGE, "claude-2.1") is not None
    assert dollars(USAGE | {"cache_creation_input_tokens": 9}, "claude-2.1") is None
    assert dollars(USAGE | {"server_tool_use": {"web_search_requests": 1}}, "claude-3-haiku-20240307") is None


def test_where_longer_prompts_cost_more_the_sum_of_several_tells_nothing() -> None:
    rounds = {"iterations": [{"type": "message"}, {"type": "message"}]}
    assert dollars(USAGE | rounds) == dollars(USAGE)
    assert dollars(USAGE, "claude-haiku-5-5") is not None
    assert dollars(USAGE | rounds, "claude-haiku-5-5") is None
    assert dollars(USAGE | {"server_tool_use": {"web_search_requests": 1}}, "claude-haiku-5-5") is None


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"input_tokens": 1000},
        {"output_tokens": 100},
        *(
            USAGE | {key: value}
            for key in (
                "input_tokens",
                "output_tokens",
                "cache_read_input_tokens",
                "cache_creation_input_tokens",
                "cache_creation",
                "server_tool_use",
                "service_tier",
                "iterations",
            )
            for value in ("1", -1, 1.5, math.nan, 10**30, [1], {"a": 1}, True)
        ),
    ],
)
def test_a_usage_that_is_not_what_it_should_be_has_no_cost(usage: Any) -> None:
    assert dollars(usage) is None


@pytest.mark.parametrize("model", [None, "", "claude-test-1", "gpt-5", "claude-sonnet-4-6" * 20, "\ud83d"])
def test_an_unknown_model_has_no_cost(model: str | None) -> None:
    assert cost_of(model, USAGE, NOVEMBER, "anthropic") is None


def test_another_provider_has_no_cost() -> None:
    assert cost_of(SONNET, USAGE, NOVEMBER, "openai") is None


@pytest.mark.parametrize("at", [math.nan, math.inf, 1e300, -1e300])
def test_a_time_that_is_none_has_no_cost(at: float) -> None:
    assert dollars(USAGE, at=at) is None


@pytest.fixture
def without_the_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    _provider.cache_clear()
    _model.cache_clear()
    yield
    _provider.cache_clear()
    _model.cache_clear()


@pytest.mark.usefixtures("without_the_package")
def test_without_the_package_there_is_no_cost() -> None:
    assert dollars(USAGE) is None


@pytest.mark.parametrize(
    "more",
    [
        {"cache_read_input_tokens": 70, "cache_creation_input_tokens": 0},
        {
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
        {"server_tool_use": {"web_search_requests": 2}, "output_tokens_details": {"thinking_tokens": 50}},
    ],
)
def test_it_counts_as_the_package_does(more: dict[str, Any]) -> None:
    told = genai_prices.extract_usage({"model": SONNET, "usage": USAGE | more}, provider_id="anthropic")
    expected = told.calc_price(genai_request_timestamp=datetime.fromtimestamp(NOVEMBER, UTC)).total_price
    assert float(expected) == pytest.approx(dollars(USAGE | more))


NUMBERS = st.integers() | st.floats() | st.text() | st.none() | st.booleans()
NAMES = [*sorted(_KNOWN), "something_new"]
COUNTS = st.sampled_from([0, 1, 3, 999, 199_999, 200_000, 200_001]) | st.integers(0, 1 << 38)


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        NUMBERS
        | st.lists(NUMBERS)
        | st.dictionaries(st.text(), NUMBERS)
        | st.lists(st.dictionaries(st.text(), NUMBERS)),
    ),
    st.text() | st.just(SONNET),
)
def test_no_usage_makes_it_raise(usage: dict[str, Any], model: str) -> None:
    cost = dollars(usage, model)
    assert cost is None or cost >= 0


@given(
    model=st.sampled_from([name for provider in [_provider()] if provider for name in (m.id for m in provider.models)]),
    read=COUNTS,
    written=COUNTS,
    kept=COUNTS,
    fresh=COUNTS,
    output=COUNTS,
    searches=st.integers(0, 20),
    speed=st.sampled_from(["standard", "fast"]),
    at=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_every_price_is_the_package_s_to_the_last_decimal(
    model: str,
    read: int,
    written: int,
    kept: int,
    fresh: int,
    output: int,
    searches: int,
    speed: str,
    at: datetime,
) -> None:
    usage = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written + kept,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": kept},
        "output_tokens": output,
        "server_tool_use": {"web_search_requests": searches},
        "speed": speed,
    }
    counts = genai_prices.Usage(
        input_tokens=fresh + read + written + kept,
        cache_write_tokens=written + kept,
        cache_write_1h_tokens=kept,
        cache_read_tokens=read,
        output_tokens=output,
        web_searches=searches,
    )
    context = {"speed": "fast"} if speed == "fast" else None
    cost = dollars(usage, model, at.timestamp())
    expected = genai_prices.calc_price(
        counts, model, provider_id="anthropic", genai_request_timestamp=at, price_context=context
    )
    assert cost is None or float(round(expected.total_price, 10)) == cost


def test_the_model_with_tiers_costs_what_the_package_says_on_either_side_of_each() -> None:
    model = "claude-sonnet-4-5"
    for tokens in (1, 199_999, 200_000, 200_001, 1_000_000):
        usage = genai_prices.Usage(input_tokens=tokens, output_tokens=7)
        when = datetime.fromtimestamp(NOVEMBER, UTC)
        expected = genai_prices.calc_price(usage, model, provider_id="anthropic", genai_request_timestamp=when)
        assert float(expected.total_price) == dollars({"input_tokens": tokens, "output_tokens": 7}, model)
