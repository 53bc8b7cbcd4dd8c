"""``/metrics`` says all that is counted; the dashboard and the alerts ask for nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sidestream.errors import SidestreamError
from sidestream.metrics import CONTENT_TYPE, LABELS, render
from sidestream.stats import BUCKETS, Histogram, Totals
from sidestream.store.rows import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.samples import Sample

CONFIG = Path(__file__).parent.parent / "config"
ALERTS = yaml.safe_load((CONFIG / "prometheus-alerts.yaml").read_text())
DASHBOARD = json.loads((CONFIG / "grafana-dashboard.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = DASHBOARD["panels"]
FULL: Totals = {
    "relay": {
        "exchanges": {"anthropic": {"200": {"completed": 101, "cancelled": 102}, "529": {"completed": 103}}},
        "time_to_first_byte": {"anthropic": {"buckets": dict.fromkeys(BUCKETS, 1000), "sum": 104.5}},
        "rejected": {"unknown_route": 105},
        "captured": 106,
        "dropped": {"journal_full": 107},
        "truncated": {"request": 108, "response": 109},
        "journal": {"bytes": 110, "write_failures": 111},
        "observer_failures": 112,
        "middleware_failures": 113,
        "inexact": 114,
        "log_lines_dropped": 115,
        "gauges": {"live": 116, "waiting_bytes": 117, "most_live": 118},
    },
    "recorder": {
        "received": 201,
        "understood": 202,
        "failed": 203,
        "store_failures": 204,
        "set_aside": {"segments": 205, "stores": 206},
        "pruned": 207,
        "deliveries": {"explorer": {"retried": 208}, "jsonl": {"retried": 209}},
        "gauges": {
            "backlog_bytes": 210,
            "oldest_unread_seconds": 211.5,
            "store_bytes": 212,
            "deliveries": {"explorer": {"dead": 213}},
            "breakers_open": {"explorer": 214},
            "keys": 215,
        },
    },
    "supervisor": {"restarts": {"relay": 301, "recorder": 302}, "gauges": {"workers": 303}},
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
)


def samples(text: bytes) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]


def values(totals: Any, **options: Any) -> dict[str, float]:
    """Name and labels of every sample with its value; no two samples have the same."""
    found = samples(render(totals, **options))
    named = {
        sample.name.removeprefix("sidestream_")
        + "".join(f" {key}={sample.labels[key]}" for key in sorted(sample.labels)): sample.value
        for sample in found
    }
    assert len(found) == len(named)
    return named


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for below in value.values():
            yield from leaves(below)
    else:
        yield value


def keys_of(shape: Any, value: Any) -> None:
    """Assert that `value` has every key that the type `shape` has, all the way down."""
    if is_typeddict(shape):
        hints = get_type_hints(shape)
        assert set(hints) == set(value)
        for key, below in hints.items():
            keys_of(below, value[key])
    elif get_origin(shape) is dict:
        assert value
        for below in value.values():
            keys_of(get_args(shape)[1], below)


def test_the_full_snapshot_of_these_tests_is_full() -> None:
    keys_of(Totals, FULL)


def test_every_number_of_a_snapshot_is_shown() -> None:
    assert set(leaves(FULL)) - set(values(FULL).values()) == set()


def test_the_labels_are_the_keys() -> None:
    shown = values(FULL)
    expected = {
        "exchanges_total outcome=cancelled provider=anthropic status=200": 102,
        "rejected_total code=unknown_route": 105,
        "dropped_total reason=journal_full": 107,
        "delivery_events_total outcome=retried sink=jsonl": 209,
        "deliveries sink=explorer state=dead": 213,
        "restarts_total process=recorder": 302,
        "live_exchanges": 116,
        "live_exchanges_limit": 118,
        "waiting_bytes": 117,
    }
    assert expected == {name: shown[name] for name in expected}


def test_no_label_is_outside_the_list() -> None:
    names = {label for sample in samples(render(FULL)) for label in sample.labels}
    assert LABELS | {"le"} == names


def test_every_metric_has_a_type_and_a_help_text() -> None:
    for family in text_string_to_metric_families(render(FULL).decode()):
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.documentation.endswith(".")
        assert family.name.startswith("sidestream_")


def test_counters_end_in_total_and_gauges_do_not() -> None:
    for family in text_string_to_metric_families(render(FULL).decode()):
        assert (family.type == "counter") == all(sample.name.endswith("_total") for sample in family.samples)


def test_the_buckets_of_the_time_to_first_byte_are_cumulative() -> None:
    histogram = Histogram()
    for seconds in (0.01, 0.7, 0.7, 500.0):
        histogram.add(seconds)
    shown = values({"relay": {"time_to_first_byte": {"anthropic": histogram.snapshot()}}})
    name = "time_to_first_byte_seconds_"
    buckets = {
        key: shown[f"{name}bucket le={key} provider=anthropic"] for key in ("0.05", "0.5", "1.0", "120.0", "+Inf")
    }
    assert {"0.05": 1, "0.5": 1, "1.0": 3, "120.0": 3, "+Inf": 4} == buckets
    assert (4, 501.41) == (shown[f"{name}count provider=anthropic"], shown[f"{name}sum provider=anthropic"])


def test_what_is_not_counted_is_not_shown() -> None:
    assert {"recorder_up": 0, "captured_total": 7} == values({"relay": {"captured": 7}})


def test_a_zero_is_shown() -> None:
    assert values({"relay": {"captured": 0}})["captured_total"] == 0


def test_a_recorder_with_gauges_is_up() -> None:
    assert values({"recorder": {"gauges": {"keys": 0}}})["recorder_up"] == 1


@pytest.mark.parametrize("totals", [{}, {"recorder": None}, {"recorder": {}}, {"recorder": {"received": 7}}])
def test_a_recorder_without_is_down(totals: Any) -> None:
    """Also when there is still what it had counted before it died."""
    assert values(totals)["recorder_up"] == 0


def test_where_there_is_to_be_no_recorder_it_cannot_be_down() -> None:
    assert {"captured_total": 7} == values({"relay": {"captured": 7}}, recorder=False)


def test_label_values_out_of_the_ordinary_become_other_and_add_up() -> None:
    """No line can be broken out of, and no length is without bounds."""
    codes = {"fine": 1, 'x"} 1\nsidestream_up 1': 2, "\ud800": 4, "x" * 65: 8, "": 16, "sk-ant key": 32}
    shown = values({"relay": {"rejected": codes}}, recorder=False)
    assert {"rejected_total code=fine": 1, "rejected_total code=other": 62} == shown


@pytest.mark.parametrize("value", [None, "7", True, [1], -1, float("nan"), float("inf"), 10**400, {}, {"a": 1}])
def test_what_is_not_a_number_is_passed_over(value: object) -> None:
    totals = {"relay": {"captured": value, "rejected": {"a_code": value}, "inexact": 5, "exchanges": {"a": value}}}
    assert {"inexact_total": 5} == values(totals, recorder=False)


@pytest.mark.parametrize("value", [None, 7, {}, {"buckets": 7}, {"buckets": {}, "sum": {}}, {"buckets": {"1.0": "x"}}])
def test_a_histogram_that_is_none_does_no_harm(value: object) -> None:
    shown = values({"relay": {"time_to_first_byte": {"anthropic": value}, "inexact": 5}}, recorder=False)
    assert {5, 0} >= set(shown.values())
    assert shown["inexact_total"] == 5


@given(st.dictionaries(st.sampled_from(["relay", "recorder", "supervisor"]), ANYTHING))
def test_whatever_there_is_the_text_can_be_read(totals: dict[str, Any]) -> None:
    values(totals)


@given(st.data())
def test_whatever_there_is_in_the_place_of_a_number_the_text_can_be_read(data: st.DataObject) -> None:
    def disturbed(value: Any) -> Any:
        if data.draw(st.integers(0, 9)) == 0:
            return data.draw(ANYTHING)
        return {key: disturbed(below) for key, below in value.items()} if isinstance(value, dict) else value

    values({part: disturbed(below) for part, below in FULL.items()})


def test_the_global_registry_is_untouched() -> None:
    """It belongs to the host that sidestream is embedded in."""
    names = {family.name for family in text_string_to_metric_families(generate_latest(REGISTRY).decode())}
    text = render(FULL)
    after = {family.name for family in text_string_to_metric_families(generate_latest(REGISTRY).decode())}
    assert names == after
    assert b"python_info" not in text


def test_a_second_rendering_is_like_the_first() -> None:
    assert render(FULL) == render(FULL)


def test_the_content_type_is_that_of_the_text_format() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SidestreamError, match=r"install sidestream\[metrics\]"):
        render(FULL)


def test_the_extra_is_imported_only_when_it_is_needed() -> None:
    check = "import sys, sidestream.metrics; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# The dashboard and the alerts.


def expressions() -> list[str]:
    return [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]


def mentioned(text: str) -> set[str]:
    return set(re.findall(r"sidestream_[a-z_]+", text))


def shown_names() -> set[str]:
    return {sample.name for sample in samples(render(FULL))}


@pytest.mark.parametrize("file", ["prometheus-alerts.yaml", "grafana-dashboard.json"])
def test_every_metric_that_is_asked_for_exists(file: str) -> None:
    text = (CONFIG / file).read_text()
    assert mentioned(text)
    assert mentioned(text) <= shown_names()


def test_every_metric_is_on_the_dashboard() -> None:
    """Of a histogram the buckets are enough."""
    dashboard = mentioned(json.dumps(PANELS))
    assert {name for name in shown_names() - dashboard if not name.endswith(("_sum", "_count"))} == set()


def test_every_expression_asks_for_a_metric() -> None:
    assert all(mentioned(expression) for expression in expressions())


def test_every_label_that_is_asked_for_is_one_of_the_metric() -> None:
    having: dict[str, set[str]] = {}
    for sample in samples(render(FULL)):
        having.setdefault(sample.name, {"instance"}).update(sample.labels)
    for expression in expressions():
        for name, selector in re.findall(r"(sidestream_[a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)(?:=|!)", selector)) <= having[name]
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            [name] = mentioned(expression)
            assert set(labels.split(", ")) <= having[name]


def test_every_legend_shows_labels_that_are_left() -> None:
    for target in (target for panel in PANELS for target in panel["targets"]):
        kept = {label for labels in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
        assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= kept


def test_every_state_that_is_asked_for_exists() -> None:
    states = {state for expression in expressions() for state in re.findall(r'state="(\w+)"', expression)}
    assert {"dead", "parked"} == states
    assert states <= set(State)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_has_what_prometheus_requires(rule: dict[str, Any]) -> None:
    assert {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Sidestream[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert {"summary", "description"} == set(rule["annotations"])
    assert all(isinstance(text, str) for text in [rule["expr"], *rule["annotations"].values()])
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_rule_file_has_one_group_and_no_alert_twice() -> None:
    assert {"groups"} == set(ALERTS)
    assert ["sidestream"] == [group["name"] for group in ALERTS["groups"]]
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_the_dashboard_can_be_imported() -> None:
    """It names itself, and takes its data source from whoever imports it."""
    assert ("sidestream", "Sidestream") == (DASHBOARD["uid"], DASHBOARD["title"])
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD
    assert ["datasource", "query"] == [variable["type"] for variable in DASHBOARD["templating"]["list"]]
    asked = [panel["datasource"] for panel in PANELS]
    asked += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in asked)


def test_no_two_panels_have_an_id_or_a_place_in_common() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in PANELS)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)
