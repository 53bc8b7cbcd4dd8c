"""Targets, read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.errors import GatewayError
from sidestream.wire.routes import DATASET, Route, parse

PREFIX = "/api/v1/gateway"


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/anthropic/v1/messages", Route(None, "anthropic", "/v1/messages")),
        ("/d/anthropic/v1/messages?a=/b/anthropic/", Route("d", "anthropic", "/v1/messages?a=/b/anthropic/")),
        ("/d/anthropic", Route("d", "anthropic", "/")),
        ("/d/anthropic/", Route("d", "anthropic", "/")),
        ("/d/anthropic?x", Route("d", "anthropic", "/?x")),
        ("/anthropic", Route(None, "anthropic", "/")),
        ("/d/anthropic//x/", Route("d", "anthropic", "//x/")),
        ("/health/anthropic/v1", Route("health", "anthropic", "/v1")),
    ],
)
def test_a_target_is_split_and_never_rewritten(target: str, route: Route) -> None:
    assert route == parse(PREFIX + target, PREFIX, {"anthropic"})


@pytest.mark.parametrize("target", ["/anthropic/anthropic/v1", "/openai/anthropic/v1"])
def test_a_dataset_named_as_a_provider_is_refused(target: str) -> None:
    with pytest.raises(GatewayError, match="name of a provider"):
        parse(PREFIX + target, PREFIX, {"anthropic", "openai"})


@given(st.from_regex(DATASET, fullmatch=True), st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_whatever_follows_the_provider_is_the_providers(dataset: str, tail: str) -> None:
    if dataset == "anthropic" or dataset.startswith(("sk-", "inv-")):
        return
    assert Route(dataset, "anthropic", f"/{tail}") == parse(
        f"{PREFIX}/{dataset}/anthropic/{tail}", PREFIX, {"anthropic"}
    )
