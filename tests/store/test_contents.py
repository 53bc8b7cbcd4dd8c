"""What is said twice is held once, comes back exactly, and goes with the last that needs it."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.store.contents import Contents
from sidestream.store.database import Database
from sidestream.store.packing import Packer

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = base64.b64encode(os.urandom(9000))
RUN = st.integers(4090, 4200).map(lambda size: (b"QUJD" * 1100)[:size])
TEXT = st.lists(
    st.sampled_from([b'"', b",", b"=", b"\\", b"data:image/png;base64,"]) | RUN | st.binary(max_size=9)
).map(b"".join)


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    yield database
    database.close()


@pytest.fixture
def contents(database: Database) -> Contents:
    return Contents(database, Packer())


def put(database: Database, contents: Contents, *texts: bytes) -> list[int]:
    with database.transaction():
        return [contents.put(text) for text in texts]


def put_and_fail(contents: Contents, text: bytes) -> None:
    contents.put(text)
    raise KeyError


def rows(database: Database, table: str) -> int:
    ((number,),) = database.rows(f"SELECT count(*) FROM {table}")  # noqa: S608  # a test's own word
    return int(number)


@given(TEXT)
def test_any_text_comes_back_exactly(text: bytes) -> None:
    database = Database.open(None)
    contents = Contents(database, Packer())
    (number,) = put(database, contents, text)
    assert text == contents.get(number)
    database.close()


def test_the_same_text_has_the_same_number(database: Database, contents: Contents) -> None:
    first, other, again = put(database, contents, b'{"a": 1}', b'{"a": 2}', b'{"a": 1}')
    assert first == again
    assert first != other
    assert [first] == put(database, contents, b'{"a": 1}')


def test_what_a_transaction_that_failed_had_put_is_put_again(database: Database, contents: Contents) -> None:
    with pytest.raises(KeyError), database.transaction():
        put_and_fail(contents, b"[1]")
    assert [b"[1]"] == [contents.get(number) for number in put(database, contents, b"[1]")]


def test_what_an_attempt_that_failed_had_put_is_put_again(database: Database, contents: Contents) -> None:
    with database.transaction():
        with pytest.raises(KeyError), database.attempt():
            put_and_fail(contents, b"[1]")
        assert b"[1]" == contents.get(contents.put(b"[1]"))


def test_what_has_gone_since_is_put_again(database: Database, contents: Contents) -> None:
    with database.transaction():
        contents.put(b"[1]")
        database.run("DELETE FROM contents")
        contents.forget()
        assert b"[1]" == contents.get(contents.put(b"[1]"))


def test_what_was_added_is_counted_once(database: Database, contents: Contents) -> None:
    put(database, contents, b'["%s"]' % IMAGE, b'["%s"]' % IMAGE, b"{}")
    assert contents.size() == contents.added


@pytest.mark.parametrize(
    ("one", "other"),
    [(b'{"url":"data:image/png;base64,%s"}', b'["data:image/jpeg;base64,%s"]'), (b'{"data":"%s"}', b'[1,"%s",2]')],
)
def test_an_image_in_two_messages_is_held_once(
    database: Database, contents: Contents, one: bytes, other: bytes
) -> None:
    (first,) = put(database, contents, one % IMAGE)
    size = contents.size()
    (second,) = put(database, contents, other % IMAGE)
    assert contents.size() < size + 100
    assert (one % IMAGE, other % IMAGE) == (contents.get(first), contents.get(second))


def test_what_looks_like_a_reference_is_none(database: Database, contents: Contents) -> None:
    texts = [b'["%s"]' % IMAGE, b"\x00\x92\x01\x02", b"1", b"\x01"]
    assert texts == [contents.get(number) for number in put(database, contents, *texts)]


def test_an_image_by_itself_is_the_same_as_one_in_a_message(database: Database, contents: Contents) -> None:
    numbers = put(database, contents, IMAGE, b'["%s"]' % IMAGE, IMAGE)
    assert [IMAGE, b'["%s"]' % IMAGE, IMAGE] == [contents.get(number) for number in numbers]
    assert 2 == rows(database, "contents")


@pytest.mark.timeout(30)
def test_a_text_of_many_runs_that_are_almost_long_enough_is_looked_through_quickly(
    database: Database, contents: Contents
) -> None:
    text = (b'"' + b"A" * 4095) * 2000
    put(database, contents, text)


def test_the_size_is_that_of_all_contents(database: Database, contents: Contents) -> None:
    assert 0 == contents.size()
    put(database, contents, b'["%s"]' % IMAGE, b"{}", b"{}")
    assert [(contents.size(),)] == database.rows("SELECT sum(length(content)) FROM contents")
    with database.transaction():
        database.run("DELETE FROM contents")
    assert (0, 0) == (contents.size(), rows(database, "parts"))


def test_a_part_stays_as_long_as_anything_needs_it(database: Database, contents: Contents) -> None:
    first, second = put(database, contents, b'["%s"]' % IMAGE, b'{"a":"%s"}' % IMAGE)
    with database.transaction():
        database.run("DELETE FROM contents WHERE id = ?", first)
    assert b'{"a":"%s"}' % IMAGE == contents.get(second)
    with database.transaction():
        database.run("DELETE FROM contents WHERE id = ?", second)
    assert 0 == rows(database, "contents")


def test_a_content_that_was_never_put_is_a_lookup_error(contents: Contents) -> None:
    with pytest.raises(LookupError, match="no content 7"):
        contents.get(7)


@pytest.mark.parametrize("blob", [b"", b"\x00", b"\x01x", b"\x00\xc0", b"\x00\x91\xcd\x27\x10"])
def test_a_damaged_content_is_a_lookup_error(database: Database, contents: Contents, blob: bytes) -> None:
    (number,) = put(database, contents, b"{}")
    with database.transaction():
        database.run("UPDATE contents SET content = ?", blob)
    with pytest.raises(LookupError):
        contents.get(number)


def test_a_content_that_is_made_of_itself_is_damaged(database: Database, contents: Contents) -> None:
    (number,) = put(database, contents, b"{}")
    with database.transaction():
        database.run("UPDATE contents SET content = ?", bytes([0, 0x91, number]))
    with pytest.raises(LookupError, match="damaged"):
        contents.get(number)


def test_a_content_that_no_row_can_hold_is_a_value_error(
    database: Database, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "row_bytes", lambda: 1000)
    with pytest.raises(ValueError, match="too large"):
        put(database, contents, b'"%s"' % os.urandom(1001))
    assert 0 == rows(database, "contents")


def test_what_a_transaction_did_not_keep_is_not_known(database: Database, contents: Contents) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction():
        raise ZeroDivisionError(contents.put(b"{}"))
    (number,) = put(database, contents, b"{}")
    assert b"{}" == contents.get(number)


def test_the_outline_of_a_text_has_its_parts_left_out_also_when_they_are_gone(
    database: Database, contents: Contents
) -> None:
    part = b"A" * 5000
    (number,) = put(database, contents, b'{"a": "' + part + b'", "b": [1]}')
    ((blob,),) = database.rows("SELECT content FROM contents WHERE id = ?", number)
    with database.transaction():
        database.run("DELETE FROM contents")
    assert b'{"a": "0", "b": [1]}' == contents.outline(blob)
    with pytest.raises(LookupError, match="damaged"):
        contents.outline(b"\xff")
