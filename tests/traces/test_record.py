"""A record holds what was on the wire, and no credential."""

from __future__ import annotations

from sidestream.traces.record import kept_headers


def test_only_headers_of_the_allow_list_are_kept_and_none_can_be_a_credential() -> None:
    sent = {
        "X-Api-Key": "k",
        "Authorization": "Bearer k",
        "Cookie": "k",
        "Set-Cookie": "k",
        "Invariant-Authorization": "k",
        "X-Unknown": "k",
        "Content-Type": "application/json",
        "X-Claude-Code-Session-Id": "s",
    }
    assert {"content-type": "application/json", "x-claude-code-session-id": "s"} == kept_headers(sent)
