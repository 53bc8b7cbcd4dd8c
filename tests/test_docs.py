"""config/sidestream.yaml and docs/configuration.md say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sidestream import config, signatures
from sidestream.errors import ConfigError
from sidestream.registry import OptionInfo, PluginInfo, describe

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "sidestream.yaml"
REFERENCE = ROOT / "docs" / "configuration.md"

PLUGINS = [*describe("middlewares"), *describe("sinks")]
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
OURS = [plugin for plugin in PLUGINS if plugin.target.startswith("sidestream.")]


def section_of(heading: str) -> str:
    """The text of docs/configuration.md under a heading, up to the next one."""
    _, found, rest = REFERENCE.read_text().partition(f"# `{heading}`\n")
    assert found, f"docs/configuration.md has no section `{heading}`"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def documented(heading: str) -> list[tuple[str, str, str]]:
    """Name, type and default of every option in the table under a heading."""
    return [(name, kind, default.strip("`")) for name, kind, default in ROW.findall(section_of(heading))]


def as_in_docs(option: OptionInfo) -> tuple[str, str, str]:
    return (option.name, option.type_text, "required" if option.required else option.default_text)


def uncommented() -> str:
    """The example with the Explorer switched on."""
    head, mark, tail = EXAMPLE.read_text().partition("  # - explorer:")
    return head + re.sub(r"^  # ", "  ", mark + tail, flags=re.MULTILINE)


@pytest.mark.parametrize("env", [{}, {"XDG_DATA_HOME": "/data"}, {"XDG_DATA_HOME": ""}], ids=["unset", "set", "empty"])
def test_the_example_is_the_default(env: dict[str, str]) -> None:
    assert config.load(None, env) == config.load(EXAMPLE, env)


def test_the_example_says_every_option() -> None:
    """Nothing of the effective configuration is left to a default that the example does not show."""
    said = yaml.safe_load(EXAMPLE.read_text())
    effective = config.to_yaml(config.load(None, {}))
    said["sinks"][0]["jsonl"]["path"] = effective["sinks"][0]["jsonl"]["path"]
    assert effective == said


def test_the_examples_explorer_has_the_defaults() -> None:
    said = yaml.safe_load(uncommented())["sinks"][1]["explorer"]
    [explorer] = [plugin for plugin in OURS if plugin.name == "explorer"]
    defaults = {option.name: option.default_text for option in explorer.options}
    defaults |= {"url": "${INVARIANT_API_URL}", "api_key": "${INVARIANT_API_KEY:-}"}
    assert defaults == {name: str(value) for name, value in said.items()}


def test_the_examples_explorer_can_be_switched_on(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("section", "kind"), [("server", config.Server), ("upstreams", config.Upstream)])
def test_every_field_is_documented(section: str, kind: type) -> None:
    effective = config.to_yaml(config.load(None, {}))
    values = {"server": effective["server"], "upstreams": effective["upstreams"]["anthropic"]}[section]
    options = signatures.options_of(kind)
    expected = [(option.name, signatures.type_text(option.annotation), str(values[option.name])) for option in options]
    assert expected == documented(section)


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
