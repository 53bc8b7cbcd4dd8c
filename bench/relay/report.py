"""What the figures come to: a table of the peers, and one of what sidestream promises, which the README shows."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench.relay.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"

_OURS: Final = "sidestream"
_TWO: Final = "sidestream-2"
_P50, _P99 = 0, 2

if TYPE_CHECKING:
    Results = dict[str, Any]
    """What relay.json holds."""
    One = dict[str, Any]
    """One `scenarios.Measured`, as JSON has it."""
    Figure = Callable[[One], float]


class Goal(NamedTuple):
    """A promise: `figure` is what it is about, of any peer; `of` says how `measured` is made of two peers' figures."""

    name: str
    scenario: str
    figure: Figure
    limit: float
    unit: str
    of: str = "ours"
    """``ours``, ``ratio`` (to nginx's) or ``added`` (to what it takes without a gateway)."""


def _cpu(one: One) -> float:
    """Milliseconds per request or stream, at the speed of the fixed piece of work."""
    return 1000 * _scaled(one["cpu"], one) / _count(one["served"])


def _event_cpu(one: One) -> float:
    """Microseconds per event."""
    return 1e6 * _scaled(one["cpu"], one) / _count(one["events"])


def _recorder_cpu(one: One) -> float:
    return 1000 * _scaled(one["recorder_cpu"], one) / _count(one["served"])


def _recorder_event_cpu(one: One) -> float:
    return 1e6 * _scaled(one["recorder_cpu"], one) / _count(one["events"])


def _per_cpu_second(one: One) -> float:
    return 1000 / _cpu(one) if one["cpu"] else math.nan


def _megabytes(one: One) -> float:
    return float(one["memory"]) / 1e6


def _latency(percentile: int) -> Figure:
    return lambda one: float(one["latency"][percentile]) / 1000


def _age(percentile: int) -> Figure:
    return lambda one: float(one["age"][percentile]) / 1000


def _count(number: int) -> float:
    return float(max(number, 1))


def _scaled(seconds: float, one: One) -> float:
    return seconds * float(one["reference"]) / float(one["speed"])


GOALS: Final = (
    Goal("CPU per JSON request, to nginx's", "saturated", _cpu, 25, "ms", of="ratio"),
    Goal("CPU per event of a paced stream, to nginx's", "paced", _event_cpu, 3.5, "µs", of="ratio"),
    Goal("CPU per stream of 100 events at once, to nginx's", "burst", _cpu, 3, "ms", of="ratio"),
    Goal("added to a JSON request, p50", "serial", _latency(_P50), 0.5, "ms", of="added"),
    Goal("added to a JSON request, p99", "serial", _latency(_P99), 1.0, "ms", of="added"),
    Goal("added to an event's age at 5,000 events/s, p50", "paced", _age(_P50), 0.2, "ms", of="added"),
    Goal("added to a 200 KB request with a 2 MB answer, p50", "large", _latency(_P50), 2, "ms", of="added"),
    Goal("memory of the relay with 500 streams open", "memory", _megabytes, 90, "MB"),
    Goal("trace plane: CPU per JSON exchange", "saturated", _recorder_cpu, 0.5, "ms"),
    Goal("trace plane: CPU per event", "paced", _recorder_event_cpu, 10, "µs"),
)


def goals_table(results: Results) -> str:
    """The promises as Markdown, each with what was measured; what falls short is marked."""
    measured = _referenced(results["measured"])
    rows = ["| | goal | measured | nginx |", "|---|---|---|---|"]
    rows += [_goal_row(measured, goal) for goal in GOALS]
    rows += [_workers_row(measured, "saturated", "both filling one core")]
    rows += [_workers_row(measured, "rate", "at 100 requests/s")]
    rows += [_count_row(measured, "bytes changed", "differing"), _count_row(measured, "traces lost", "lost")]
    return "\n".join(rows) + "\n"


def _goal_row(measured: Results, goal: Goal) -> str:
    ours, nginx = (_figures(measured, peer, goal.scenario, goal.figure) for peer in (_OURS, "nginx"))
    direct = _figures(measured, "direct", goal.scenario, goal.figure)
    unit, beside = goal.unit, ""
    if goal.of == "ratio":
        value, other, unit = _ratio(ours, nginx), median(nginx.values() or [math.nan]), "times"
        beside = f" ({_text(median(ours.values() or [math.nan]))} {goal.unit})"
    elif goal.of == "added":
        value, other = _added(ours, direct), _added(nginx, direct)
    else:
        value, other = median(ours.values() or [math.nan]), math.nan
        if goal.scenario == "memory":
            other = median(nginx.values() or [math.nan])
    shown = "-" if math.isnan(value) else f"{_text(value)} {unit}{beside}"
    reference = "" if math.isnan(other) else f"{_text(other)} {goal.unit}"
    return _row(goal.name, f"≤ {_text(goal.limit)} {unit}", shown, reference, short=value > goal.limit)


def _workers_row(measured: Results, scenario: str, when: str) -> str:
    one, two = (_figures(measured, peer, scenario, _per_cpu_second) for peer in (_OURS, _TWO))
    value = _ratio(two, one)
    shown = "-" if math.isnan(value) else f"{value:.2f} times"
    return _row(f"requests per CPU second, two workers to one, {when}", "≥ 0.95 times", shown, "", short=value < 0.95)


def _count_row(measured: Results, name: str, field: str) -> str:
    counts = {peer: sum(one[field] for one in _all(measured, peer)) for peer in (_OURS, _TWO, "nginx")}
    ours = counts[_OURS] + counts[_TWO]
    nginx = f"{counts['nginx']}" if field == "differing" and measured.get("nginx") else ""
    return _row(name, "0", f"{ours}", nginx, short=ours > 0)


def _row(name: str, goal: str, shown: str, reference: str, *, short: bool) -> str:
    marked = f"**{shown}**, short of it" if short else shown
    return f"| {name} | {goal} | {marked} | {reference} |"


def peers_table(results: Results) -> str:
    """Every peer as Markdown: medians over the repetitions."""
    measured = _referenced(results["measured"])
    columns: list[tuple[str, str, Figure, str]] = [
        ("req/s", "saturated", lambda one: one["done"] / max(one["seconds"], 0.001), "absolute"),
        ("CPU ms/req", "saturated", _cpu, "absolute"),
        ("to nginx", "saturated", _cpu, "ratio"),
        ("serial +p50 ms", "serial", _latency(_P50), "added"),
        ("+p99", "serial", _latency(_P99), "added"),
        ("100/s +p50", "rate", _latency(_P50), "added"),
        ("+p99", "rate", _latency(_P99), "added"),
        ("2 MB +p50", "large", _latency(_P50), "added"),
        ("burst streams/s", "burst", lambda one: one["done"] / max(one["seconds"], 0.001), "absolute"),
        ("CPU ms/stream", "burst", _cpu, "absolute"),
        ("to nginx", "burst", _cpu, "ratio"),
        ("paced CPU µs/event", "paced", _event_cpu, "absolute"),
        ("to nginx", "paced", _event_cpu, "ratio"),
        ("age +p50 ms", "paced", _age(_P50), "added"),
        ("+p99", "paced", _age(_P99), "added"),
        ("500 streams MB", "memory", _megabytes, "absolute"),
        ("recorder ms/req", "saturated", _recorder_cpu, "absolute"),
        ("µs/event", "paced", _recorder_event_cpu, "absolute"),
        ("recorder MB", "memory", lambda one: one["recorder_memory"] / 1e6, "absolute"),
        ("supervisor MB", "memory", lambda one: one["supervisor_memory"] / 1e6, "absolute"),
    ]
    rows = ["| peer | " + " | ".join(name for name, *_ in columns) + " | differing | errors | lost |"]
    rows.append("|" + "---|" * (len(columns) + 4))
    for peer in measured:
        cells = [_cell(measured, peer, *column[1:]) for column in columns]
        cells += [str(sum(one[field] for one in _all(measured, peer))) for field in ("differing", "errors", "lost")]
        rows.append(f"| {peer} | " + " | ".join(cells) + " |")
    loads = "; ".join(f"{name}: {SCENARIOS[name].about}" for name in SCENARIOS)
    everything = [one for peer in measured for one in _all(measured, peer)]
    drift = max((one["speed"] / one["reference"] for one in everything), default=1)
    foreign = max((one["foreign"] for one in everything), default=0)
    return "\n".join([
        f"{results['date']}, {', '.join(results['machine'].values())}; {', '.join(_versions(results))}",
        f"{loads}.",
        f"At its slowest the machine took {drift:.2f} times its shortest time; others used up to {foreign:.2f} cores.",
        "",
        *rows,
        "",
    ])  # fmt: skip


def _cell(measured: Results, peer: str, scenario: str, figure: Figure, how: str) -> str:
    ours = _figures(measured, peer, scenario, figure)
    base = _figures(measured, "nginx" if how == "ratio" else "direct", scenario, figure)
    if how == "absolute":
        return _text(median(ours.values())) if ours else "-"
    return _text((_ratio if how == "ratio" else _added)(ours, base))


def sound(results: Results) -> bool:
    """Whether sidestream changed no byte and lost no trace."""
    ours = [one for peer in (_OURS, _TWO) for one in _all(results["measured"], peer)]
    return not any(one["differing"] or one["lost"] for one in ours)


def inserted(text: str, results: Results) -> str:
    """A README with the table of these figures between its markers; `ValueError` without them."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"there is no place for the table: {BEGIN} and {END}")
    return f"{head}{begin}\n{readme_table(results)}{end}{tail}"


def readme_table(results: Results) -> str:
    """What stands between the markers, the markers left out."""
    facts = [results["date"], *results["machine"].values(), *_versions(results)]
    return f"{goals_table(results)}\n{', '.join(fact for fact in facts if fact)}.\n"


def _versions(results: Results) -> list[str]:
    return list(dict.fromkeys(results["versions"].values()))


def _referenced(measured: Results) -> Results:
    """Each with the fastest speed of the session beside its own."""
    everything = [one for peer in measured for one in _all(measured, peer)]
    reference = min((one["speed"] for one in everything), default=1.0)
    return {
        peer: {name: [{**one, "reference": reference} for one in ones] for name, ones in scenarios.items()}
        for peer, scenarios in measured.items()
    }


def _all(measured: Results, peer: str) -> list[One]:
    return [one for ones in measured.get(peer, {}).values() for one in ones]


def _figures(measured: Results, peer: str, scenario: str, figure: Figure) -> dict[int, float]:
    """By repetition."""
    ones = measured.get(peer, {}).get(scenario, [])
    return {one["repetition"]: figure(one) for one in ones if one["served"]}


def _ratio(ours: dict[int, float], theirs: dict[int, float]) -> float:
    """The median of the ratios within each repetition."""
    return median([value / theirs[number] for number, value in ours.items() if theirs.get(number)] or [math.nan])


def _added(ours: dict[int, float], direct: dict[int, float]) -> float:
    return median([value - direct[number] for number, value in ours.items() if number in direct] or [math.nan])


def _text(value: float) -> str:
    """Three digits that count, or fewer."""
    if math.isnan(value):
        return "-"
    if float(value).is_integer() and value < 1000:
        return f"{value:.0f}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
