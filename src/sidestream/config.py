"""The configuration: YAML in, a typed and frozen `Config` out, or a `ConfigError` with everything that is wrong.

A loaded `Config` is complete: every default is filled in, the options of plugins included, and all values have their
types. docs/configuration.md is the reference; config/sidestream.yaml says the defaults once more, with comments.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from sidestream import documents, registry, signatures
from sidestream.documents import Expanded, join
from sidestream.errors import ConfigError, Problem
from sidestream.options import Duration, Secret, Size
from sidestream.providers import PROVIDERS
from sidestream.registry import Kind, PluginSpec
from sidestream.store import directory
from sidestream.wire import trust

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Config", "Limits", "PluginSpec", "Recorder", "Retention", "Server", "Upstream", "Viewer", "load", "to_yaml"]

_HOST = re.compile(r"[\w.:%-]+", re.ASCII)
_URL_HOST = re.compile(r"[\w.:-]+", re.ASCII)
_SEGMENT = r"/(?!\.{1,2}(?:/|$))"
_PREFIX = re.compile(rf"(?:{_SEGMENT}[\w.~-]+)+", re.ASCII)
_BASE_PATH = re.compile(rf"(?:{_SEGMENT}[\w.~!$&'()*+,;=:@-]+)*/?", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]+")
_MOST_WORKERS = 256
_SHORTEST_TOKEN = 16
_MOST_EXCHANGES = 1_000_000


def host_name(value: str) -> str:
    """A name or address to listen on; the empty string, which would mean every interface, is refused."""
    if not _HOST.fullmatch(value) or not _can_be_looked_up(value):
        raise ValueError("expected a host name or address such as 127.0.0.1, ::1 or 0.0.0.0")
    return value


def _is_host(host: str) -> bool:
    return _URL_HOST.fullmatch(host) is not None and _can_be_looked_up(host)


def _can_be_looked_up(host: str) -> bool:
    """Whether a resolver takes it: no empty label, none over 63 characters."""
    try:
        return bool(host.removesuffix(".").encode("idna"))
    except UnicodeError:
        return False


def port_number(value: int) -> int:
    """A TCP port; 0 is any free one."""
    if not 0 <= value <= 65535:
        raise ValueError("expected a port from 0 to 65535; 0 takes any free one")
    return value


def url_prefix(value: str) -> str:
    """The path that the gateway lives under, as a request line has it: begins with a slash, ends without one."""
    if not _PREFIX.fullmatch(value):
        raise ValueError(
            "expected a path such as /api/v1/gateway: it begins with '/', does not end with one, and its segments are "
            "letters, digits and -._~ only"
        )
    return value


def upstream_url(value: str) -> str:
    """An origin with an optional base path, returned without a slash at its end."""
    if not _PRINTABLE.fullmatch(value):
        raise ValueError("expected a URL such as https://api.anthropic.com, in printable ASCII")
    try:
        url = urlsplit(value)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError("its host or port is not valid") from None
    if url.scheme not in {"http", "https"} or not host or not _is_host(host) or port == 0:
        raise ValueError("expected http:// or https:// and a host, such as https://api.anthropic.com")
    if "@" in url.netloc:
        raise ValueError("no user name or password belongs into it: clients send their own keys")
    if "?" in value or "#" in value:
        raise ValueError("no query or fragment belongs into it")
    if not _BASE_PATH.fullmatch(url.path):
        raise ValueError("its path may not have empty or dot segments, percent signs or braces")
    return value.rstrip("/")


def certificates(value: Path | None) -> Path | None:
    """A file with the certificates of those who vouch for an upstream."""
    if value is not None:
        trust.trusting(value)
    return value


def proxy_url(value: Secret | None) -> Secret | None:
    """An HTTP proxy, perhaps with a user name and password. No message here repeats any of it."""
    if value is None:
        return None
    text = value.reveal()
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("expected a URL such as http://proxy.example.com:3128, in printable ASCII")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError("its host or port is not valid") from None
    if url.scheme != "http" or not host or not _is_host(host) or not port:
        raise ValueError("expected http://, a host and a port, such as http://proxy.example.com:3128")
    if url.path not in {"", "/"} or "?" in text or "#" in text:
        raise ValueError("no path, query or fragment belongs into it")
    if not _can_be_basic(unquote(url.username or ""), unquote(url.password or "")):
        raise ValueError("its user name may not contain ':', and neither name nor password more than Latin-1")
    return value


def _can_be_basic(user: str, password: str) -> bool:
    """Whether RFC 7617 can say it."""
    try:
        return ":" not in user and bool(f"{user}:{password}".encode("latin-1"))
    except UnicodeEncodeError:
        return False


def exchange_count(value: int) -> int:
    """A number of calls at the same time; 0 is any."""
    if not 0 <= value <= _MOST_EXCHANGES:
        raise ValueError(f"expected a number from 1 to {_MOST_EXCHANGES}, or 0 for no limit")
    return value


def positive(value: Duration) -> Duration:
    """A limit that can be kept."""
    if not value > 0:
        raise ValueError("expected a duration of more than 0")
    return value


def worker_count(value: int) -> int:
    """A number of relay processes."""
    if not 1 <= value <= _MOST_WORKERS:
        raise ValueError(f"expected a number of processes from 1 to {_MOST_WORKERS}")
    return value


def access_token(value: Secret | None) -> Secret | None:
    """What opens the viewer: it goes in a header, and must not be guessed."""
    if value is None:
        return None
    text = value.reveal()
    if len(text) < _SHORTEST_TOKEN or not _PRINTABLE.fullmatch(text):
        raise ValueError(f"expected at least {_SHORTEST_TOKEN} characters, printable ASCII without spaces")
    return value


def host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    """Names under which somebody reaches the viewer, in lower case, without ports."""
    for name in value:
        if not _is_host(name) or ":" in name:
            raise ValueError("expected host names such as traces.example.com, without scheme and port")
    return tuple(name.lower() for name in value)


def data_directory(value: str) -> str:
    """A directory: absolute, or in somebody's home."""
    if not value.startswith(("/", "~")) or "\0" in value:
        raise ValueError("expected an absolute path, or one that begins with ~")
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError("it begins with ~, but there is no such home directory; give an absolute path") from None
    return value


@dataclass(frozen=True, slots=True)
class Server:
    """Where the gateway listens, with how many processes, and how it stops: see docs/operations.md for the stages."""

    host: Annotated[str, host_name] = "127.0.0.1"
    port: Annotated[int, port_number] = 8005
    prefix: Annotated[str, url_prefix] = "/api/v1/gateway"
    workers: Annotated[int, worker_count] = 1
    notice: Duration = Duration(0)
    drain: Duration = Duration(15)
    reload_drain: Duration = Duration(900)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one relay process takes on at the same time, and of one body; 0 is no limit, but for `retry_after`."""

    exchanges: Annotated[int, exchange_count] = 1000
    exchanges_per_key: Annotated[int, exchange_count] = 0
    retry_after: Annotated[Duration, positive] = Duration(1)
    middleware_body: Size = Size(32 << 20)


@dataclass(frozen=True, slots=True)
class Retention:
    """What the store keeps of exchanges that are done with."""

    age: Annotated[Duration, positive] = Duration(30 * 86400)
    bytes: Size = Size(5 << 30)


@dataclass(frozen=True, slots=True)
class Recorder:
    """Where the trace plane runs, what it may take, and what a client's clean end promises."""

    dir: Annotated[str, data_directory]
    mode: Literal["auto", "process", "thread", "external", "none"] = "auto"
    durability: Literal["async", "strict"] = "async"
    commit_timeout: Annotated[Duration, positive] = Duration(5)
    memory: Size = Size(256 << 20)
    disk: Size = Size(10 << 30)
    min_free: Size = Size(1 << 30)
    flush: Duration = Duration(5)
    retention: Retention = Retention()


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who may look at what is stored: see docs/viewer.md."""

    enabled: bool = True
    access: Literal["auto", "open", "token"] = "auto"
    token: Annotated[Secret | None, access_token] = None
    hosts: Annotated[tuple[str, ...], host_names] = ()


@dataclass(frozen=True, slots=True)
class Upstream:
    """One provider's address, the way there, and the idle limits towards it; no limit bounds a whole exchange."""

    url: Annotated[str, upstream_url]
    ca_bundle: Annotated[Path | None, certificates] = None
    proxy: Annotated[Secret | None, proxy_url] = None
    connect: Annotated[Duration, positive] = Duration(10)
    first_byte: Annotated[Duration, positive] = Duration(600)
    idle: Annotated[Duration, positive] = Duration(300)
    write: Annotated[Duration, positive] = Duration(60)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be configured. `upstreams` is by provider; `middlewares` has the outermost first."""

    server: Server
    limits: Limits
    recorder: Recorder
    viewer: Viewer
    upstreams: dict[str, Upstream]
    middlewares: tuple[PluginSpec, ...]
    sinks: tuple[PluginSpec, ...]


_UPSTREAMS = MappingProxyType({"anthropic": Upstream("https://api.anthropic.com")})
_MIDDLEWARES = ("trace_export", "auth_split", "body_capture", "stream_tee")

_Section = TypeVar("_Section", Server, Limits, Upstream, Recorder, Viewer)


def load(source: Path | bytes | Mapping[str, object] | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """The configuration of a file, of a file's bytes, or of a mapping as a file would give it; or all defaults.

    `env` is what ``${NAME}`` is looked up in. `ConfigError` has every problem found.
    """
    unreadable: list[Problem] = []
    problems: list[Problem] = []
    top = _mapping(documents.read(source, env, unreadable), "", problems)
    known = [item.name for item in fields(Config)]
    problems += [
        Problem(join("", name), signatures.unknown("section", name, known)) for name in top if name not in known
    ]
    config = Config(
        server=_section(Server, top.get("server"), Server(), "server", problems) or Server(),
        limits=_section(Limits, top.get("limits"), Limits(), "limits", problems) or Limits(),
        recorder=_recorder(top.get("recorder"), env, problems),
        viewer=_section(Viewer, top.get("viewer"), Viewer(), "viewer", problems) or Viewer(),
        upstreams=_upstreams(top.get("upstreams"), problems),
        middlewares=_plugins("middlewares", top.get("middlewares"), _MIDDLEWARES, problems),
        sinks=_plugins("sinks", top.get("sinks"), (), problems),
    )
    _check_together(config.server, config.recorder, problems)
    # What could not be read is no value to find fault with a second time.
    told = {problem.path for problem in unreadable}
    if found := unreadable + [problem for problem in problems if problem.path not in told]:
        raise ConfigError(found)
    return config


def to_yaml(config: Config) -> dict[str, Any]:
    """The whole of a configuration as plain data for a YAML file, secrets as ``***``."""
    return {
        "server": signatures.to_yaml(asdict(config.server)),
        "limits": signatures.to_yaml(asdict(config.limits)),
        "recorder": signatures.to_yaml(asdict(config.recorder)),
        "viewer": _options(config.viewer),
        "upstreams": {name: _options(upstream) for name, upstream in config.upstreams.items()},
        "middlewares": [_entry(spec) for spec in config.middlewares],
        "sinks": [_entry(spec) for spec in config.sinks],
    }


def _options(section: Viewer | Upstream) -> Any:
    """A section that may hold a secret, which `asdict` could not copy."""
    return signatures.to_yaml({item.name: getattr(section, item.name) for item in fields(section)})


def _entry(spec: PluginSpec) -> object:
    return {spec.name: signatures.to_yaml(spec.options)} if spec.options else spec.name


def _mapping(value: object, path: str, problems: list[Problem]) -> dict[str, object]:
    """A mapping, where nothing (a key whose lines are all comments) counts as an empty one."""
    if value is not None and not isinstance(value, dict):
        problems.append(Problem(path, "expected a mapping of names to values" if path else "expected a mapping"))
    return value if isinstance(value, dict) else {}


def _section(
    kind: type[_Section], value: object, default: _Section | None, path: str, problems: list[Problem]
) -> _Section | None:
    defaults = asdict(default) if default else {}
    before = len(problems)
    given = _mapping(value, path, problems)
    values = signatures.read(signatures.options_of(kind), {**defaults, **given}, path, problems)
    return kind(**values) if len(problems) == before else default


def _check_together(server: Server, recorder: Recorder, problems: list[Problem]) -> None:
    """What each alone may be, and both together may not."""
    if recorder.durability == "strict" and recorder.mode == "none":
        problems.append(Problem("recorder.mode", "'none' keeps nothing on a disk, so durability cannot be 'strict'"))
    if server.workers > 1 and recorder.mode in {"thread", "none"}:
        message = f"more than one needs a recorder that is a process of its own, not recorder.mode: {recorder.mode}"
        problems.append(Problem("server.workers", message))


def _recorder(value: object, env: Mapping[str, str], problems: list[Problem]) -> Recorder:
    default = Recorder(dir=directory.default(env))
    return _section(Recorder, value, default, "recorder", problems) or default


def _upstreams(value: object, problems: list[Problem]) -> dict[str, Upstream]:
    given = _mapping(value, "upstreams", problems)
    upstreams = dict(_UPSTREAMS)
    for name, item in given.items():
        path = join("upstreams", name)
        if name not in PROVIDERS:
            problems.append(Problem(path, signatures.unknown("provider", name, PROVIDERS)))
        elif upstream := _section(Upstream, item, _UPSTREAMS.get(name), path, problems):
            upstreams[name] = upstream
    return upstreams


def _plugins(kind: Kind, value: object, default: Sequence[object], problems: list[Problem]) -> tuple[PluginSpec, ...]:
    if value is None:
        value = list(default)
    if not isinstance(value, list):
        problems.append(Problem(kind, "expected a list; each entry is a name, or a name with a mapping of options"))
        return ()
    specs = [_plugin(entry, f"{kind}[{index}]", problems) for index, entry in enumerate(value)]
    return registry.resolve(kind, [spec for spec in specs if spec], problems)


def _plugin(entry: object, path: str, problems: list[Problem]) -> PluginSpec | None:
    if isinstance(entry, str):
        # A name that came from the environment may be anything, so it is not repeated.
        return PluginSpec(str(entry), {}, path if isinstance(entry, Expanded) else join(path, entry))
    if isinstance(entry, dict) and len(entry) == 1:
        [(name, options)] = entry.items()
        where = join(path, name)
        return PluginSpec(name, _mapping(options, where, problems), where)
    problems.append(Problem(path, "expected a name, or one name with a mapping of options (mind the indentation)"))
    return None
