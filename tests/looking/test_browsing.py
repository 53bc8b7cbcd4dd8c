"""Where the viewer is."""

from __future__ import annotations

import pytest

from sidestream.config import Server
from sidestream.errors import SidestreamError
from sidestream.looking.browsing import address, path_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8005/"),
        ("0.0.0.0", "http://127.0.0.1:8005/"),
        ("::", "http://[::1]:8005/"),
        ("::1", "http://[::1]:8005/"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:8005/"),
        ("traces.example", "http://traces.example:8005/"),
    ],
)
def test_the_viewer_is_where_the_gateway_listens(host: str, expected: str) -> None:
    assert expected == address(Server(host=host))


def test_a_port_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(SidestreamError, match="any free one"):
        address(Server(port=0))


def test_a_run_has_a_page_whatever_its_id() -> None:
    assert ("runs/0a1b", "runs/a%2Fb%3Fc") == (path_of("0a1b"), path_of("a/b?c"))
