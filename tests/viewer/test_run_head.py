"""What stands above a run's turns is put together from its lines."""

from __future__ import annotations

from shown import a_run, told
from sidestream.viewer.run_head import head, page_of


def test_a_page_of_turns_begins_every_hundred() -> None:
    assert [1, 1, 1, 51, 201] == [page_of(number) for number in (0, 1, 50, 51, 250)]


def test_all_models_of_a_run_are_told_once() -> None:
    turns = [told(number, model=model).turn for number, model in enumerate(("a", "b", "a", None), start=1)]
    assert ["a", "b"] == head(a_run(*turns))["models"]
