"""A document becomes a configuration, and a plan; what prints meanwhile is not in the plan's way."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sidestream.errors import ConfigError
from sidestream.processes.channel import Document
from sidestream.processes.checking import configured, planned
from sidestream.processes.plan import understood

if TYPE_CHECKING:
    from pathlib import Path

EXPLORER = "sinks: [{explorer: {url: 'http://e', api_key: %s}}]\n"


def test_the_command_line_goes_before_the_file() -> None:
    server = configured(Document("f", b"server: {host: 127.0.0.2, port: 9}", "::1", 0)).server
    assert ("::1", 0) == (server.host, server.port)
    server = configured(Document("f", b"server: {host: 127.0.0.2, port: 9}")).server
    assert ("127.0.0.2", 9) == (server.host, server.port)


def test_a_host_that_is_none_names_its_option() -> None:
    with pytest.raises(ConfigError, match=r"^--host: expected a host name"):
        configured(Document(None, b"server: {prot: 1}", ""))


def test_the_plan_has_the_place_and_mode_that_automatic_means() -> None:
    made = planned(configured(Document("f", b"{server: {drain: 1m}, recorder: {dir: /d/e}}")))
    assert ("process", "/d/e", 60.0, 1) == (made.mode, made.directory, made.drain, made.workers)
    made = planned(configured(Document("f", b"recorder: {dir: ~/e, mode: thread}")))
    assert "thread" == made.mode
    assert made.directory.startswith("/")


def digest(text: str) -> str:
    return planned(configured(Document("f", text.encode()))).digest


def test_the_digest_tells_what_concerns_the_recorder_and_shows_no_secret() -> None:
    assert digest(EXPLORER % "inv-1") == digest(EXPLORER % "inv-1" + "server: {workers: 2}")
    assert digest(EXPLORER % "inv-1") != digest(EXPLORER % "inv-2")
    assert digest("recorder: {flush: 1s}") != digest("recorder: {flush: 2s}")
    assert "inv-1" not in digest(EXPLORER % "inv-1")


def test_a_plan_is_one_line_whatever_plugins_print(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "print('sk-loud')\nasync def mw(request, handler): return await handler(request)\n"
    )
    document = Document("f", b"middlewares: ['loud:mw']\nsinks: []")
    done = subprocess.run(
        [sys.executable, "-m", "sidestream", "plan"],
        input=document.encode(),
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert "127.0.0.1" == understood(done.stdout, 0).host
    assert b"sk-loud\n" == done.stderr
