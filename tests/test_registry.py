"""Plugins are found, checked, put into order, and built."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from sidestream.errors import ConfigError, Problem
from sidestream.middlewares.auth_split import AuthSplit
from sidestream.middlewares.body_capture import BodyCapture
from sidestream.middlewares.stream_tee import StreamTee
from sidestream.middlewares.trace_export import TraceExport
from sidestream.options import Secret, Size
from sidestream.registry import Kind, OptionInfo, PluginSpec, build, build_all, describe, resolve
from sidestream.sinks.base import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidestream.wire.chain import Middleware

MODULE = '''
from __future__ import annotations
from sidestream.options import Secret, Size
from sidestream.sinks.base import Sink

async def function(request, handler):
    """Do nothing.

    At all.
    """
    return await handler(request)

def not_async(request, handler): ...

class Middleware:
    """Remember."""
    def __init__(self, *, limit: Size, key: Secret = Secret("")) -> None:
        if limit > 100:
            raise ValueError("too much, and\\nthe key is " + key.reveal())
        self.limit = limit
    async def __call__(self, request, handler):
        return await handler(request)

class Outer:
    async def __call__(self, request, handler): ...

class Inner(Outer):
    inside_of = ("outer", "absent")

class Needy(Outer):
    needs = ("inner", "outer")

class NotCallable: ...

class NotAsync:
    def __call__(self, request, handler): ...

class Positional(Outer):
    def __init__(self, limit): ...

class Untyped(Outer):
    def __init__(self, *, a: complex): ...

class Quiet(Sink):
    def __init__(self, *, word: str = "x") -> None:
        super().__init__()
        if word == "bad":
            raise ValueError("word is bad")
    async def deliver(self, trace, credential): ...

class Unfinished(Sink): ...

class Namespace:
    class Within(Outer): ...

instance = Outer()
text = "text"
'''
ENTRY_POINTS = """
[sidestream.middlewares]
function = plug:function
inner = plug:Inner
needy = plug:Needy
outer = plug:Outer
gone = plug:Gone

[sidestream.sinks]
quiet = plug:Quiet
"""


def install(folder: Path, name: str, entry_points: str) -> None:
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture(autouse=True)
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution `plug` with a module of that name."""
    (tmp_path / "plug.py").write_text(MODULE)
    install(tmp_path, "plug", ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("plug", None)


def chain(*names: str) -> list[Middleware]:
    return build("middlewares", [PluginSpec(name, {}, f"middlewares[{n}]") for n, name in enumerate(names)])


def problems_of(kind: Kind, *specs: PluginSpec) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(kind, specs)
    return [str(problem) for problem in caught.value.problems]


def refused(*names: str) -> list[str]:
    return problems_of("middlewares", *(PluginSpec(name, {}, f"middlewares[{n}]") for n, name in enumerate(names)))


def built(name: str, options: dict[str, Any] | None = None) -> Any:
    [plugin] = build("middlewares", [PluginSpec(name, options or {})])
    return plugin


def test_the_default_chain_is_built_in_order() -> None:
    kinds = [type(item) for item in chain("trace_export", "auth_split", "body_capture", "stream_tee")]
    assert kinds == [TraceExport, AuthSplit, BodyCapture, StreamTee]


def test_a_plugin_is_found_by_its_entry_point() -> None:
    assert type(built("outer")).__name__ == "Outer"


def test_a_plugin_is_found_by_module_and_name() -> None:
    assert built("plug:Middleware", {"limit": "64B"}).limit == Size(64)


def test_a_plugin_may_be_inside_of_a_class() -> None:
    assert type(built("plug:Namespace.Within")).__name__ == "Within"


def test_a_function_is_a_middleware() -> None:
    assert built("plug:function").__name__ == "function"


def test_an_object_is_a_middleware() -> None:
    assert built("plug:instance") is sys.modules["plug"].instance


def test_a_sink_is_built() -> None:
    [sink] = build("sinks", [PluginSpec("quiet", {"word": "y"})])
    assert isinstance(sink, Sink)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("outr", "unknown middleware, did you mean 'outer'?"),
        ("gone", "plug has no Gone"),
        ("plug:Outr", "plug has no Outr, did you mean 'Outer'?"),
        ("plug:Namespace.Wihtin", "plug has no Wihtin, did you mean 'Within'?"),
        ("nowhere:Name", "there is no module nowhere (is it installed, or on PYTHONPATH?)"),
        ("plug.within:Name", "there is no module plug.within (is it installed, or on PYTHONPATH?)"),
        ("plug:", "expected the name of an installed one, or package.module:Name"),
        (":Name", "expected the name of an installed one, or package.module:Name"),
        ("..plug:Name", "expected the name of an installed one, or package.module:Name"),
        ("plug:Name:Name", "expected the name of an installed one, or package.module:Name"),
        ("plug:text", "is not a middleware: expected `async def middleware(request, handler)`, or a class that"),
        ("plug:not_async", "is not a middleware: expected `async def middleware(request, handler)`, or a class"),
        ("plug:NotCallable", "is not a middleware: expected `async def middleware(request, handler)`, or a class that"),
        ("plug:NotAsync", "is not a middleware: expected `async def middleware(request, handler)`, or a class that"),
        ("plug:Positional", "cannot be configured: the parameter 'limit' of its constructor is not keyword-only"),
        ("plug:Untyped", "cannot be configured: an option cannot be of type complex"),
    ],
)
def test_a_middleware_that_cannot_be_had(name: str, problem: str) -> None:
    [found] = refused(name)
    assert found.startswith(f"middlewares[0]: {problem}")


def test_an_unknown_name_lists_what_there_is() -> None:
    [problem] = refused("zzzzz")
    known = ", ".join(info.name for info in describe("middlewares"))
    assert problem == f"middlewares[0]: unknown middleware; known: {known}"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("plug:Outer", "is not a sink: expected a subclass of sidestream.sinks.base.Sink"),
        ("plug:function", "is not a sink: expected a subclass of sidestream.sinks.base.Sink"),
        ("plug:Unfinished", "is not finished: it does not define deliver"),
        ("quit", "unknown sink, did you mean 'quiet'?"),
    ],
)
def test_a_sink_that_cannot_be_had(name: str, problem: str) -> None:
    assert problems_of("sinks", PluginSpec(name, {}, "sinks[0]")) == [f"sinks[0]: {problem}"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import not_there_at_all", "cannot be imported: No module named 'not_there_at_all'"),
        ("from sys import not_there", "cannot be imported: cannot import name 'not_there' from 'sys'"),
        ("def f(:", "cannot be imported: invalid syntax"),
    ],
)
def test_a_module_that_cannot_be_imported(plug: Path, source: str, problem: str) -> None:
    (plug / "broken.py").write_text(source)
    [found] = refused("broken:Name")
    assert found.startswith(f"middlewares[0]: {problem}")


def test_a_function_takes_no_options() -> None:
    spec = PluginSpec("plug:function", {"limit": 1}, "middlewares[0]")
    assert problems_of("middlewares", spec) == ["middlewares[0].limit: unknown option; known: none"]


def test_two_distributions_may_not_claim_one_name(plug: Path) -> None:
    install(plug, "other", "[sidestream.middlewares]\nouter = plug:Inner\n")
    [problem] = refused("outer")
    assert sorted(problem.removeprefix("middlewares[0]: ").split("; write ")[1].split(" or ")) == [
        "plug:Inner",
        "plug:Outer",
    ]
    assert type(built("plug:Outer")).__name__ == "Outer"


def test_two_distributions_may_agree_on_a_name(plug: Path) -> None:
    install(plug, "other", "[sidestream.middlewares]\nouter = plug:Outer\n")
    assert type(built("outer")).__name__ == "Outer"


def test_every_problem_is_reported() -> None:
    specs = [
        PluginSpec("plug:Middleware", {"limt": 1, "key": 5}, "middlewares[0]"),
        PluginSpec("zzzzz", {}, "middlewares[1]"),
        PluginSpec("auth_split", {"require_trace_key": 1}),
    ]
    problems = problems_of("middlewares", *specs)
    assert problems[:3] == [
        "middlewares[0].limt: unknown option, did you mean 'limit'?",
        "middlewares[0].limit: required, but not given",
        "middlewares[0].key: expected text; put it in quotes",
    ]
    assert problems[3].startswith("middlewares[1]: unknown middleware")
    assert problems[4:] == ["auth_split.require_trace_key: expected auto, true or false"]


def test_a_constructors_refusal_is_a_problem_without_secrets() -> None:
    spec = PluginSpec("plug:Middleware", {"limit": 101, "key": "sk-canary"}, "middlewares[0].x")
    assert problems_of("middlewares", spec) == ["middlewares[0].x: too much, and the key is ***"]


def test_building_all_reports_both_kinds() -> None:
    with pytest.raises(ConfigError) as caught:
        build_all([PluginSpec("outr")], [PluginSpec("quiet", {"word": "bad"}, "sinks[0]")])
    assert caught.value.problems == [
        Problem("outr", "unknown middleware, did you mean 'outer'?"),
        Problem("sinks[0]", "word is bad"),
    ]


def test_sinks_of_one_kind_are_told_apart_by_their_names(tmp_path: Path) -> None:
    specs = [PluginSpec("jsonl", {"path": str(tmp_path / name)}) for name in "abc"]
    assert ["jsonl", "jsonl-2", "jsonl-3"] == [sink.name for sink in build("sinks", specs)]


def test_building_all_builds_both_kinds() -> None:
    middlewares, sinks = build_all([PluginSpec("outer")], [PluginSpec("quiet"), PluginSpec("quiet")])
    assert (len(middlewares), len(sinks)) == (1, 2)


def test_resolving_fills_in_every_default() -> None:
    problems: list[Problem] = []
    resolved = resolve("middlewares", [PluginSpec("plug:Middleware", {"limit": "1B"}, "here")], problems)
    assert (resolved, problems) == (
        (PluginSpec("plug:Middleware", {"limit": Size(1), "key": Secret("")}, "here"),),
        [],
    )


def test_resolving_twice_changes_nothing() -> None:
    once = resolve("middlewares", [PluginSpec("plug:Middleware", {"limit": "1B"})], [])
    assert once == resolve("middlewares", once, [])


@pytest.mark.parametrize("names", [[], ["outer"], ["inner"], ["outer", "inner"], ["needy", "outer", "inner"]])
def test_orders_that_work(names: list[str]) -> None:
    assert len(chain(*names)) == len(names)


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (["inner", "outer"], ["middlewares[0]: must be inside of outer: move outer before inner"]),
        (["plug:Inner", "plug:Outer"], ["middlewares[0]: must be inside of outer: move outer before inner"]),
        (["outer", "outer"], ["middlewares[1]: outer is there twice; remove one"]),
        (["outer", "plug:Outer"], ["middlewares[1]: outer is there twice; remove one"]),
        (["plug:instance", "plug:instance"], ["middlewares[1]: plug:instance is there twice; remove one"]),
        (
            ["needy"],
            [
                "middlewares[0]: needs inner inside of it: add inner after needy",
                "middlewares[0]: needs outer inside of it: add outer after needy",
            ],
        ),
        (
            ["outer", "inner", "needy"],
            [
                "middlewares[2]: needs inner inside of it: move inner after needy",
                "middlewares[2]: needs outer inside of it: move outer after needy",
            ],
        ),
        (
            ["body_capture", "auth_split", "stream_tee", "trace_export"],
            [
                "middlewares[0]: must be inside of auth_split: move auth_split before body_capture",
                "middlewares[3]: needs body_capture inside of it: move body_capture after trace_export",
                "middlewares[3]: needs stream_tee inside of it: move stream_tee after trace_export",
            ],
        ),
    ],
)
def test_orders_that_cannot_work(names: list[str], problems: list[str]) -> None:
    assert problems == refused(*names)


def test_an_unknown_middleware_is_not_also_missed() -> None:
    assert refused("trace_export", "body_captur", "stream_tee") == [
        "middlewares[1]: unknown middleware, did you mean 'body_capture'?"
    ]


def test_sinks_have_no_order() -> None:
    assert len(build("sinks", [PluginSpec("quiet"), PluginSpec("quiet")])) == 2


def test_describing_says_everything_about_a_plugin(plug: Path) -> None:
    (plug / "plug-1.5.dist-info" / "entry_points.txt").write_text("[sidestream.middlewares]\nkeeps = plug:Middleware\n")
    [keeps] = [info for info in describe("middlewares") if info.name == "keeps"]
    assert (keeps.origin, keeps.target, keeps.summary) == ("plug 1.5", "plug:Middleware", "Remember.")
    assert keeps.options == [OptionInfo("limit", "size", "", True), OptionInfo("key", "secret", '""', False)]


def test_describing_goes_by_name_and_kind() -> None:
    names = [info.name for info in describe("sinks")]
    assert names == sorted(names)
    assert {"explorer", "jsonl", "quiet"} <= set(names)
    assert "outer" not in names


def test_describing_a_function_takes_its_first_line() -> None:
    [function] = [info for info in describe("middlewares") if info.name == "function"]
    assert (function.summary, function.options) == ("Do nothing.", [])


def test_describing_survives_a_broken_plugin() -> None:
    [gone] = [info for info in describe("middlewares") if info.name == "gone"]
    assert (gone.summary, gone.options) == ("Cannot be used: plug has no Gone", [])


def test_a_constructor_that_fails_is_a_problem_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "class Bad:\n    def __init__(self):\n        1 / 0\n    async def __call__(self, request, handler): ...\n"
    (tmp_path / "bad_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"its constructor failed: ZeroDivisionError at .*bad_plugin\.py:3"):
        build("middlewares", [PluginSpec("bad_plugin:Bad")])


@pytest.mark.parametrize("code", ["1 / 0", "import sys; sys.exit(5)"])
def test_a_module_that_fails_to_import_is_a_problem_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"cannot be imported: (ZeroDivisionError|SystemExit) at .*broken_plugin\.py:1"
    ):
        build("middlewares", [PluginSpec("broken_plugin:Name")])
