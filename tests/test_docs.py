"""config/ and docs/ say what the code does."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints, is_typeddict

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from conversing import START, Call
from sidestream import Exchange, Outcome, config, metrics, signatures
from sidestream.cli import main
from sidestream.errors import ConfigError
from sidestream.options import Duration
from sidestream.providers import PROVIDERS
from sidestream.registry import OptionInfo, PluginInfo, build_all, describe
from sidestream.sinks.delivery import Counters
from sidestream.sinks.jsonl import Jsonl
from sidestream.stats import BUCKETS, Distribution, Totals
from sidestream.store.rows import State
from sidestream.testing import gateway
from sidestream.traces.conversation import Rule
from sidestream.traces.model import Origin, Turn
from sidestream.traces.record import Record
from sidestream.traces.understanding import understand

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "sidestream.yaml"
REFERENCE = ROOT / "docs" / "configuration.md"
README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
WRITING = ROOT / "docs" / "writing-a-middleware.md"
CONVERSATIONS = ROOT / "docs" / "conversations.md"
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCE = sorted((ROOT / "src" / "sidestream").rglob("*.py"))
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "_warn": "warning", "error": "error"}
LEVELS |= {"log": "as logged"}

PLUGINS = [*describe("middlewares"), *describe("sinks")]
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
OURS = [plugin for plugin in PLUGINS if plugin.target.startswith("sidestream.")]


def section_of(heading: str) -> str:
    """The text of docs/configuration.md under a heading, up to the next one."""
    _, found, rest = REFERENCE.read_text().partition(f"# `{heading}`\n")
    assert found, f"docs/configuration.md has no section `{heading}`"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def documented(heading: str) -> list[tuple[str, str, str]]:
    """Name, type and default of every option in the table under a heading; durations in seconds."""
    rows = [(name, kind, default.strip("`")) for name, kind, default in ROW.findall(section_of(heading))]
    return [(name, kind, str(Duration.parse(value)) if kind == "duration" else value) for name, kind, value in rows]


def as_in_docs(option: OptionInfo) -> tuple[str, str, str]:
    return (option.name, option.type_text, "required" if option.required else option.default_text)


def uncommented() -> str:
    """The example with both sinks switched on."""
    head, mark, tail = EXAMPLE.read_text().partition("  # - jsonl:")
    return head + re.sub(r"^  # ", "  ", mark + tail, flags=re.MULTILINE)


@pytest.mark.parametrize("env", [{}, {"XDG_DATA_HOME": "/data"}, {"XDG_DATA_HOME": ""}], ids=["unset", "set", "empty"])
def test_the_example_is_the_default(env: dict[str, str]) -> None:
    assert config.load(None, env) == config.load(EXAMPLE, env)


def test_the_example_says_every_option() -> None:
    """Nothing of the effective configuration is left to a default that the example does not show."""
    said = yaml.safe_load(EXAMPLE.read_text())
    assert names(config.to_yaml(config.load(None, {}))) == names(said | {"sinks": said["sinks"] or []})


def names(said: Any) -> Any:
    """The names alone, however their values are written."""
    if isinstance(said, dict):
        return {name: names(value) for name, value in said.items()}
    return [names(value) for value in said] if isinstance(said, list) else None


@pytest.mark.parametrize("name", ["jsonl", "explorer"])
def test_the_examples_sinks_have_the_defaults(name: str) -> None:
    (said,) = [sink[name] for sink in yaml.safe_load(uncommented())["sinks"] if name in sink]
    (plugin,) = [plugin for plugin in OURS if plugin.name == name]
    defaults = {option.name: option.default_text for option in plugin.options}
    if name == "explorer":
        defaults |= {"url": "${INVARIANT_API_URL}", "api_key": "${INVARIANT_API_KEY:-}"}
    assert defaults == {name: "null" if value is None else str(value) for name, value in said.items()}


def test_the_examples_sinks_can_be_switched_on(tmp_path: Path) -> None:
    file = tmp_path / "sidestream.yaml"
    file.write_text(uncommented())
    sinks = config.load(file, {"INVARIANT_API_URL": "http://127.0.0.1"}).sinks
    assert [(sink.name, sink.options.get("api_key")) for sink in sinks] == [("jsonl", None), ("explorer", None)]


@pytest.mark.parametrize("plugin", OURS, ids=lambda plugin: plugin.name)
def test_every_option_of_a_plugin_is_documented(plugin: PluginInfo) -> None:
    """With its type and its default, in the constructor's order."""
    assert [as_in_docs(option) for option in plugin.options] == documented(plugin.name)


@pytest.mark.parametrize("plugin", OURS, ids=lambda plugin: plugin.name)
def test_every_plugin_that_comes_along_can_be_used(plugin: PluginInfo) -> None:
    assert plugin.summary
    assert not plugin.summary.startswith("Cannot be used")


SECTIONS = {
    "server": config.Server,
    "limits": config.Limits,
    "recorder": config.Recorder,
    "recorder.retention": config.Retention,
    "upstreams": config.Upstream,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_documented(section: str) -> None:
    effective = config.to_yaml(config.load(None, {}))
    values = {
        "server": effective["server"],
        "limits": effective["limits"],
        "recorder": {**effective["recorder"], "retention": "below"},
        "recorder.retention": effective["recorder"]["retention"],
        "upstreams": effective["upstreams"]["anthropic"],
    }[section]
    options = signatures.options_of(SECTIONS[section])
    expected = [(option.name, signatures.type_text(option.annotation), str(values[option.name])) for option in options]
    assert expected == documented(section)


def test_every_command_is_documented() -> None:
    shown = {name for name, command in main.commands.items() if not command.hidden}
    assert shown == set(re.findall(r"^\| `sidestream ([a-z-]+)", REFERENCE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", [*sorted((ROOT / "docs").glob("*.md")), README], ids=lambda file: file.name)
def test_every_command_and_option_that_is_named_exists(file: Path) -> None:
    for name, rest in re.findall(r"`sidestream ([a-z][a-z-]*)([^`]*)`", file.read_text()):
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z]+", rest)) <= known, f"{file.name}: sidestream {name}{rest}"


def test_the_errors_in_the_docs_are_real(tmp_path: Path) -> None:
    file = tmp_path / "sidestream.yaml"
    file.write_text(
        "server: {port: 70000}\n"
        "upstreams: {anthropic: {url: '${UPSTREAM}'}}\n"
        "middlewares: [trace_export, body_capture, auth_split, {stream_tee: {limt: 1}}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        config.load(file, {})
    [shown] = re.findall(r"```text\n(.*?)4 problems in", REFERENCE.read_text(), re.DOTALL)
    assert shown.splitlines() == str(caught.value).splitlines()


def test_the_first_example_in_the_docs_loads(tmp_path: Path) -> None:
    [first, *_] = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    file = tmp_path / "sidestream.yaml"
    file.write_text(first)
    loaded = config.load(file, {"INVARIANT_API_URL": "http://127.0.0.1"})
    assert (loaded.server.port, loaded.sinks[0].name) == (9000, "explorer")


# What is configured ready-made, and what the other pages say about the code.


ALERTS = ROOT / "config" / "prometheus-alerts.yaml"
READY_MADE = sorted(set((ROOT / "config").glob("*.yaml")) - {ALERTS})


@pytest.mark.parametrize("file", READY_MADE, ids=lambda file: file.name)
def test_every_ready_configuration_works(file: Path) -> None:
    loaded = config.load(file, {"INVARIANT_API_URL": "http://127.0.0.1"})
    chain, sinks = build_all(loaded.middlewares, loaded.sinks)
    assert (len(loaded.middlewares), len(loaded.sinks)) == (len(chain), len(sinks))


def first_cells(file: Path, heading: str) -> list[str]:
    """The first column of the tables under a heading, up to the next heading."""
    _, found, rest = file.read_text().partition(f"# {heading}\n")
    assert found, f"{file.name} has no section {heading!r}"
    return re.findall(r"^\| `([\w.]+)` \|", re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0], re.MULTILINE)


def source_calls() -> Iterator[ast.Call]:
    for file in SOURCE:
        yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def test_the_readme_has_every_error_code_with_its_status() -> None:
    raised = {
        (str(call.args[1].value), str(call.args[0].value))
        for call in source_calls()
        if isinstance(call.func, ast.Name) and call.func.id == "GatewayError"
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[1], ast.Constant)
    }
    assert len(raised) > 15
    section = README.read_text().partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert raised == set(re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE))


def logged() -> dict[str, set[str]]:
    """Every log event of the source with its levels."""
    events: dict[str, set[str]] = {}
    for call in source_calls():
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        strings = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if name in LEVELS and strings and re.fullmatch(r"[a-z]+(_[a-z]+)+", strings[0]):
            events.setdefault(strings[0], set()).add(LEVELS[name])
    return events


def test_operations_has_every_log_event_with_its_level() -> None:
    section = OPERATIONS.read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    assert logged() == {event: set(levels.split(", ")) for event, levels in rows}


async def test_operations_has_every_part_of_health() -> None:
    """The supervisor's part is there where there is one."""
    async with gateway("http://127.0.0.1:9") as url, aiohttp.ClientSession() as client:
        async with client.get(f"{url}/health") as answer:
            report = await answer.json()
    parts = first_cells(OPERATIONS, "Health")
    assert [*report, "supervisor"] == parts
    assert set(get_type_hints(Totals)) <= set(parts)


def leaves(shape: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number that a snapshot of this shape has, with its path; what is keyed by names counts as one."""
    if is_typeddict(shape) and shape is not Distribution:
        for name, below in get_type_hints(shape).items():
            yield from leaves(below, f"{path}.{name}".lstrip("."))
    else:
        yield path, shape


def sample(shape: Any) -> Any:
    """A snapshot of this shape with something everywhere."""
    if shape is Distribution:
        return {"buckets": dict.fromkeys(BUCKETS, 1), "sum": 1.0}
    if is_typeddict(shape):
        return {name: sample(below) for name, below in get_type_hints(shape).items()}
    return {"x": sample(get_args(shape)[1])} if get_origin(shape) is dict else 1


def test_operations_has_every_number_with_its_metric() -> None:
    """Each number by itself gives the metric beside it, so no two rows can be mixed up."""
    section = OPERATIONS.read_text().partition("\n### Numbers\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \|", section, re.MULTILINE)
    expected = []
    for path, shape in leaves(Totals):
        totals: Any = sample(shape)
        for name in reversed(path.split(".")):
            totals = {name: totals}
        text = metrics.render(totals, recorder=False).decode()
        (family,) = text_string_to_metric_families(text)
        expected.append((path, family.name + "_total" * (family.type == "counter")))
    assert expected == rows
    assert "`sidestream_recorder_up`" in section
    assert len(expected) > 25


def test_operations_has_everything_that_happens_to_a_delivery() -> None:
    assert [field.name for field in dataclasses.fields(Counters)] == first_cells(OPERATIONS, "Delivery events")


def test_operations_has_every_state() -> None:
    assert [str(state) for state in State] == first_cells(OPERATIONS, "States")


def test_operations_has_every_alert() -> None:
    rules = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert rules == first_cells(OPERATIONS, "Alerts and dashboard")


def test_operations_has_every_field_of_a_trace() -> None:
    """Those of a record with which everything is wrong that can be, and of one with which nothing is."""
    record = Record(
        id="1",
        dataset="d",
        provider="anthropic",
        method="POST",
        path="/v1/messages",
        request_headers={"content-encoding": "unheard-of"},
        request_chunks=(b"{",),
        request_truncated=True,
        request_complete=False,
        status=529,
        response_chunks=(b'{"error": {"type": "overloaded_error"}}',),
        outcome="upstream_failed",
        error="UpstreamFailed",
        started_at=0.0,
        duration=1.0,
        end_verifiable=False,
        exact=False,
    )
    call = Call("2", [{"role": "user", "content": "Hi"}], [{"type": "text", "text": "Hello"}], START)
    readings = [understand(each, PROVIDERS["anthropic"]) for each in (record, call.record())]
    fields = {field for reading in readings for field in reading.metadata} | {"request_id", "changed", "cache", "cost"}
    assert sorted(fields) == sorted(first_cells(OPERATIONS, "The trace"))


async def test_operations_has_every_field_of_a_line(tmp_path: Path) -> None:
    origin = Origin(kind="branch", trace="1", turn="1", number=1, path=[])
    turn = Turn(id="2", dataset="d", messages=[], metadata={}, trace="2", origin=origin)
    await Jsonl(path=str(tmp_path / "file")).deliver(turn, None, 1)
    line = json.loads((tmp_path / "file").read_text())
    assert list(line) == first_cells(OPERATIONS, "A line of it")


def test_every_rule_is_explained() -> None:
    assert sorted(map(str, Rule)) == sorted(first_cells(CONVERSATIONS, "How a call finds its trace"))


def test_the_outcomes_are_all_explained() -> None:
    cells = first_cells(WRITING, "Observers")
    assert [outcome.value for outcome in Outcome] == [cell for cell in cells if not cell.startswith("on_")]


def test_the_members_of_an_exchange_exist() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", section_text(WRITING, "The exchange"), re.MULTILINE)
    cells = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert cells <= set(Exchange.__init__.__code__.co_names)
    assert len(cells) > 10


def section_text(file: Path, heading: str) -> str:
    _, found, rest = file.read_text().partition(f"\n## {heading}\n")
    assert found, f"{file.name} has no section {heading!r}"
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_link_leads_somewhere(file: Path) -> None:
    """Within the project; addresses elsewhere are not looked up."""
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", file.read_text()):
        target = file.parent / path if path else file
        assert target.exists(), f"{file.name} links to {path}"
        assert not anchor or anchor in anchors(target), f"{file.name} links to {path}#{anchor}"


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as its readers' browsers know them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", sorted(DECISIONS.glob("*.md")), ids=lambda file: file.name)
def test_a_decision_is_short_and_numbered(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith(f"# {int(file.name[:4])}. ")


def test_every_dependency_has_its_reason() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = f"{setup['options']['install_requires']} {setup['options.extras_require']['test']}"
    reasons = " ".join(re.findall(r"^\| ([^|]+) \|", (DECISIONS / "0008-dependencies.md").read_text(), re.MULTILINE))
    wanted = set(re.findall(r"^\s*([\w-]+)>=", named.replace(" ", "\n"), re.MULTILINE))
    assert wanted == set(re.findall(r"[\w-]+", reasons)) & wanted
    assert len(wanted) > 10
