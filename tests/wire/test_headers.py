"""Which header fields travel on."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from sidestream.wire.headers import carriable, request_headers, response_headers


def head(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_hop_by_hop_fields_end_here_and_the_rest_keeps_its_order() -> None:
    fields = [
        ("A", "1"),
        ("TE", "trailers"),
        ("B", "2"),
        ("Upgrade", "h2c"),
        ("A", "3"),
        ("Keep-Alive", "1"),
        ("C", ""),
    ]
    assert [("A", "1"), ("B", "2"), ("A", "3"), ("C", "")] == list(request_headers(head(*fields)).items())


def test_fields_named_in_connection_end_here() -> None:
    fields = [
        ("Connection", "close, X-One"),
        ("connection", " x-two "),
        ("X-One", "1"),
        ("x-Two", "2"),
        ("X-Three", "3"),
    ]
    assert [("X-Three", "3")] == list(request_headers(head(*fields)).items())
    assert [("X-Three", "3")] == list(response_headers(head(*fields))[0].items())


def test_host_and_expect_are_of_the_request_alone() -> None:
    fields = [("Host", "h"), ("Expect", "100-continue")]
    assert [] == list(request_headers(head(*fields)).items())
    assert fields == list(response_headers(head(*fields))[0].items())


def test_two_spellings_of_a_name_are_kept_as_they_came() -> None:
    assert [("beta", "1"), ("Beta", "2")] == list(request_headers(head(("beta", "1"), ("Beta", "2"))).items())


@pytest.mark.parametrize("value", ["", "plain", "grün", "日本", "tab\there", 'quote"'])
def test_what_is_utf8_text_can_be_carried(value: str) -> None:
    assert carriable(head(("X", value)))


@pytest.mark.parametrize("value", ["\udcff", "a\x01", "\x7f", "\x00"])
def test_what_cannot_be_carried_back_is_left_out_and_said(value: str) -> None:
    assert not carriable(head(("X", value)))
    kept, exact = response_headers(head(("A", "1"), ("X", value), ("B", "2")))
    assert ([("A", "1"), ("B", "2")], False) == (list(kept.items()), exact)
