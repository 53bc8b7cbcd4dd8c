"""A configuration is loaded whole, or refused with everything that is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestream.config import Config, Limits, PluginSpec, Recorder, Retention, Server, Upstream, Viewer, load, to_yaml
from sidestream.errors import ConfigError
from sidestream.options import Duration, Secret, Size

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = load(None, {})


def problems_of(source: Path | dict[str, Any], env: dict[str, str] | None = None) -> list[str]:
    """Everything that is wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        load(source, env or {})
    return str(caught.value).splitlines()


def test_defaults() -> None:
    expected = Config(
        server=Server("127.0.0.1", 8005, "/api/v1/gateway", 1, Duration(0), Duration(15), Duration(900)),
        limits=Limits(exchanges=1000, exchanges_per_key=0, retry_after=Duration(1), middleware_body=Size(32 << 20)),
        recorder=Recorder(
            dir="~/.local/share/sidestream",
            mode="auto",
            durability="async",
            commit_timeout=Duration(5),
            memory=Size(256 << 20),
            disk=Size(10 << 30),
            min_free=Size(1 << 30),
            flush=Duration(5),
            retention=Retention(age=Duration(30 * 86400), bytes=Size(5 << 30)),
        ),
        viewer=Viewer(enabled=True, access="auto", token=None, hosts=()),
        upstreams={
            "anthropic": Upstream(
                url="https://api.anthropic.com",
                ca_bundle=None,
                proxy=None,
                connect=Duration(10),
                first_byte=Duration(600),
                idle=Duration(300),
                write=Duration(60),
            )
        },
        middlewares=(
            PluginSpec("trace_export", {}, "middlewares[0].trace_export"),
            PluginSpec("auth_split", {"require_trace_key": "auto"}, "middlewares[1].auth_split"),
            PluginSpec("body_capture", {"limit": Size(32 << 20)}, "middlewares[2].body_capture"),
            PluginSpec("stream_tee", {"limit": Size(32 << 20)}, "middlewares[3].stream_tee"),
        ),
        sinks=(),
    )
    assert expected == DEFAULT


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"XDG_DATA_HOME": "/data/"}, "/data/sidestream"),
        ({"XDG_DATA_HOME": ""}, "~/.local/share/sidestream"),
        ({"XDG_DATA_HOME": "relative"}, "~/.local/share/sidestream"),
    ],
)
def test_traces_go_where_xdg_says(env: dict[str, str], path: str) -> None:
    assert path == load(None, env).recorder.dir


@pytest.mark.parametrize("token", ["short", "with a space in the middle", "0123456789abcde\u00e9f"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    expected = "viewer.token: expected at least 16 characters, printable ASCII without spaces"
    assert [expected] == problems_of({"viewer": {"token": token}})


@pytest.mark.parametrize("host", ["https://a.example", "a.example:80", "a b", ""])
def test_a_host_name_of_the_viewer_has_no_scheme_and_no_port(host: str) -> None:
    expected = "viewer.hosts: expected host names such as traces.example.com, without scheme and port"
    assert [expected] == problems_of({"viewer": {"hosts": [host]}})


def test_a_section_within_a_section_has_its_own_defaults() -> None:
    recorder = load({"recorder": {"mode": "thread", "retention": {"age": "3d"}}}, {}).recorder
    assert ("thread", Retention(age=Duration(3 * 86400), bytes=Size(5 << 30))) == (recorder.mode, recorder.retention)


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_section_with_nothing_in_it_is_all_defaults(nothing: object) -> None:
    assert Retention() == load({"recorder": {"retention": nothing}}, {}).recorder.retention
    assert Recorder(dir=DEFAULT.recorder.dir) == load({"recorder": nothing}, {}).recorder


@pytest.mark.parametrize(
    ("recorder", "problem"),
    [
        ({"retention": {"age": "0s"}}, "recorder.retention.age: expected a duration of more than 0"),
        ({"retention": {"bytse": 1}}, "recorder.retention.bytse: unknown option, did you mean 'bytes'?"),
        ({"retention": 3}, "recorder.retention: expected a mapping of names to values"),
        ({"retention": ["age"]}, "recorder.retention: expected a mapping of names to values"),
        ({"commit_timeout": "0s"}, "recorder.commit_timeout: expected a duration of more than 0"),
        ({"dir": "data"}, "recorder.dir: expected an absolute path, or one that begins with ~"),
        ({"dir": ""}, "recorder.dir: expected an absolute path, or one that begins with ~"),
        ({"dir": "/a\0b"}, "recorder.dir: expected an absolute path, or one that begins with ~"),
        ({"durability": "strict", "mode": "none"}, "recorder.mode: 'none' keeps nothing on a disk"),
        ({"durbility": "strict"}, "recorder.durbility: unknown option, did you mean 'durability'?"),
    ],
)
def test_what_is_wrong_with_a_recorder_is_said(recorder: dict[str, Any], problem: str) -> None:
    (found,) = problems_of({"recorder": recorder})
    assert found.startswith(problem)


@pytest.mark.parametrize("mode", ["Thread", "journal", 1, None])
def test_a_mode_there_is_not_is_refused(mode: object) -> None:
    (found,) = problems_of({"recorder": {"mode": mode}})
    assert found.startswith("recorder.mode: expected ")


@pytest.mark.parametrize("workers", [0, -1, 257, "many", 1.5, True])
def test_a_number_of_workers_that_cannot_be_is_refused(workers: object) -> None:
    (found,) = problems_of({"server": {"workers": workers}})
    assert found.startswith("server.workers: expected ")


@pytest.mark.parametrize("workers", [1, 256])
def test_a_number_of_workers_that_can_be(workers: int) -> None:
    assert workers == load({"server": {"workers": workers}}, {}).server.workers


def test_everything_wrong_with_sections_and_those_within_is_told_at_once() -> None:
    found = problems_of({"recorder": {"mode": "x", "retention": {"age": "x", "bytes": "x"}}, "server": {"workers": 0}})
    assert {"recorder.mode", "recorder.retention.age", "recorder.retention.bytes", "server.workers"} == {
        problem.partition(":")[0] for problem in found
    }


def test_the_bytes_of_a_file_are_as_good_as_the_file(tmp_path: Path) -> None:
    data = b"recorder:\n  memory: 1MiB\n"
    (tmp_path / "c.yaml").write_bytes(data)
    assert Size(1 << 20) == load(data, {}).recorder.memory
    assert load(data, {}) == load(tmp_path / "c.yaml", {})


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"server": None, "upstreams": None, "middlewares": None, "sinks": None},
        {"server": {}, "upstreams": {}},
        {"upstreams": {"anthropic": None}},
    ],
)
def test_what_is_left_out_keeps_its_default(source: dict[str, Any]) -> None:
    assert load(source, {}) == DEFAULT


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    assert load(file, {}) == DEFAULT


def test_part_of_a_section_keeps_the_rest() -> None:
    loaded = load({"server": {"port": 0}, "upstreams": {"anthropic": {"idle": "5s"}}}, {})
    assert loaded.server == Server(port=0)
    assert loaded.upstreams == {"anthropic": Upstream("https://api.anthropic.com", idle=Duration(5))}


def test_lists_replace_the_default() -> None:
    loaded = load({"middlewares": [], "sinks": []}, {})
    assert (loaded.middlewares, loaded.sinks) == ((), ())


def test_a_plugin_is_a_name_or_a_name_with_options() -> None:
    entries = ["auth_split", {"body_capture": None}, {"stream_tee": {"limit": "1kB"}}]
    loaded = load({"middlewares": entries}, {})
    assert [(spec.name, spec.options) for spec in loaded.middlewares] == [
        ("auth_split", {"require_trace_key": "auto"}),
        ("body_capture", {"limit": 32 << 20}),
        ("stream_tee", {"limit": 1000}),
    ]


def test_two_sinks_may_be_of_one_kind() -> None:
    sinks = load({"sinks": [{"jsonl": {"path": "/a"}}, {"jsonl": {"path": "/b"}}]}, {}).sinks
    assert [(sink.path, sink.options["path"]) for sink in sinks] == [("sinks[0].jsonl", "/a"), ("sinks[1].jsonl", "/b")]


def test_the_environment_gives_values_of_every_type() -> None:
    source = {
        "server": {"port": "${PORT}", "drain": "${DRAIN}s"},
        "middlewares": [{"auth_split": {"require_trace_key": "${REQUIRE}"}}],
        "sinks": [{"explorer": {"url": "http://${HOST}", "api_key": "${KEY:-}", "concurrency": "${MANY:-7}"}}],
    }
    loaded = load(source, {"PORT": "80", "DRAIN": "3", "REQUIRE": "true", "HOST": "explorer"})
    assert (80, Duration(3)) == (loaded.server.port, loaded.server.drain)
    assert loaded.middlewares[0].options == {"require_trace_key": True}
    explorer = loaded.sinks[0].options
    assert (explorer["url"], explorer["api_key"], explorer["concurrency"]) == ("http://explorer", None, 7)


def test_a_value_cannot_inject_yaml(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("sinks:\n- jsonl:\n    path: ${EVIL}\n")
    evil = "x\n    keep: 0\n- explorer: {url: ${HOME}}"
    [sink] = load(file, {"EVIL": evil, "HOME": "/root"}).sinks
    assert (evil, 5) == (sink.options["path"], sink.options["keep"])


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDESTREAM_TEST_PORT", "9")
    assert load({"server": {"port": "${SIDESTREAM_TEST_PORT}"}}).server.port == 9


def test_every_problem_is_reported() -> None:
    source = {
        "servers": {},
        "server": {"port": "sk-canary", "prot": 1, "host": "${NONE}"},
        "upstreams": {"anthropc": {}, "anthropic": {"url": "ftp://sk-canary", "idle": 0}},
        "middlewares": [
            {"auth_split": {"require_trace_key": "sk-canary"}},
            {"stream_tee": {"limt": "1kB"}},
            "body_captur",
            {"body_capture": {}, "limit": 5},
            5,
        ],
        "sinks": [{"explorer": {"api_key": ["sk-canary"], "timeout": "sk-canary"}}, {"jsonl": ["path"]}, "json"],
    }
    assert problems_of(source) == [
        "server.host: the environment variable NONE is not set",
        "servers: unknown section, did you mean 'server'?",
        "server.prot: unknown option, did you mean 'port'?",
        "server.port: expected a whole number",
        "upstreams.anthropc: unknown provider, did you mean 'anthropic'?",
        "upstreams.anthropic.url: expected http:// or https:// and a host, such as https://api.anthropic.com",
        "upstreams.anthropic.idle: expected a duration of more than 0",
        "middlewares[3]: expected a name, or one name with a mapping of options (mind the indentation)",
        "middlewares[4]: expected a name, or one name with a mapping of options (mind the indentation)",
        "middlewares[0].auth_split.require_trace_key: expected auto, true or false",
        "middlewares[1].stream_tee.limt: unknown option, did you mean 'limit'?",
        "middlewares[2].body_captur: unknown middleware, did you mean 'body_capture'?",
        "sinks[1].jsonl: expected a mapping of names to values",
        "sinks[0].explorer.url: required, but not given",
        "sinks[0].explorer.api_key: expected a secret",
        "sinks[0].explorer.timeout: expected a duration such as 20s, 500ms, 15m or a number of seconds",
        "sinks[2].json: unknown sink, did you mean 'jsonl'?",
    ]


@pytest.mark.parametrize("content", ["[]", "text", "5", "- server: {}"])
def test_the_top_must_be_a_mapping(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert problems_of(file) == ["expected a mapping"]


def test_a_file_is_refused_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("server:\n  port: [sk-canary\n")
    assert problems_of(file) == ["line 3, column 1: not valid YAML: expected ',' or ']', but got '<stream end>'"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"server": []}, "server: expected a mapping of names to values"),
        ({"upstreams": "x"}, "upstreams: expected a mapping of names to values"),
        ({"upstreams": {"anthropic": 5}}, "upstreams.anthropic: expected a mapping of names to values"),
        (
            {"middlewares": "auth_split"},
            "middlewares: expected a list; each entry is a name, or a name with a mapping of options",
        ),
        ({"sinks": {"jsonl": {}}}, "sinks: expected a list; each entry is a name, or a name with a mapping of options"),
    ],
)
def test_sections_of_the_wrong_type(source: dict[str, Any], problem: str) -> None:
    assert [problem] == problems_of(source)


def test_a_name_from_the_environment_is_not_repeated() -> None:
    [problem] = problems_of({"sinks": ["${KEY}"]}, {"KEY": "inv-canary"})
    assert problem.startswith("sinks[0]: unknown sink; known: ")
    assert "inv-canary" not in problem


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "::1", "fe80::1%eth0", "my-host.example"])
def test_hosts(host: str) -> None:
    assert host == load({"server": {"host": host}}, {}).server.host


@pytest.mark.parametrize("host", ["", "a b", "[::1]", "http://x", "a/b", "a\n", "ü"])
def test_hosts_that_are_none(host: str) -> None:
    assert problems_of({"server": {"host": host}}) == [
        "server.host: expected a host name or address such as 127.0.0.1, ::1 or 0.0.0.0"
    ]


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_ports(port: int) -> None:
    assert port == load({"server": {"port": port}}, {}).server.port


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_out_of_range(port: int) -> None:
    expected = ["server.port: expected a port from 0 to 65535; 0 takes any free one"]
    assert expected == problems_of({"server": {"port": port}})


@pytest.mark.parametrize("port", [True, "8005", 80.0, None, [80]])
def test_ports_of_the_wrong_type(port: object) -> None:
    assert problems_of({"server": {"port": port}}) == ["server.port: expected a whole number"]


@pytest.mark.parametrize("prefix", ["/a", "/api/v1/gateway", "/a.b/~c/-_", "/...", "/.a"])
def test_prefixes(prefix: str) -> None:
    assert prefix == load({"server": {"prefix": prefix}}, {}).server.prefix


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "/",
        "a",
        "/a/",
        "//a",
        "/a//b",
        "/.",
        "/a/../b",
        "/a/./b",
        "/%61",
        "/{a}",
        "/a?b",
        "/a#b",
        "/a b",
        "/a\n",
        "/ü",
    ],
)
def test_prefixes_that_cannot_be(prefix: str) -> None:
    [problem] = problems_of({"server": {"prefix": prefix}})
    assert problem.startswith("server.prefix: expected a path such as /api/v1/gateway")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("HTTPS://example.com/base/path/", "HTTPS://example.com/base/path"),
        ("https://example.com/a:b@c", "https://example.com/a:b@c"),
    ],
)
def test_upstream_urls(url: str, kept: str) -> None:
    assert kept == load({"upstreams": {"anthropic": {"url": url}}}, {}).upstreams["anthropic"].url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "expected a URL"),
        ("https://exa mple", "expected a URL"),
        ("https://example\n.com", "expected a URL"),
        ("https://exämple.com", "expected a URL"),
        ("example.com", "expected http:// or https://"),
        ("//example.com", "expected http:// or https://"),
        ("ftp://example.com", "expected http:// or https://"),
        ("https://", "expected http:// or https://"),
        ("https:///path", "expected http:// or https://"),
        ("https://example.com:0", "expected http:// or https://"),
        ("https://example\\.com", "expected http:// or https://"),
        ("https://ex%61mple.com", "expected http:// or https://"),
        ("https://example.com:http", "its host or port is not valid"),
        ("https://example.com:65536", "its host or port is not valid"),
        ("https://[::1", "its host or port is not valid"),
        ("https://user@example.com", "no user name or password"),
        ("https://:sk-canary@example.com", "no user name or password"),
        ("https://@example.com", "no user name or password"),
        ("https://example.com?a=b", "no query or fragment"),
        ("https://example.com/?", "no query or fragment"),
        ("https://example.com/#", "no query or fragment"),
        ("https://example.com/a//b", "its path may not have"),
        ("https://example.com//", "its path may not have"),
        ("https://example.com/../a", "its path may not have"),
        ("https://example.com/a/.", "its path may not have"),
        ("https://example.com/%2e", "its path may not have"),
        ("https://example.com/{a}", "its path may not have"),
    ],
)
def test_upstream_urls_that_cannot_be(url: str, problem: str) -> None:
    [found] = problems_of({"upstreams": {"anthropic": {"url": url}}})
    assert found.startswith(f"upstreams.anthropic.url: {problem}")
    assert "sk-canary" not in found


@pytest.mark.parametrize("limit", ["connect", "first_byte", "idle", "write"])
def test_a_limit_of_nothing_is_refused(limit: str) -> None:
    expected = [f"upstreams.anthropic.{limit}: expected a duration of more than 0"]
    assert expected == problems_of({"upstreams": {"anthropic": {limit: "0s"}}})


def test_a_bundle_of_certificates_is_read_when_the_configuration_is(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    assert bundle == load({"upstreams": {"anthropic": {"ca_bundle": str(bundle)}}}, {}).upstreams["anthropic"].ca_bundle


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        (b"", "expected a file of certificates in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nsk-canary\n-----END CERTIFICATE-----\n", "expected a file of certificates"),
        (trustme.CA().private_key_pem.bytes(), "expected a file of certificates in PEM"),
        (b"\x30\x82\x01\x0a\x02\x82", "expected a file of certificates in PEM"),
    ],
    ids=["missing", "empty", "not a certificate", "a private key", "DER"],
)
def test_a_bundle_that_vouches_for_nobody_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    [found] = problems_of({"upstreams": {"anthropic": {"ca_bundle": str(bundle)}}})
    assert found.startswith(f"upstreams.anthropic.ca_bundle: {problem}")
    assert "sk-canary" not in found


def test_a_bundle_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    [found] = problems_of({"upstreams": {"anthropic": {"ca_bundle": str(tmp_path)}}})
    assert found.startswith("upstreams.anthropic.ca_bundle: ")


@pytest.mark.parametrize(
    "proxy", ["http://proxy.test:3128", "http://127.0.0.1:1/", "http://[::1]:8080", "http://me:%C3%A9%3A%40@p:1"]
)
def test_proxies(proxy: str) -> None:
    assert Secret(proxy) == load({"upstreams": {"anthropic": {"proxy": proxy}}}, {}).upstreams["anthropic"].proxy


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ("", "expected a URL"),
        ("http://sk-canary @proxy:1", "expected a URL"),
        ("http://sk-cänary@proxy:1", "expected a URL"),
        ("sk-canary@proxy:3128", "expected http://, a host and a port"),
        ("proxy:3128", "expected http://, a host and a port"),
        ("https://sk-canary@proxy:3128", "expected http://, a host and a port"),
        ("socks5://sk-canary@proxy:3128", "expected http://, a host and a port"),
        ("http://proxy", "expected http://, a host and a port"),
        ("http://proxy:0", "expected http://, a host and a port"),
        ("http://:3128", "expected http://, a host and a port"),
        ("http://sk-canary@proxy:http", "its host or port is not valid"),
        ("http://proxy:3128/sk-canary", "no path, query or fragment"),
        ("http://proxy:3128?sk-canary", "no path, query or fragment"),
        ("http://proxy:3128/#sk-canary", "no path, query or fragment"),
        ("http://sk%3Acanary:x@proxy:3128", "its user name may not contain ':'"),
        ("http://sk-canary:%E2%82%AC@proxy:3128", "its user name may not contain ':'"),
    ],
)
def test_proxies_that_cannot_be(proxy: str, problem: str) -> None:
    [found] = problems_of({"upstreams": {"anthropic": {"proxy": proxy}}})
    assert found.startswith(f"upstreams.anthropic.proxy: {problem}")
    assert "canary" not in found


def test_an_empty_variable_is_no_proxy() -> None:
    source = {"upstreams": {"anthropic": {"proxy": "${HTTPS_PROXY:-}", "ca_bundle": "${CA:-}"}}}
    upstream = load(source, {}).upstreams["anthropic"]
    assert (None, None) == (upstream.proxy, upstream.ca_bundle)
    assert Secret("http://p:1") == load(source, {"HTTPS_PROXY": "http://p:1"}).upstreams["anthropic"].proxy


def test_yaml_of_a_configuration_masks_the_proxy() -> None:
    loaded = load({"upstreams": {"anthropic": {"proxy": "http://me:canary@proxy:3128"}}}, {})
    assert "***" == to_yaml(loaded)["upstreams"]["anthropic"]["proxy"]
    assert "canary" not in repr(loaded)


@pytest.mark.parametrize("name", ["exchanges", "exchanges_per_key"])
@pytest.mark.parametrize("count", [-1, 1_000_001, "many", 1.5, True, None])
def test_a_number_of_exchanges_that_cannot_be_is_refused(name: str, count: object) -> None:
    (found,) = problems_of({"limits": {name: count}})
    assert found.startswith(f"limits.{name}: expected a")


def test_what_is_wrong_with_limits_is_said() -> None:
    assert [
        "limits.exchange: unknown option, did you mean 'exchanges'?",
        "limits.retry_after: expected a duration of more than 0",
        "limits.middleware_body: expected a size such as 32MiB, 500kB or a number of bytes",
    ] == problems_of({"limits": {"exchange": 1, "retry_after": 0, "middleware_body": "much"}})


def test_any_number_of_exchanges_and_any_body_may_be_allowed() -> None:
    source = {"limits": {"exchanges": 0, "exchanges_per_key": 3, "retry_after": "2s", "middleware_body": 0}}
    assert Limits(0, 3, Duration(2), Size(0)) == load(source, {}).limits


def test_nothing_need_be_waited_for_at_a_stop() -> None:
    assert load({"server": {"drain": 0}}, {}).server.drain == Duration(0)


def test_yaml_of_a_configuration_loads_as_the_same(tmp_path: Path) -> None:
    """Whatever `$` and quotes it has; only secrets do not come back."""
    source = {
        "sinks": [{"jsonl": {"path": "/$${HOME}/a: #b"}}],
        "server": {"drain": "20ms", "notice": 1234567.25},
        "recorder": {"dir": "/$${HOME}/b", "retention": {"age": "90m"}, "memory": "3KiB"},
    }
    loaded = load(source, {})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_yaml(loaded)))
    assert load(file, {}) == loaded


def test_yaml_of_a_configuration_masks_secrets() -> None:
    loaded = load({"sinks": [{"explorer": {"url": "http://e", "api_key": "inv-canary"}}]}, {})
    assert loaded.sinks[0].options["api_key"] == Secret("inv-canary")
    assert to_yaml(loaded)["sinks"][0]["explorer"]["api_key"] == "***"
    assert "inv-canary" not in repr(loaded)


WORDS = st.sampled_from(
    (
        *("server", "port", "workers", "upstreams", "anthropic", "url", "middlewares", "sinks", "jsonl", "path"),
        *("limit", "auth_split", "limits", "exchanges", "recorder", "dir", "mode", "retention", "age", "bytes"),
    )
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | WORDS | st.binary(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4)
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "server": st.dictionaries(st.sampled_from(["host", "port", "prefix", "drain"]), VALUES),
        "upstreams": st.dictionaries(WORDS, st.dictionaries(st.sampled_from(["url", "idle", "connect"]), VALUES)),
        "middlewares": st.lists(WORDS | st.dictionaries(WORDS, VALUES, max_size=2), max_size=4),
        "sinks": st.lists(
            st.fixed_dictionaries({"jsonl": st.dictionaries(st.sampled_from(["path", "rotate", "keep"]), VALUES)})
        ),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(source=st.dictionaries(WORDS, VALUES) | SECTIONS)
def test_any_mapping_loads_or_is_refused(source: dict[str, Any]) -> None:
    """Nothing but `ConfigError` ever comes out, and what loads is complete."""
    try:
        loaded = load(source, {})
    except ConfigError as error:
        problems = error.problems
        assert problems
    else:
        assert load(to_yaml(loaded), {}) == loaded


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test", "."])
def test_a_host_that_no_resolver_takes_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.host"):
        load({"server": {"host": host}})
    with pytest.raises(ConfigError, match=r"upstreams\.anthropic\.url"):
        load({"upstreams": {"anthropic": {"url": f"http://{host}"}}})


@pytest.mark.parametrize("mode", ["thread", "none"])
def test_several_workers_need_a_recorder_of_their_own(mode: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"server": {"workers": 2}, "recorder": {"mode": mode}}, {})
    assert ["server.workers"] == [problem.path for problem in caught.value.problems]


def test_without_a_home_directory_the_data_needs_an_absolute_path() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"recorder": {"dir": "~nobody-of-that-name/x"}}, {})
    assert ["recorder.dir"] == [problem.path for problem in caught.value.problems]
