"""A state is the same for the same messages, however they were divided, and another for any others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidestream.providers.base import Said
from sidestream.traces.states import DIGEST, digest, digest_of, scope_of, states_of


def user(*units: bytes) -> Said:
    return Said(role="user", shown=[], units=units)


def assistant(text: str, *units: bytes) -> Said:
    return Said(role="assistant", shown=[], text=text, units=units)


def test_messages_of_one_role_are_one_message() -> None:
    assert states_of([user(b"a", b"b")])[-1] == states_of([user(b"a"), user(b"b")])[-1]
    one, two = [assistant("ab", b"1", b"2")], [assistant("a", b"1"), assistant("b", b"2")]
    assert states_of(one)[-1] == states_of(two)[-1]


def test_other_messages_have_another_state() -> None:
    different = [
        [user(b"a")],
        [user(b"b")],
        [user(b"a"), assistant("x")],
        [user(b"a"), assistant("y")],
        [user(b"a"), assistant("x", b"1")],
        [user(b"a"), assistant("x"), user(b"a")],
        [assistant("x"), user(b"a")],
    ]
    assert len(different) == len({states_of(messages)[-1] for messages in different})


def test_a_message_of_which_nothing_counts_changes_nothing() -> None:
    first, second = states_of([user(b"a"), assistant("")])
    assert first == second


def test_states_go_on_from_what_was_before() -> None:
    whole = states_of([user(b"a"), assistant("x"), user(b"b")])
    assert whole[-1:] == states_of([user(b"b")], whole[1])


def test_an_outline_is_used_only_where_there_is_one() -> None:
    cleared = Said(role="user", shown=[], units=(b"long",), outline=(b"of",))
    assert states_of([cleared], outline=True) == states_of([user(b"of")], outline=True)
    assert states_of([cleared]) == states_of([user(b"long")])


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_digest_tells_lists_apart(one: list[str], other: list[str]) -> None:
    assert (one == other) == (digest(*one) == digest(*other))


def test_scopes_and_messages_have_digests_of_one_length() -> None:
    assert [DIGEST] * 2 == [len(scope_of("d", "p", "f")), len(digest_of(user(b"a")))]
    assert scope_of("ab", "c", "") != scope_of("a", "bc", "")


def test_states_are_what_earlier_versions_have_stored() -> None:
    said = [user(b"a", b"b"), assistant("xü", b"1"), assistant("y"), user(b"c")]
    assert [
        "38c84d68aa97a2df90e119b1d09b1665",
        "2b7cead9817733df722be0de62ce22d5",
        "42b41b6d7b5ac41e317247529ddad1f6",
        "93122bde22b5aa8240d0e8e29092e431",
    ] == [state.hex() for state in states_of(said)]
    assert "e221d2d874ce89687d67576d3e926f4d" == digest_of(said[1]).hex()
    assert "2e864016f185e9f04024c07c771250fe" == scope_of("d", "anthropic", "f").hex()


UNITS = st.lists(st.sampled_from([b"1", b"2"]), max_size=2).map(tuple)
SAID = st.builds(
    Said,
    role=st.sampled_from(["user", "assistant"]),
    shown=st.just([]),
    text=st.sampled_from(["", "x", "y"]),
    units=UNITS,
    outline=st.none() | UNITS,
)


@given(messages=st.lists(SAID, max_size=6), before=st.sampled_from([b"", b"0" * DIGEST]), outline=st.booleans())
def test_states_are_the_same_with_digests_that_are_known(messages: list[Said], before: bytes, *, outline: bool) -> None:
    expected = states_of(messages, before, outline=outline)
    for known in range(len(messages) + 1):
        digests = map(digest_of, messages[:known])
        assert expected == states_of(messages, before, outline=outline, digests=digests)
