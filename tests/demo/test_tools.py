"""The toy tools answer, one of them with a picture."""

from __future__ import annotations

import base64

from sidestream.demo import tools
from sidestream.demo.picture import size


def test_a_probe_answers_in_words() -> None:
    assert "north gate: 18 % at 5 cm. Moss wants 30 % or more." == tools.run(
        "read_probe", {"bed": "north gate", "depth_cm": 5}
    )


def test_a_week_is_a_picture_with_a_caption() -> None:
    content = tools.run("draw_week", {"bed": "north gate"})
    assert isinstance(content, list)
    caption, picture = content
    assert {"type": "text", "text": "north gate, the last 7 days:"} == caption
    assert "image/png" == picture["source"]["media_type"]
    assert (84, 48) == size(base64.b64decode(picture["source"]["data"], validate=True))
