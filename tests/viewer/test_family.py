"""A family is listed so that it reads as a tree."""

from __future__ import annotations

from shown import a_relative, a_run
from sidestream.viewer.family import DEEPEST, members


def listed(*related: tuple[str, str | None]) -> list[tuple[str, int]]:
    found = members(a_run(related=[a_relative(name, parent) for name, parent in related]))
    return [(member.related.run.id, member.depth) for member in found]


def test_a_run_by_itself_has_no_family() -> None:
    assert [] == listed(("r1", None))


def test_each_member_stands_behind_the_one_it_came_of() -> None:
    found = listed(("r0", None), ("r1", "r0"), ("r2", "r0"), ("r3", "r1"))
    assert [("r0", 0), ("r1", 1), ("r3", 2), ("r2", 1)] == found


def test_a_member_whose_parent_is_gone_stands_at_the_top() -> None:
    assert [("r1", 0), ("r2", 0)] == listed(("r1", None), ("r2", "gone"))


def test_members_are_indented_only_so_far() -> None:
    chain = [("r0", None), *((f"r{number}", f"r{number - 1}") for number in range(1, 2000))]
    found = listed(*chain)
    assert (2000, DEEPEST) == (len(found), found[-1][1])


def test_what_came_of_the_current_run_is_marked() -> None:
    related = [a_relative("r0", None), a_relative("r1", "r0"), a_relative("r2", "r1"), a_relative("r3", "r0")]
    found = members(a_run(related=related))
    assert [("r0", False, False), ("r1", True, True), ("r2", False, True), ("r3", False, False)] == [
        (member.related.run.id, member.current, member.below) for member in found
    ]
