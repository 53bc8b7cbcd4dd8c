"""Errors are read from, and written in, Anthropic's shape."""

from __future__ import annotations

import json

import pytest

from sidestream.providers.anthropic.errors import error_body, read_error
from sidestream.providers.jsons import UNREADABLE


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_each_status_has_its_error_type(status: int, kind: str) -> None:
    expected = {"type": "error", "error": {"type": kind, "message": "What to do."}}
    assert json.loads(error_body(status, "What to do.")) == expected


def test_the_error_object_is_read_out_of_its_body() -> None:
    body = {"type": "error", "error": {"type": "api_error", "message": "m"}, "request_id": "req_1"}
    assert read_error(body, "") == {"type": "api_error", "message": "m"}


def test_a_body_of_another_shape_is_the_error() -> None:
    assert read_error({"detail": "no"}, "") == {"detail": "no"}


def test_a_body_that_is_no_object_is_quoted_in_part() -> None:
    assert read_error(UNREADABLE, "<html>" * 1000) == {"message": ("<html>" * 1000)[:2000]}
