"""Templates, and the words and numbers in them. What agents and models said is hostile: it goes in as text, escaped.

The one exception is Markdown, which becomes markup of ours: raw HTML in it stays text, and links lead to http, https
and mailto only.
"""

from __future__ import annotations

import functools
import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from sidestream.figures import count, duration, money, size
from sidestream.viewer.envelope import BASE_HEADER, MOUNT, PAGE_HEADERS

__all__ = ["BASE_HEADER", "MOUNT", "PAGE_HEADERS", "STATIC", "base_of", "markdown", "page", "path_of", "render"]

STATIC: Final = resources.files("sidestream.viewer").joinpath("static")
_LONGEST_MARKDOWN: Final = 200_000
_SAFE_LINKS: Final = ("http://", "https://", "mailto:")
_WHOLE: Final = "%Y-%m-%d %H:%M:%S"
_STYLES: Final = {"minutes": "%H:%M", "day": "%Y-%m-%d", "day minutes": "%Y-%m-%d %H:%M", "near": "%Y-%m-%d %H:%M"}

_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table").enable("strikethrough")
_markdown.disable("image")  # an address in there would be fetched
_markdown.validateLink = lambda url: url.strip().lower().startswith(_SAFE_LINKS)  # type: ignore[method-assign]


def page(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """A page from a template, which is given `values` and `base`, the path in front of every link."""
    text = render(template, base=base_of(request), path=path_of(request), **values)
    return web.Response(text=text, status=status, content_type="text/html", headers=PAGE_HEADERS)


def render(template: str, **values: Any) -> str:
    """The text that a template makes of `values`."""
    return _environment().get_template(template).render(**values)


def base_of(request: web.Request) -> str:
    """The path in front of every link."""
    return request.headers.get(BASE_HEADER, "").rstrip("/")


def path_of(request: web.Request) -> str:
    """The path within the viewer."""
    return request.path.removeprefix(MOUNT)


def markdown(text: str) -> Markup:
    """Text as its author laid it out. What is very long is shown as it is."""
    if len(text) > _LONGEST_MARKDOWN:
        return Markup('<pre class="plain">{}</pre>').format(text)
    try:
        return Markup(_markdown.render(text))  # noqa: S704  # the parser escapes all but its own markup
    except (RecursionError, ValueError, IndexError):
        return Markup('<pre class="plain">{}</pre>').format(text)


def moment(at: float, style: str = "") -> Markup:
    """A moment, which a script shows in the reader's time zone; `style` says how.

    ``minutes``, ``day`` and ``day minutes`` are what they say; ``near`` has less of a time the nearer it is.
    """
    try:
        then = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return Markup("<span>unknown</span>")
    text = then.strftime(_WHOLE)
    return Markup('<time datetime="{}" data-style="{}" title="{} UTC">{}</time>').format(
        then.isoformat(timespec="milliseconds"), style, text, then.strftime(_STYLES.get(style, _WHOLE))
    )


@functools.cache
def static_version(name: str) -> str:
    """Changes with the file, so that browsers can keep it for as long as they like."""
    return hashlib.sha256(STATIC.joinpath(name).read_bytes()).hexdigest()[:12]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sidestream.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "markdown": markdown,
        "moment": moment,
        "duration": duration,
        "count": count,
        "money": money,
        "size": size,
    }
    environment.globals["static_version"] = static_version
    return environment
