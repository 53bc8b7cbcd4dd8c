"""The command line, in this process and in real ones."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from sidestream import config
from sidestream.cli import main
from sidestream.errors import ConfigError, Problem, SidestreamError
from sidestream.processes import supervisor
from sidestream.processes.channel import Document

if TYPE_CHECKING:
    from pathlib import Path

BAD = "server: {prot: 1, port: sk-canary}\nsinks: [jsonk]\n"
PROBLEMS = """\
server.prot: unknown option, did you mean 'port'?
server.port: expected a whole number
sinks[0].jsonk: unknown sink, did you mean 'jsonl'?
"""
VERSION = importlib.metadata.version("sidestream")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    """What `serve` has been asked to serve; it ends with status 7 then."""
    calls: list[Document] = []

    def serve(given: Document) -> int:
        calls.append(given)
        return 7

    monkeypatch.setattr(supervisor, "serve", serve)
    return calls


def run(*arguments: object, **env: str) -> Result:
    return CliRunner(env={"SIDESTREAM_CONFIG": None, **env}).invoke(main, [str(argument) for argument in arguments])


def process(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(flag: str) -> None:
    result = run(flag)
    assert result.exit_code == 0
    upkeep = {"delete", "deliveries", "redeliver", "prune", "reprocess", "token"}
    carrying = {"export", "import", "keys"}
    looking = {"traces", "show", "search", "stats", "open", "tail"}
    shown = {"serve", "recorder", "check-config", "middlewares", "demo", *carrying, *looking, *upkeep}
    assert set(main.commands) == {*shown, "relay", "plan"}
    assert shown == {line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()}


@pytest.mark.parametrize("command", ["serve", "recorder", "check-config", "middlewares", "demo"])
def test_every_command_has_help(command: str) -> None:
    result = run(command, "-h")
    assert (result.exit_code, result.output.splitlines()[0]) == (0, f"Usage: main {command} [OPTIONS]")


def test_version_of_a_process() -> None:
    done = process("-m", "sidestream", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sidestream {VERSION}\n", "")


def test_bad_configuration_of_a_process(file: Path) -> None:
    """Problems go to standard error, one on each line, and the status is 2."""
    file.write_text(BAD)
    done = process("-m", "sidestream", "check-config", "-c", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{PROBLEMS}3 problems in {file}\n")


def test_check_config_prints_the_defaults() -> None:
    result = run("check-config")
    assert result.exit_code == 0
    assert yaml.safe_load(result.output) == config.to_yaml(config.load())


def test_what_check_config_prints_is_a_configuration(file: Path) -> None:
    """It says the same as what it was printed for, and lists sections and options in the order of the documentation."""
    file.write_text("server: {port: 9, drain: 1m}\nsinks: [{jsonl: {path: '/$${x}'}}]\n")
    printed = run("check-config", "-c", file).output
    loaded = config.load(file)
    file.write_text(printed)
    assert config.load(file) == loaded
    sections = ["server", "limits", "recorder", "viewer", "upstreams", "middlewares", "sinks"]
    assert sections == list(yaml.safe_load(printed))


def test_check_config_masks_secrets(file: Path) -> None:
    file.write_text("sinks: [{explorer: {url: 'http://e', api_key: '${KEY}'}}]\n")
    result = run("check-config", "-c", file, KEY="inv-canary")
    assert (result.exit_code, "inv-canary" in result.output) == (0, False)
    assert yaml.safe_load(result.output)["sinks"][0]["explorer"]["api_key"] == "***"


def test_check_config_asks_the_constructors(file: Path) -> None:
    file.write_text("sinks: [{jsonl: {keep: -1}}, {explorer: {url: 'http://user:sk-canary@e'}}]\n")
    result = run("check-config", "-c", file)
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "sinks[0].jsonl",
        "sinks[1].explorer",
        f"2 problems in {file}",
    ]
    assert "sk-canary" not in result.stderr


def test_bad_configuration(file: Path) -> None:
    file.write_text(BAD)
    result = run("check-config", "-c", file)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{PROBLEMS}3 problems in {file}\n")


def test_serve_refuses_a_bad_configuration_as_check_config_does(file: Path) -> None:
    file.write_text(BAD)
    done = process("-m", "sidestream", "serve", "-c", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{PROBLEMS}3 problems in {file}\n")


def test_serve_refuses_a_host_that_is_none_as_any_bad_command_line() -> None:
    done = process("-m", "sidestream", "serve", "--host", "a b")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: sidestream serve [OPTIONS]\n")
    assert "Error: Invalid value for '--host': expected a host name" in done.stderr


def test_a_single_problem_is_counted_as_one(file: Path) -> None:
    result = run("check-config", "-c", file)
    assert (result.exit_code, result.stderr) == (2, f"there is no such file\n1 problem in {file}\n")


def test_the_file_may_come_from_the_environment(file: Path) -> None:
    file.write_text("server: {port: 9}")
    assert yaml.safe_load(run("check-config", SIDESTREAM_CONFIG=str(file)).output)["server"]["port"] == 9


def test_an_empty_environment_variable_names_no_file() -> None:
    assert run("check-config", SIDESTREAM_CONFIG="").exit_code == 0


def test_serve_serves_the_defaults(served: list[Document]) -> None:
    """Its status is the supervisor's."""
    assert run("serve").exit_code == 7
    assert served == [Document()]


def test_serve_reads_the_file_and_takes_host_and_port_from_the_command_line(file: Path, served: list[Document]) -> None:
    file.write_bytes(b"server: {port: 9}\n")
    run("serve", "-c", file, "--host", "::1", "--port", "0")
    run("serve", "-c", file)
    assert served == [
        Document(str(file), b"server: {port: 9}\n", "::1", 0),
        Document(str(file), b"server: {port: 9}\n"),
    ]


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--port", "x"], ["x"], ["-c", "/no/such/file"]])
def test_serve_refuses_a_bad_command_line(arguments: list[str], served: list[Document]) -> None:
    assert run("serve", *arguments).exit_code == 2
    assert served == []


def test_serve_reports_what_the_supervisor_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_given: Document) -> int:
        raise ConfigError([Problem("sinks[0].jsonl", "keep must be 0 or more")])

    monkeypatch.setattr(supervisor, "serve", refuse)
    result = run("serve")
    assert (result.exit_code, result.stderr) == (
        2,
        "sinks[0].jsonl: keep must be 0 or more\n1 problem in the defaults\n",
    )


def test_serve_says_why_it_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_given: Document) -> int:
        raise SidestreamError("aiohttp's C extension is missing")

    monkeypatch.setattr(supervisor, "serve", fail)
    result = run("serve")
    assert (result.exit_code, result.stderr) == (1, "Error: aiohttp's C extension is missing\n")


def test_middlewares_lists_everything_installed() -> None:
    result = run("middlewares")
    assert result.exit_code == 0
    assert (
        f"\n  body_capture  (sidestream {VERSION}, sidestream.middlewares.body_capture:BodyCapture)\n" in result.output
    )
    assert "\n      limit: size; default 32MiB\n" in result.output
    assert "\n      require_trace_key: auto, true or false; default auto\n" in result.output
    assert "\n      url: text; required\n" in result.output
    assert "\n  jsonl  (" in result.output.partition("Sinks, for the list `sinks`:")[2]


def test_demo_ends_with_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sidestream.demo.run")
    vars(module)["main"] = lambda **_: 5
    monkeypatch.setitem(sys.modules, "sidestream.demo.run", module)
    monkeypatch.setattr("sidestream.demo.run", module, raising=False)
    assert run("demo").exit_code == 5


def test_the_console_script_is_this_command_line() -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="sidestream")
    assert script.load() is main
