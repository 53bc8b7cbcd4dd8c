"""How many calls are let in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from structlog.testing import capture_logs

from sidestream.errors import GatewayError
from sidestream.wire.limits import CALM, Caps
from sidestream.wire.live import Live

if TYPE_CHECKING:
    from collections.abc import Iterable


def head(*fields: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(fields))


def refused(caps: Caps, headers: CIMultiDictProxy[str], under_way: int = 0) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        caps.admit(headers, under_way)
    return caught.value


NOBODY = head()
ANN = head(("x-api-key", "sk-ann"))
BEN = head(("x-api-key", "sk-ben"))


def test_as_many_calls_as_the_cap_says_are_let_in() -> None:
    caps = Caps(exchanges=2)
    caps.admit(ANN, 1)
    error = refused(caps, ANN, 2)
    assert (503, "too_busy", 1) == (error.status, error.code, error.retry_after)


def test_without_a_cap_any_number_is_let_in() -> None:
    assert frozenset() == Caps().admit(ANN, 1_000_000)


@pytest.mark.parametrize(("seconds", "said"), [(0.001, 1), (1, 1), (1.2, 2), (90, 90)])
def test_a_refused_client_is_told_whole_seconds(seconds: float, said: int) -> None:
    assert said == refused(Caps(exchanges=1, retry_after=seconds), ANN, 1).retry_after


def test_a_key_has_its_own_places_and_gets_them_back() -> None:
    caps = Caps(exchanges_per_key=2)
    first = caps.admit(ANN, 0)
    caps.admit(ANN, 1)
    error = refused(caps, ANN)
    assert (429, "key_too_busy", 1) == (error.status, error.code, error.retry_after)
    caps.admit(BEN, 2)
    caps.release(first)
    caps.admit(ANN, 2)
    refused(caps, ANN)


@pytest.mark.parametrize(
    "fields",
    [
        [("X-Api-Key", "sk-ann")],
        [("Authorization", "Bearer sk-ann")],
        [("authorization", "bearer  sk-ann ")],
        [("x-api-key", "sk-ann;invariant-auth=inv-1")],
        [("x-api-key", "sk-ann|invariant-auth: inv-1")],
        [("Authorization", "Bearer sk-ann;invariant-auth=inv-1")],
        [("x-api-key", "sk-made-up"), ("Authorization", "Bearer sk-ann")],
        [("x-api-key", "sk-made-up"), ("x-api-key", "sk-ann")],
    ],
)
def test_a_key_is_the_same_however_it_comes(fields: Iterable[tuple[str, str]]) -> None:
    caps = Caps(exchanges_per_key=1)
    caps.admit(ANN, 0)
    assert "key_too_busy" == refused(caps, head(*fields)).code


def test_calls_without_a_key_share_their_places() -> None:
    caps = Caps(exchanges_per_key=1)
    caps.admit(NOBODY, 0)
    refused(caps, head(("x-api-key", "")))
    caps.admit(ANN, 1)


def test_a_call_refused_for_one_of_its_keys_takes_no_place_of_the_other() -> None:
    caps = Caps(exchanges_per_key=1)
    caps.admit(ANN, 0)
    refused(caps, head(("x-api-key", "sk-ann"), ("Authorization", "Bearer sk-ben")))
    caps.admit(BEN, 1)


def test_nothing_is_kept_of_a_key_whose_calls_are_over_and_never_the_key_itself() -> None:
    caps = Caps(exchanges_per_key=1)
    keys = caps.admit(ANN, 0)
    assert 1 == len(caps.taken)
    assert not any(b"ann" in key for key in caps.taken)
    assert keys.isdisjoint(Caps(exchanges_per_key=1).admit(ANN, 0))
    caps.release(keys)
    assert {} == caps.taken


async def test_the_sweep_looks_whether_a_burst_is_over() -> None:
    class Asked(Caps):
        def check(self, now: float) -> None:
            assert now <= asyncio.get_running_loop().time()
            asked.set()

    asked = asyncio.Event()
    async with Live(caps=Asked()).sweeping(0.01), asyncio.timeout(5):
        await asked.wait()


def test_a_burst_of_refusals_is_logged_at_its_beginning_and_its_end() -> None:
    caps = Caps(exchanges=1, exchanges_per_key=1)
    caps.admit(ANN, 0)
    with capture_logs() as logs:
        for now in range(100, 105):
            refused(caps, BEN, 1)
            refused(caps, BEN, 1)
            caps.check(now)
        refused(caps, ANN)
        caps.check(104 + CALM - 1)
        assert ["limits.exchanges", "limits.exchanges_per_key"] == [entry["limit"] for entry in logs]
        caps.check(104 + CALM)
        caps.check(104 + CALM + 1)
        refused(caps, BEN, 1)
    said = [(entry["event"], entry["limit"], entry.get("refused"), entry["log_level"]) for entry in logs]
    assert [
        ("limit_reached", "limits.exchanges", None, "warning"),
        ("limit_reached", "limits.exchanges_per_key", None, "warning"),
        ("limit_relieved", "limits.exchanges", 10, "info"),
        ("limit_reached", "limits.exchanges", None, "warning"),
    ] == said
