"""Listening sockets: every address of a host, one port, and plain words where that is not to be had."""

from __future__ import annotations

import resource
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sidestream.errors import SidestreamError
from sidestream.processes import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def closed(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    names = [sock.getsockname()[:2] for sock in sockets]
    for sock in sockets:
        sock.close()
    return names


def test_every_address_of_a_name_has_the_same_port() -> None:
    addresses = closed(listening.bind("localhost", 0))
    assert 1 == len({port for _, port in addresses})
    assert "127.0.0.1" in {host for host, _ in addresses}
    assert len(addresses) == len(set(addresses))


def test_they_do_not_block_and_listen() -> None:
    sockets = listening.bind("127.0.0.1", 0)
    assert not sockets[0].getblocking()
    with socket.create_connection(sockets[0].getsockname()):
        pass
    closed(sockets)


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SidestreamError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use$"):
            listening.bind("127.0.0.1", port, patience=0.1)


def test_a_port_that_is_let_go_of_meanwhile_is_taken() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    letting_go = threading.Timer(0.1, taken.close)
    letting_go.start()
    assert [("127.0.0.1", port)] == closed(listening.bind("127.0.0.1", port, patience=10))
    letting_go.join()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 64, "x..y"])
def test_a_host_that_is_not_here_is_a_clear_error(host: str) -> None:
    with pytest.raises(SidestreamError, match=r"^cannot listen on "):
        listening.bind(host, 0)


@pytest.fixture
def descriptors() -> Iterator[Callable[[int], None]]:
    """Sets how many this process may have, for the time of a test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_takes_two_descriptors_and_some_are_left_for_the_rest(
    descriptors: Callable[[int], None],
) -> None:
    descriptors(1064)
    assert 500 == listening.most_connections()


def test_there_is_room_for_one_connection_at_least(descriptors: Callable[[int], None]) -> None:
    descriptors(50)
    assert 1 == listening.most_connections()


def test_a_process_takes_as_many_descriptors_as_it_may(descriptors: Callable[[int], None]) -> None:
    descriptors(1000)
    listening.raise_descriptor_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)) == soft
