"""What agents, models and their tools may say to do harm to whoever looks at it, and a reader of pages that notices."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final

HOSTILE: Final = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</title></textarea></script><script>alert(1)</script>",
    "javascript:alert(1)",
    "<iframe src=javascript:alert(1)></iframe>",
    '" onfocus=alert(1) autofocus x="',
    '<a href="javascript:alert(1)">x</a>',
    "<style>*{background:url(//evil.example)}</style>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;&#60;b&#62;",
    "\x00\x1b[31m\u202e\u2028\ud800",
    "../../?a=b&c=d#e/%2e%2e%00",
)
_FORBIDDEN: Final = frozenset({"iframe", "object", "embed", "style", "base", "img"})
_INLINE: Final = frozenset({"a", "b", "code", "em", "kbd", "mark", "span", "strong", "time"})
_ADDRESSES: Final = frozenset({"href", "src", "action", "formaction", "xlink:href"})


class Page(HTMLParser):
    """A page, read: its `text`, the `links` in it, and in `wrong` all that nobody of ours would have put there.

    In the text, elements are on lines of their own, but those that are part of a line.
    """

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self.wrong: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.text += "" if tag in _INLINE else "\n"
        if tag in _FORBIDDEN or (tag == "script" and not (names.get("src") or "").startswith("/static/")):
            self.wrong.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in {"style", "srcdoc"}:
                self.wrong.append(name)
            if name in _ADDRESSES and not (value or "").startswith(("/", "#")):
                self.wrong.append(f"{name}={value}")
            if name == "href":
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data
