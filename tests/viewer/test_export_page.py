"""A run is exported as one file that needs nothing else, and in which nothing that was said does anything."""

from __future__ import annotations

from hostile import HOSTILE, Page
from shown import a_relative, a_run, called, result, said, told
from sidestream.providers.jsons import clean_text
from sidestream.viewer.export_page import standalone

URL = f"data:image/png;base64,{'A' * 40_000}"
PICTURE = {"type": "image_url", "image_url": {"url": URL}}


def test_all_turns_are_in_it_with_their_pictures_and_all_of_their_words() -> None:
    long = "\u017c" * 50_000
    turns = [told(1, said("user", [PICTURE])), *(told(number, said("user", f"{number} {long}")) for number in (2, 3))]
    text = standalone(a_run(*(each.turn for each in turns)), turns).decode()
    assert URL in text
    assert 2 * 50_000 == text.count("\u017c")


def test_nothing_is_fetched_and_nothing_runs() -> None:
    turns = [told(1, said("user", "Hi"), called(("t", "look", {})), answered=1), told(2, result("t", "Dry."))]
    run = a_run(*(each.turn for each in turns), related=[a_relative("r1", None), a_relative("r2", "r1", "x1")])
    text = standalone(run, turns).decode()
    page = Page(text)
    assert ["style"] == page.wrong
    assert all(link.startswith("#t-") for link in page.links)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert ("url(" in text, "@import" in text, "<script" in text) == (False, False, False)


def test_whatever_was_said_stays_text() -> None:
    texts = [clean_text(text).replace("\0", "\ufffd") for text in HOSTILE]
    turns = [
        told(
            number,
            *(said(role, text) for role in ("user", "assistant", "thinking", text)),
            called((text, text, {text: [text]}), content=text),
            result(text, text, text),
            facts={"error": {"type": text, "message": text}, "parameters": {text: text}, "transport_error": text},
            system=[said("system", text)],
            id=text,
            model=text,
            rule=text,
            stop_reason=text,
            tools=[text],
        )
        for number, text in enumerate(texts, start=1)
    ]
    run = a_run(*(each.turn for each in turns), title=texts[0], dataset=texts[1])
    page = Page(standalone(run, turns).decode())
    assert ["style"] == page.wrong
    assert all(text.split("\n")[0] in page.text for text in texts if text.isprintable())


def test_the_family_is_told_in_words() -> None:
    run = a_run(told(1).turn, related=[a_relative("r1", None), a_relative("r2", "r1", "x1")])
    page = Page(standalone(run, [told(1)]).decode())
    assert "sub-agent" in page.text
    assert "Title of r2" in page.text
