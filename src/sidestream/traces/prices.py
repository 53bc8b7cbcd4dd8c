"""What a call cost by its provider's list prices: those that come with the package genai-prices, as they came.

The package is an extra, and imported when the first call is to be priced. Its updater is not used, nor anything that
somebody else in the same process has had it fetch. Prices depend on more than tokens; where a call's usage shows
something that this module does not know the price of, there is no cost: none is better than a wrong one.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genai_prices.types import ModelInfo, ModelPrice, Provider, Tier

_LONGEST_NAME: Final = 200
_MOST: Final = 1 << 40
"""Tokens beyond this are not counted but made up."""
_MOST_PROBED: Final = 1
"""Tokens in the prompts by which prices are worked out."""
_FAULTS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)
_KNOWN: Final = {
    "cache_creation",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "inference_geo",
    "input_tokens",
    "iterations",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "service_tier",
    "speed",
}
_AT_LIST_PRICE: Final[dict[str, tuple[Any, ...]]] = {
    "service_tier": (None, "standard"),
    "inference_geo": (None, "global", "not_available"),
    "speed": (None, "standard", "fast"),
}
_PRICES: Final = {
    "input_tokens": "input_mtok",
    "cache_write_tokens": "cache_write_mtok",
    "cache_write_1h_tokens": "cache_write_1h_mtok",
    "cache_read_tokens": "cache_read_mtok",
    "output_tokens": "output_mtok",
    "web_searches": "web_searches_kcount",
}
"""What may be counted, and what the package calls the price of it."""


def cost_of(
    model: str | None,
    usage: Mapping[str, Any] | None,
    at: float,
    provider: str,
    *,
    asked: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """The cost of a call that began `at` (Unix time in seconds); None where it is not known for certain. Never raises.

    `usage` is the whole answer's, as the provider sent it. `asked` are the request's parameters: what they say of the
    speed and the place counts where the usage says nothing.

    The cost is ``{"usd": 0.001935, "prices": "genai-prices 0.2.3"}``: US dollars as a float, rounded to ten decimals
    (a token costs a few millionths), and where the prices are from. What usages do not show, such as the time of a
    container in which code is run, is not in it.
    """
    if provider != "anthropic" or not model or not usage or len(model) > _LONGEST_NAME:
        return None
    try:
        told = {key: asked[key] for key in ("speed", "inference_geo") if asked and key in asked}
        told |= {key: value for key, value in usage.items() if value is not None}
        return _priced(model, told, datetime.fromtimestamp(at, UTC))
    except _FAULTS:
        return None


def _priced(model: str, usage: Mapping[str, Any], at: datetime) -> dict[str, Any] | None:
    counts = _counted(model, usage)
    found = _model(model)
    if found is None:
        return None
    provider, info = found
    context = {"speed": "fast"} if usage.get("speed") == "fast" else None
    if context and not _has_prices_for(info, context, at):
        return None
    prices = info.get_prices(at, context)
    if not _covers(prices, counts) or (_is_loop(usage) and _depends_on_length(prices)):
        return None
    rates = _rates_of(prices) if context is None else None  # in a context these are made anew for each call
    if rates is not None and counts["input_tokens"] <= rates.until:
        total = sum((count * rates.per_unit[unit] for unit, count in counts.items() if count), Decimal())
    else:
        total = _asked(counts, info, provider, at, context)
    return {"usd": float(round(total, 10)), "prices": _version()}


class _Rates(NamedTuple):
    """Prices of a model that are the same for each token, in US dollars."""

    per_unit: Mapping[str, Decimal]
    until: float
    """For prompts of up to so many tokens."""


_RATES: Final[dict[int, tuple[ModelPrice, _Rates | None]]] = {}
"""By the identity of the package's own lists of prices, which stay as long as it is there."""


def _rates_of(prices: ModelPrice) -> _Rates | None:
    known = _RATES.get(id(prices))
    if known is None:
        known = _RATES[id(prices)] = prices, _worked_out(prices)
    return known[1]


def _worked_out(prices: ModelPrice) -> _Rates | None:
    """What the package takes for one of each; None where its price is more than a sum of these.

    To reckon anew what it makes of a whole usage costs it as much as all else that is understood of a short call.
    """
    until = min((tier.start for unit in _PRICES.values() for tier in _tiers(prices, unit)), default=float("inf"))
    if _total(prices) or until < _MOST_PROBED:
        return None
    plain, written = _total(prices, input_tokens=1), _total(prices, input_tokens=1, cache_write_tokens=1)
    kept = _total(prices, input_tokens=1, cache_write_tokens=1, cache_write_1h_tokens=1)
    per_unit = {
        "input_tokens": plain,
        "cache_write_tokens": written - plain,
        "cache_write_1h_tokens": kept - written,
        "cache_read_tokens": _total(prices, input_tokens=1, cache_read_tokens=1) - plain,
        "output_tokens": _total(prices, output_tokens=1),
        "web_searches": _total(prices, web_searches=1),
    }
    return _Rates(per_unit, until)


def _tiers(prices: ModelPrice, unit: str) -> Sequence[Tier]:
    return getattr(getattr(prices, unit), "tiers", ())


def _total(prices: ModelPrice, **counts: int) -> Decimal:
    import genai_prices  # noqa: PLC0415  # an extra

    return prices.calc_price(genai_prices.Usage(**counts))["total_price"]


def _asked(
    counts: Mapping[str, int], info: ModelInfo, provider: Provider, at: datetime, context: Mapping[str, str] | None
) -> Decimal:
    """The price as the package has it."""
    import genai_prices  # noqa: PLC0415  # an extra

    usage = genai_prices.Usage(**counts)
    return info.calc_price(usage, provider, genai_request_timestamp=at, price_context=context).total_price


@functools.cache
def _version() -> str:
    import genai_prices  # noqa: PLC0415  # an extra

    return f"genai-prices {genai_prices.__version__}"


@functools.cache
def _provider() -> Provider | None:
    try:
        from genai_prices.data import providers  # noqa: PLC0415  # an extra
    except ImportError:
        return None
    return next((provider for provider in providers if provider.id == "anthropic"), None)


@functools.lru_cache(maxsize=256)
def _model(name: str) -> tuple[Provider, ModelInfo] | None:
    provider = _provider()
    info = provider.find_model(name) if provider is not None else None
    return (provider, info) if provider is not None and info is not None else None


def _counted(model: str, usage: Mapping[str, Any]) -> dict[str, int]:
    """What is to be paid for, as the package counts it: its input tokens include those of the cache.

    Raises one of `_FAULTS` where the usage is not what it should be, or shows what has no price here.
    """
    if any(usage[key] for key in usage.keys() - _KNOWN):
        raise ValueError("the usage shows what is not known")
    if any(usage.get(key) not in values for key, values in _AT_LIST_PRICE.items()):
        raise ValueError("not at the list price")
    _check_iterations(model, usage)
    written, read = (_count(usage.get(f"cache_{done}_input_tokens", 0)) for done in ("creation", "read"))
    return {
        "input_tokens": _count(usage["input_tokens"]) + written + read,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": _kept_for_an_hour(usage.get("cache_creation"), written),
        "cache_read_tokens": read,
        "output_tokens": _count(usage["output_tokens"]),
        "web_searches": _searches(usage.get("server_tool_use", {})),
    }


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError("not a count")
    return value


def _kept_for_an_hour(parts: Any, written: int) -> int:
    """The part of the tokens written to the cache that is kept for an hour; without a word about it, five minutes."""
    if parts is None:
        return 0
    minutes, hour = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
    counts = {key: _count(count or 0) for key, count in parts.items()}
    if any(counts[key] for key in counts.keys() - {minutes, hour}) or sum(counts.values()) != written:
        raise ValueError("the parts of what was written to the cache are not the whole")
    return counts.get(hour, 0)


def _searches(tools: Mapping[str, Any]) -> int:
    """Web searches. What is fetched from the web costs its tokens only."""
    if any(tools[key] for key in tools.keys() - {"web_search_requests", "web_fetch_requests"}):
        raise ValueError("a tool that may cost more than its tokens")
    return _count(tools.get("web_search_requests") or 0)


def _check_iterations(model: str, usage: Mapping[str, Any]) -> None:
    """Only those of the model itself are within the totals; compaction, advisors and fallbacks are paid for besides."""
    for each in usage.get("iterations", ()):
        if each["type"] != "message" or each.get("model") not in {None, model}:
            raise ValueError("more than the model's own words")


def _has_prices_for(info: ModelInfo, context: Mapping[str, str], at: datetime) -> bool:
    return any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(at))
        for variant in info.price_variants or ()
    )


def _covers(prices: ModelPrice, counts: Mapping[str, int]) -> bool:
    """Whether all that was counted has a price of its own."""
    return all(getattr(prices, _PRICES[unit]) is not None for unit, count in counts.items() if count)


def _is_loop(usage: Mapping[str, Any]) -> bool:
    """Whether the totals are of several prompts."""
    return len(usage.get("iterations", ())) > 1 or any(usage.get("server_tool_use", {}).values())


def _depends_on_length(prices: ModelPrice) -> bool:
    """Whether longer prompts cost more per token, so that the sum of several prompts tells nothing."""
    return any(hasattr(getattr(prices, price), "tiers") for price in _PRICES.values())
