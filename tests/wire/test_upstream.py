"""Where requests go, and over which connections."""

from __future__ import annotations

import pytest
from yarl import URL

from sidestream.wire.upstream import Limits, Upstream

LIMITS = Limits(connect=1, first_byte=1, idle=1, write=1)


@pytest.mark.parametrize(
    "target", ["/v1/messages", "/v1/messages?", "/%7E?x=%7e#", "//evil.test/", "/@evil.test", "/\\evil", "/v1/%zz?[]|"]
)
def test_no_target_leaves_the_upstreams_origin_or_is_rewritten(target: str) -> None:
    url = Upstream(URL("https://api.anthropic.com"), "/base", LIMITS).url(target)
    assert ("https", "api.anthropic.com", 443) == (url.scheme, url.raw_host, url.port)
    assert f"/base{target}" == url.raw_path_qs
