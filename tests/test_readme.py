"""The README's and the documentation's code does what stands beside it: every block is run, or checked as it says.

A block is announced by an HTML comment, which no reader sees: ``<!-- check: … -->`` in the README says how it is
checked here, ``<!-- file: … -->`` in docs/ names the module it is run as.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner
from multidict import CIMultiDict

from conversing import START, Call, text, user
from delivering import Bench
from rawhttp import exchange, post
from recorded import look, recorded
from sidestream import config, create_app, testing
from sidestream.cli import main
from sidestream.middlewares.auth_split import split
from sidestream.sinks.jsonl import Jsonl
from sidestream.store.api_keys import ApiKeys
from sidestream.testing import ScriptedUpstream, gateway, running
from sidestream.testing.upstream import STREAM_HEAD, Connection, Received, chunk
from sidestream.traces.model import Turn
from sidestream.viewer import events, explorer, openapi, run_page
from sidestream.viewer.envelope import PAGE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
ORIGIN = "http://127.0.0.1:8005"
STREAM = (Path(__file__).parent / "fixtures" / "anthropic" / "text.sse").read_bytes()
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]+?) -->\n\s*)?^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block: how it is announced, what it is written in, and its text."""

    mark: str
    language: str
    code: str


def blocks(file: Path) -> list[Block]:
    return [
        Block(match["mark"] or "", match["language"], textwrap.dedent(match["code"]))
        for match in BLOCK.finditer(file.read_text())
    ]


def marked(file: Path, mark: str) -> list[str]:
    """The text of every block with this announcement; at least one."""
    found = [block.code for block in blocks(file) if block.mark == mark]
    assert found, f"{file.name} has no block with <!-- {mark} -->"
    return found


IN_README = blocks(README)
SHELL = [block for block in IN_README if block.language == "sh"]


def where(block: Block) -> str:
    return block.code.splitlines()[0]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put blocks where they can be imported from, under the names they go by."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: list[str] = []

    def install(name: str, code: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(code)
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield install
    for name in names:
        sys.modules.pop(name, None)


async def streams(_received: Received, connection: Connection) -> None:
    await connection.send(STREAM_HEAD + chunk(STREAM) + chunk(b""))


# The README's blocks.


def test_every_block_of_the_readme_says_how_it_is_checked() -> None:
    checks = {
        "check: make targets",
        "check: commands",
        "check: run against a gateway",
        "check: run with a stand-in for claude",
        "check: run against a store",
        "check: the defaults",
        "check: loads",
        "check: loads for a team",
        "check: run as count_bytes.py",
        "check: chain for count_bytes.py",
        "check: run as service.py",
    }
    assert checks == {block.mark for block in IN_README}


def bare_words(text: str) -> list[str]:
    """The lines that are a word in capitals, and nothing else."""
    return re.findall(r"^[ \t]*([A-Z][A-Z0-9_]*)[ \t]*$", text, re.MULTILINE)


def test_no_line_of_the_readme_is_a_placeholder_that_was_forgotten() -> None:
    assert ["RESULTS", "TO_DO"] == bare_words("# MIT\nRESULTS\n\nThe HTTP\n TO_DO \n")
    assert [] == bare_words(README.read_text())


@pytest.mark.parametrize("block", SHELL, ids=where)
def test_shell_blocks_are_shell(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)


def test_the_make_targets_exist() -> None:
    """They are not run here: one of them is the demo, which has tests of its own, and the other never ends."""
    lines = [line for code in marked(README, "check: make targets") for line in code.splitlines()]
    targets = [re.fullmatch(r"make ([a-z]+) +# .+", line) for line in lines]
    assert ["demo", "serve"] == [target and target[1] for target in targets]
    planned = subprocess.run(
        ["make", "-n", "demo", "serve"], cwd=ROOT, env=free_of_make(), capture_output=True, text=True, check=True
    ).stdout
    assert "bin/sidestream demo" in planned
    assert "bin/sidestream serve" in planned


def free_of_make() -> dict[str, str]:
    """The environment without what a make that runs these tests hands down."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def test_the_commands_exist_and_so_do_the_files_they_name() -> None:
    lines = [line for code in marked(README, "check: commands") for line in code.splitlines()]
    ours = [line.partition(" #")[0].split()[1:] for line in lines if line.startswith(".venv/bin/sidestream ")]
    assert [["serve"], ["serve", "--host", "0.0.0.0"], ["keys", "create", "laptops"]] == ours
    assert [0, 0, 0] == [CliRunner().invoke(main, [*words, "--help"]).exit_code for words in ours]
    others = {line for line in lines if not line.startswith(".venv/bin/sidestream ")}
    assert others == {"python3 -m venv .venv", ".venv/bin/python -m pip install ."}


def test_the_commands_that_show_what_was_recorded_show_it(tmp_path: Path) -> None:
    """But for the one that waits for turns, which has tests of its own."""
    [code] = marked(README, "check: run against a store")
    commands = [shlex.split(line, comments=True)[1:] for line in code.splitlines()]
    assert ["tail", "traces", "show", "search"] == [words[0] for words in commands]
    file = recorded(tmp_path, Call("1", [user("Why is the sky blue?")], [text("It scatters.")], START))
    for words in commands[1:]:
        shown = look(file, *words)
        assert (0, True) == (shown.exit_code, "the sky blue?" in shown.stdout), words


async def test_the_sdk_block_prints_the_answer(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.script = streams
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-canary")
    [code] = marked(README, "check: run against a gateway")
    assert ORIGIN in code
    async with gateway(upstream.url) as url:
        (tmp_path / "ask.py").write_text(code.replace(ORIGIN, url.removesuffix("/api/v1/gateway")))
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(tmp_path / "ask.py"), stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
    assert "".join(told(STREAM)) == printed.decode()
    assert "Why is the sky blue?" in upstream.requests[0].body.decode()


def told(stream: bytes) -> list[str]:
    """The text deltas of a stream."""
    events = [json.loads(line.removeprefix(b"data:")) for line in stream.splitlines() if line.startswith(b"data:")]
    return [event["delta"]["text"] for event in events if event.get("delta", {}).get("type") == "text_delta"]


def test_both_sdks_are_given_the_same_base_url() -> None:
    [typescript] = re.findall(r'`new Anthropic\(\{ baseURL: "([^"]+)" \}\)`', README.read_text())
    [python] = marked(README, "check: run against a gateway")
    assert [typescript] == re.findall(r"http://[^\"]+", python)


@pytest.mark.parametrize("number", [0, 1])
def test_a_coding_agent_is_given_base_url_and_key(number: int, tmp_path: Path) -> None:
    """A stand-in for the agent tells what it was started with."""
    code = marked(README, "check: run with a stand-in for claude")[number]
    stand_in = tmp_path / "claude"
    stand_in.write_text('#!/bin/sh\necho "$ANTHROPIC_BASE_URL"\necho "$ANTHROPIC_CUSTOM_HEADERS"\n')
    stand_in.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "EXPLORER_KEY": "inv-canary"}
    done = subprocess.run(["bash", "-ec", code], env=env, capture_output=True, text=True, check=True)
    base_url, header = done.stdout.splitlines()
    assert f"{ORIGIN}/api/v1/gateway/my-agent/anthropic" == base_url
    assert ["", "Invariant-Authorization: Bearer inv-canary"][number] == header


def test_the_header_and_the_combined_key_are_what_auth_split_takes() -> None:
    text = README.read_text()
    assert "`Invariant-Authorization: Bearer EXPLORERKEY`" in text
    assert "`PROVIDERKEY;invariant-auth=EXPLORERKEY`" in text
    explicit = split(CIMultiDict(), ["Bearer EXPLORERKEY"])
    combined = split(CIMultiDict({"x-api-key": "PROVIDERKEY;invariant-auth=EXPLORERKEY"}), ())
    bearer = split(CIMultiDict({"Authorization": "Bearer PROVIDERKEY;invariant-auth=EXPLORERKEY"}), ())
    assert ["EXPLORERKEY"] * 3 == [key.reveal() for key in (explicit, combined, bearer) if key]


def test_the_defaults_are_the_defaults(tmp_path: Path) -> None:
    [code] = marked(README, "check: the defaults")
    (tmp_path / "sidestream.yaml").write_text(code)
    assert config.load(None, {}) == config.load(tmp_path / "sidestream.yaml", {})


def test_the_example_loads_and_comes_along_as_a_file(tmp_path: Path) -> None:
    [code] = marked(README, "check: loads")
    (tmp_path / "sidestream.yaml").write_text(code)
    env = {"INVARIANT_API_URL": "http://127.0.0.1"}
    assert config.load(ROOT / "config" / "explorer.yaml", env) == config.load(tmp_path / "sidestream.yaml", env)


def test_a_file_without_a_path_is_where_the_example_says(tmp_path: Path) -> None:
    [code] = marked(README, "check: loads")
    assert "# ~/.local/share/sidestream/traces.jsonl\n" in code
    assert tmp_path / "xdg" / "sidestream" / "traces.jsonl" == Path(Jsonl().path)


def test_another_gateway_can_be_a_destination() -> None:
    [code] = marked(README, "check: loads for a team")
    [sink] = config.load(yaml.safe_load(code), {"SIDESTREAM_KEY": "inv-canary"}).sinks
    assert ("explorer", "https://traces.example.com") == (sink.name, sink.options["url"])


async def test_the_middleware_counts_bytes(
    upstream: ScriptedUpstream, installed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.script = streams
    [code] = marked(README, "check: run as count_bytes.py")
    [chain] = marked(README, "check: chain for count_bytes.py")
    installed("count_bytes", code)
    async with gateway(upstream.url, **yaml.safe_load(chain)) as url:
        answer = await exchange(url, post())
    assert STREAM == answer.body
    assert f"{len(STREAM)} bytes, completed" in capsys.readouterr().out


async def test_the_service_relays(upstream: ScriptedUpstream, installed: Any, tmp_path: Path) -> None:
    upstream.script = streams
    sections = {
        "recorder": {"dir": str(tmp_path / "data"), "min_free": 0},
        "upstreams": {"anthropic": {"url": upstream.url}},
        "sinks": [{"jsonl": {"path": str(tmp_path / "t.jsonl")}}],
    }
    (tmp_path / "sidestream.yaml").write_text(yaml.safe_dump(sections))
    [code] = marked(README, "check: run as service.py")
    service = installed("service", code)
    async with running(service.app) as origin:
        answer = await exchange(origin, post(path="/llm/my-agent/anthropic/v1/messages"))
        viewer = await exchange(origin, b"GET /runs/ HTTP/1.1\r\nHost: g\r\nAccept: text/html\r\n\r\n", method="GET")
    assert STREAM == answer.body
    assert (303, "/runs/login") == (viewer.status, viewer.field("Location"))
    assert 1 == len((tmp_path / "t.jsonl").read_text().splitlines())


# The documentation's blocks.


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_python_and_yaml_in_the_docs_can_be_read(file: Path) -> None:
    for block in blocks(file):
        if block.language == "python":
            compile(block.code, file.name, "exec")
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict)


async def test_the_embedding_example_relays_compressed_requests(
    upstream: ScriptedUpstream, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM", upstream.url)
    [code] = marked(ROOT / "docs" / "embedding.md", "file: host.py")
    host = installed("host", code)
    async with running(host.app, auto_decompress=False) as origin:
        request = post(b"packed", path="/llm/d/anthropic/v1/x", headers="Content-Encoding: gzip\r\n")
        assert 200 == (await exchange(origin, request)).status
        health = await exchange(origin, b"GET /llm/health HTTP/1.1\r\nHost: g\r\n\r\n", method="GET")
    assert b"packed" == bytes(upstream.requests[0].body)
    assert "ok" == json.loads(health.body)["status"]


VIEWER = ROOT / "docs" / "viewer.md"


def first_cells(heading: str) -> list[str]:
    """What stands in code in the first column of the table under a heading of docs/viewer.md."""
    section = VIEWER.read_text().partition(f"# {heading}\n")[2].partition("\n#")[0]
    cells = [" ".join(re.findall(r"`([^`]+)`", row)) for row in re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE)]
    assert cells, heading
    return [cell for cell in cells if cell]


def test_the_viewers_requests_are_all_documented() -> None:
    named = {"run": "id", "turn": "id", "dataset": "name"}
    there = {
        f"{each.method.upper()} {re.sub(r'{(.+?)}', lambda name: '{' + named[name[1]] + '}', each.path)}"
        for each in openapi.OPERATIONS
    }
    assert there | {"GET /ui/api/events"} == set(first_cells("JSON API"))


def test_explorers_requests_are_all_documented() -> None:
    there = {(route.method, route.path) for route in explorer.routes if isinstance(route, web.RouteDef)}
    cells = [re.split(r",? ", cell) for cell in first_cells("Traces from elsewhere")]
    assert there == {(method, path) for *methods, path in cells for method in methods}


def test_the_viewers_words_are_all_documented() -> None:
    access = get_args(get_type_hints(config.Viewer)["access"])
    assert set(access) == set(first_cells("Who may look"))
    assert set(run_page.FORMATS) == set(first_cells("Export and import"))
    assert set(re.findall(r"^- ``(\w+)``", events.__doc__ or "", re.MULTILINE)) == set(first_cells("Live feed"))
    assert PAGE_HEADERS["Content-Security-Policy"] in VIEWER.read_text()


async def test_a_trace_is_pushed_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = marked(VIEWER, "file: push.py")
    monkeypatch.setenv("SIDESTREAM_KEY", ApiKeys(tmp_path / "data").create("laptops"))
    settings = {"recorder": {"dir": str(tmp_path / "data"), "min_free": 0}, "sinks": []}
    async with running(create_app(settings)) as origin:
        await answer_of(origin, "/ui/api/runs")
        await asyncio.to_thread(exec, compile(code.replace(ORIGIN, origin), "push.py", "exec"), {})
        [run] = json.loads(await answer_of(origin, "/ui/api/runs"))["runs"]
    assert ("my-agent", "Is there tea?") == (run["dataset"], run["title"])


async def answer_of(origin: str, path: str) -> bytes:
    """The viewer's answer, once its recorder has started."""
    async with asyncio.timeout(10):
        while True:
            asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            answer = await exchange(origin, asked.encode(), method="GET")
            if answer.status == 200:
                return answer.body
            await asyncio.sleep(0.01)


GUIDE = ROOT / "docs" / "writing-a-middleware.md"


async def test_the_guides_class_takes_its_option_and_logs_slow_calls(
    upstream: ScriptedUpstream, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = marked(GUIDE, "file: slow_calls.py")
    module = installed("slow_calls", code)
    logged: list[str] = []
    monkeypatch.setattr(module.log, "warning", lambda event, **_facts: logged.append(event), raising=False)
    [chain] = marked(GUIDE, "chain")
    parsed = yaml.safe_load(chain)
    (slow,) = (spec for spec in config.load(parsed, {}).middlewares if spec.name == "slow_calls:SlowCalls")
    assert {"over": 120.0} == slow.options
    async with gateway(upstream.url, **parsed) as url:
        await exchange(url, post())
    assert [] == logged
    async with gateway(upstream.url, middlewares=[{"slow_calls:SlowCalls": {"over": 0}}]) as url:
        await exchange(url, post())
    assert ["call_took_long"] == logged


async def test_the_guides_test_passes(installed: Any) -> None:
    [team] = marked(GUIDE, "file: team.py")
    [test] = marked(GUIDE, "file: test_team.py")
    installed("team", team)
    module = installed("test_team", test)
    await module.test_the_team_is_named_and_files_are_kept_out()


async def test_the_guides_sink_delivers_and_tries_again(upstream: ScriptedUpstream, installed: Any) -> None:
    async def script(_received: Received, connection: Connection) -> None:
        status = b"503 Later" if len(upstream.requests) == 1 else b"200 OK"
        await connection.send(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)

    upstream.script = script
    [code] = marked(GUIDE, "file: webhook.py")
    sink = installed("webhook", code).Webhook(url=upstream.url)
    bench = Bench()
    await bench.add(sink, Turn(id="1", dataset="d", messages=[], metadata={}, trace="1"))
    async with bench.delivering(sink) as engine:
        await bench.until({"1": "delivered"})
    await bench.close()
    assert (1, 1) == (engine.counters.delivered, engine.counters.retried)
    assert {"trace": "1", "turn": 1, "messages": []} == json.loads(upstream.requests[1].body)
    assert [["1"], ["1"]] == [request.header("Idempotency-Key") for request in upstream.requests]


def test_the_guide_names_every_double() -> None:
    [table] = re.findall(r"\| double \|.*?\n\n", GUIDE.read_text(), re.DOTALL)
    assert set(testing.__all__) - {"PushedTrace"} == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
