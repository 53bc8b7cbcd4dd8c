from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from bench import attackers, attacks, soak
from bench.relay import __main__ as relay
from bench.relay import programs, report
from bench.relay.scenarios import SCENARIOS
from rawhttp import exchange, post
from sidestream.testing import ScriptedUpstream
from sidestream.testing.upstream import Connection, Received, response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_a_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="mock and load are in C; there is no gcc")


def one(**facts: Any) -> dict[str, Any]:
    """What one run of a scenario showed: a millisecond of everything."""
    times = {"latency": [1000.0] * 4, "first_byte": [1000.0] * 4, "age": [1000.0] * 4}
    counts = {"served": 1000, "done": 1000, "events": 1000, "errors": 0, "differing": 0, "lost": 0, "repetition": 0}
    cpu = {"cpu": 1.0, "recorder_cpu": 1.0, "seconds": 1.0, "speed": 0.01, "foreign": 0.0}
    memory = {"memory": 10_000_000, "recorder_memory": 0, "supervisor_memory": 0}
    return {**times, **counts, **cpu, **memory, **facts}


def results(**peers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What a run of the bench showed; in the peers' names, an underscore is a hyphen."""
    measured = {name.replace("_", "-"): scenarios for name, scenarios in peers.items()}
    machine = {"system": "Linux", "cpu": "2 cores", "python": "Python 3"}
    return {"date": "2026-11-23", "machine": machine, "versions": {"nginx": "nginx/1"}, "measured": measured}


def row(table: str, name: str) -> list[str]:
    """The cells behind the name."""
    [line] = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_ratio_is_the_median_of_those_within_a_repetition() -> None:
    ours = [one(repetition=number, cpu=cpu) for number, cpu in enumerate((20.0, 40.0, 90.0))]
    nginx = [one(repetition=number, cpu=cpu) for number, cpu in enumerate((1.0, 4.0, 3.0))]
    table = report.goals_table(results(sidestream={"saturated": ours}, nginx={"saturated": nginx}))
    assert ["≤ 25 times", "20 times (40 ms)", "3 ms"] == row(table, "CPU per JSON request, to nginx's")


def test_cpu_is_told_at_the_fastest_speed_of_the_session() -> None:
    """A piece of work that takes twice as long says that the machine was half as fast."""
    measured = results(sidestream={"saturated": [one(recorder_cpu=0.8, speed=0.02)]}, nginx={"saturated": [one()]})
    assert "0.40 ms" == row(report.goals_table(measured), "trace plane: CPU per JSON exchange")[1]


def test_what_is_added_is_what_the_way_without_a_gateway_does_not_take() -> None:
    measured = results(sidestream={"serial": [one(latency=[1400.0, 0, 2500.0, 0])]}, direct={"serial": [one()]})
    table = report.goals_table(measured)
    assert "0.40 ms" == row(table, "added to a JSON request, p50")[1]
    assert "**1.50 ms**, short of it" == row(table, "added to a JSON request, p99")[1]


@pytest.mark.parametrize("peer", ["sidestream", "sidestream_2"])
@pytest.mark.parametrize(("field", "name"), [("differing", "bytes changed"), ("lost", "traces lost")])
def test_a_changed_byte_and_a_lost_trace_show_and_fail(peer: str, field: str, name: str) -> None:
    whole = results(**{peer: {"rate": [one()]}})
    broken = results(**{peer: {"rate": [one(**{field: 1})]}})
    assert (True, False) == (report.sound(whole), report.sound(broken))
    assert ["0", "**1**, short of it"] == [row(report.goals_table(each), name)[1] for each in (whole, broken)]


def test_two_workers_may_cost_hardly_more_than_one() -> None:
    alone = {"saturated": [one()], "rate": [one()]}
    table = report.goals_table(results(sidestream=alone, sidestream_2={"saturated": [one(cpu=2.0)], "rate": [one()]}))
    name = "requests per CPU second, two workers to one"
    assert ["≥ 0.95 times", "**0.50 times**, short of it", ""] == row(table, f"{name}, both filling one core")
    assert ["≥ 0.95 times", "1.00 times", ""] == row(table, f"{name}, at 100 requests/s")


def test_without_nginx_there_are_no_ratios() -> None:
    table = report.goals_table(results(sidestream={name: [one()] for name in SCENARIOS}))
    assert ["≤ 25 times", "-", ""] == row(table, "CPU per JSON request, to nginx's")


def test_every_peer_has_a_row_of_what_it_was_measured_with() -> None:
    measured = results(direct={}, nginx={"saturated": [one()]}, sidestream={"saturated": [one(cpu=2.0)]})
    table = report.peers_table(measured)
    assert [["-", "-"], ["1", "1"], ["2", "2"]] == [row(table, name)[1:3] for name in ("direct", "nginx", "sidestream")]


def test_the_readmes_table_goes_between_its_markers_and_nowhere_else() -> None:
    measured = results(sidestream={"rate": [one()]})
    written = report.inserted(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", measured)
    assert f"before\n{report.BEGIN}\n{report.readme_table(measured)}{report.END}\nafter\n" == written
    assert written == report.inserted(written, measured)
    with pytest.raises(ValueError, match="no place for the table"):
        report.inserted("no markers", measured)


def test_the_readme_shows_what_was_measured() -> None:
    text = relay.README.read_text()
    assert report.inserted(text, json.loads(relay.RESULTS.read_text())) == text


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [([1, 50, 100, 100, 105, 90], True), ([1, 50, 100, 100, 106, 90], False), ([9, 100, 104], True)],
)
def test_memory_is_flat_when_the_last_third_has_hardly_more_than_the_second(samples: list[int], verdict: bool) -> None:
    assert verdict == soak.flat(soak.thirds(samples))


@pytest.mark.parametrize(("last", "verdict"), [(114, True), (116, False)])
def test_a_short_run_may_still_be_warming_up(last: int, verdict: bool) -> None:
    assert verdict == soak.flat([50, 100, last], seconds=60)


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Mock]:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "cut").write_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
    programs.build()
    with programs.mock(folder) as running:
        yield running


LOADS = {
    "closed": {"m": "closed", "c": 4, "n": 40},
    "open": {"m": "open", "r": 200, "c": 4, "t": 0.2},
    "streams": {"m": "stream", "c": 4, "n": 8, "e": 30},
    "paced streams": {"m": "stream", "c": 4, "n": 4, "e": 5, "d": 2000, "b": 3},
    "large": {"m": "closed", "n": 3, "k": 200, "a": 2_000_000},
}


@needs_a_compiler
@pytest.mark.parametrize("name", LOADS)
def test_the_load_finds_every_byte_that_the_mock_sends(name: str, mock: programs.Mock) -> None:
    before = mock.stats()
    found = programs.load(mock.port, "/v1/messages", [], {"w": 0, **LOADS[name]})
    after = mock.stats()
    served = sum(after[kind] - before[kind] for kind in ("messages", "streams_done"))
    assert (0, 0, 0) == (found["differing"], found["errors"], found["unfinished"])
    assert 0 < found["done"] == found["started"] == served
    assert LOADS[name].get("e", 0) * found["done"] == found["events"]


@needs_a_compiler
@pytest.mark.parametrize(
    ("changed", "differing"), [(lambda body: body, 0), (lambda body: body[:99] + b"!" + body[100:], 1)]
)
async def test_the_load_notices_a_single_byte(changed: Any, differing: int, mock: programs.Mock) -> None:
    body = (await exchange(mock.url, post(path="/v1/messages"))).body

    async def script(_received: Received, connection: Connection) -> None:
        await connection.send(response(changed(body)))

    async with ScriptedUpstream(script) as upstream:
        port = int(upstream.url.rpartition(":")[2])
        found = await asyncio.to_thread(programs.load, port, "/v1/messages", [], {"m": "closed", "n": 1, "w": 0})
    assert (1, differing) == (found["done"], found["differing"])


@needs_a_compiler
async def test_the_mock_counts_the_traces_of_a_push(mock: programs.Mock) -> None:
    before = mock.stats()["traces"]
    body = b'{"dataset":"[{","messages":[[{"content":"\\"[[{"}],[],[{"x":[[1]]}]],"metadata":[{"messages":[1]}]}'
    answer = await exchange(mock.url, post(body, path="/api/v1/push/trace"))
    assert 3 == len(set(json.loads(answer.body)["id"])) == mock.stats()["traces"] - before


@needs_a_compiler
async def test_the_mock_sends_a_file_as_it_is(mock: programs.Mock) -> None:
    answer = await exchange(mock.url, post(b"[raw cut]", path="/v1/messages"))
    assert (200, b"cut", False) == (answer.status, answer.body, answer.complete)


def test_without_a_compiler_the_bench_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "BUILD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(programs.BenchError, match="gcc is not on the path"):
        programs.build()


def test_an_upstream_attack_asks_for_an_answer_that_there_is(tmp_path: Path) -> None:
    attackers.write_answers(tmp_path)
    asked = {name.partition(": ")[2] for name in attackers.ATTACKS if name.startswith("upstream: ")}
    assert len(asked) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("facts", "harmless"),
    [({}, True), ({"p99": 100.0}, False), ({"age": 100.0}, False), ({"failed": 1}, False), ({"restarts": 1}, False)],
)
def test_an_attack_is_harmless_when_a_client_notices_nothing(facts: dict[str, Any], harmless: bool) -> None:
    quiet = attacks.Noticed(1.0, 99.0, 200.0, 99.0, 200.0, failed=0, restarts=0, memory=1, recorder=1)
    assert harmless == quiet._replace(**facts).harmless
