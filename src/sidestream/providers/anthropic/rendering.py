"""Content that a trace cannot show as it is, in words: placeholders for documents, readable text for tool results.

Everything here takes cleaned JSON of any shape and gives text or parts; nothing raises. What is encrypted on the wire
is never shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sidestream.providers.jsons import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Json = dict[str, Any]

REDACTED_THINKING: Final = "[redacted thinking]"
_LONGEST_JSON: Final = 2000
_IMAGE_TYPE: Final = re.compile(r"image/[\w.+-]+")


def string(value: Any) -> str:
    """What should be a string, as one: None is "", anything else its JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else text_of(value)


def blocks(content: Any) -> list[Json]:
    """A message's or result's content as blocks: a string is a text block, a lone block a list of one."""
    if content is None:
        return []
    items = content if isinstance(content, list) else [content]
    return [item if isinstance(item, dict) else {"type": "text", "text": string(item)} for item in items]


def kind_of(block: Json) -> str:
    """The block's type; "" where it has none."""
    kind = block.get("type")
    return kind if isinstance(kind, str) else ""


def image(block: Json) -> Json | str:
    """An image as an ``image_url`` part with a data URL, or in words where its bytes are not in the request."""
    source = _object(block.get("source"))
    media_type, data = source.get("media_type"), source.get("data")
    if isinstance(media_type, str) and isinstance(data, str) and _IMAGE_TYPE.fullmatch(media_type):
        return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
    return _label("image", _origin(source))


def in_words(block: Json) -> str:
    """Any block as text. One of an unknown type shows its JSON, shortened."""
    kind = kind_of(block)
    if render := WORDS.get(kind):
        return render(block)
    if kind.endswith("_error"):
        return _label("error", string(block.get("error_code")), string(block.get("error_message")))
    if "stdout" in block or "stderr" in block:
        return _execution(block)
    shown = {key: value for key, value in block.items() if key != "type" and not key.startswith("encrypted")}
    return _label(kind or "unknown block", text_of(shown)[:_LONGEST_JSON] if shown else "")


def result_text(content: Any) -> str:
    """The content of a server tool's result as text."""
    return _lines(in_words(block) for block in blocks(content))


def failed(content: Any) -> bool:
    """Whether a server tool's result is an error."""
    return any(kind_of(block).endswith("_error") for block in blocks(content))


def _label(what: str, *details: str) -> str:
    """``[document: Title, application/pdf]``."""
    known = ", ".join(detail for detail in details if detail)
    return f"[{what}: {known}]" if known else f"[{what}]"


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(text for text in texts if text)


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _origin(source: Json) -> str:
    """Where a source's bytes are, or of what type they are where they came along."""
    for key in ("url", "file_id", "media_type"):
        if value := string(source.get(key)):
            return f"file {value}" if key == "file_id" else value
    return ""


def _text(block: Json) -> str:
    return string(block.get("text"))


def _image_in_words(block: Json) -> str:
    return _label("image", _origin(_object(block.get("source"))))


def _document(block: Json) -> str:
    source = _object(block.get("source"))
    label = _label("document", string(block.get("title")), _origin(source))
    match source.get("type"):
        case "text":
            body = string(source.get("data"))
        case "content":
            inner = blocks(source.get("content"))
            body = _lines(_text(item) if kind_of(item) == "text" else _label(kind_of(item)) for item in inner)
        case _:
            body = ""
    return _lines((label, string(block.get("context")), body))


def _search_result(block: Json) -> str:
    label = _label("search result", string(block.get("title")), string(block.get("source")))
    return _lines((label, *(_text(item) for item in blocks(block.get("content")))))


def _web_search_result(block: Json) -> str:
    age = string(block.get("page_age"))
    return _lines((string(block.get("title")), string(block.get("url")), f"({age})" if age else ""))


def _web_fetch_result(block: Json) -> str:
    content = block.get("content")
    return _lines((string(block.get("url")), _document(content) if isinstance(content, dict) else string(content)))


def _execution(block: Json) -> str:
    """The result of a run of code or of a shell command."""
    stderr, code = string(block.get("stderr")), block.get("return_code")
    return _lines(
        (
            string(block.get("stdout")) or ("[encrypted output]" if "encrypted_stdout" in block else ""),
            f"stderr:\n{stderr}" if stderr else "",
            _label("return code", string(code)) if code else "",
            *(in_words(output) for output in blocks(block.get("content")) if kind_of(output).endswith("_output")),
        )
    )


def _output_file(block: Json) -> str:
    return _label("file", string(block.get("file_id")))


def _compaction(block: Json) -> str:
    return _lines(("[compaction]", string(block.get("content"))))


def _fallback(block: Json) -> str:
    models = (string(_object(block.get(key)).get("model")) for key in ("from", "to"))
    return _label("fallback", " → ".join(models))


def _tool_names(block: Json) -> str:
    tools = block.get("tool_references") or block.get("tools")
    names = (string(tool.get("tool_name") or tool.get("name")) for tool in blocks(tools))
    return _label("tools", string(block.get("mcp_server_name")), *names)


def _tool_change(block: Json) -> str:
    tool = _object(block.get("tool"))
    name = tool.get("tool_name") or tool.get("name")
    return _label(kind_of(block).replace("_", " "), string(tool.get("mcp_server_name")), string(name))


WORDS: Final[dict[str, Callable[[Json], str]]] = {
    "text": _text,
    "image": _image_in_words,
    "document": _document,
    "search_result": _search_result,
    "container_upload": lambda block: _label("container upload", string(block.get("file_id"))),
    "compaction": _compaction,
    "fallback": _fallback,
    "mcp_tool_listing": _tool_names,
    "tool_reference": lambda block: _label("tool", string(block.get("tool_name"))),
    "tool_addition": _tool_change,
    "tool_removal": _tool_change,
    "web_search_result": _web_search_result,
    "web_fetch_result": _web_fetch_result,
    "code_execution_output": _output_file,
    "bash_code_execution_output": _output_file,
    "text_editor_code_execution_view_result": lambda block: string(block.get("content")),
    "text_editor_code_execution_create_result": lambda block: (
        "[file updated]" if block.get("is_file_update") else "[file created]"
    ),
    "text_editor_code_execution_str_replace_result": lambda block: _lines(
        map(string, block["lines"] if isinstance(block.get("lines"), list) else [])
    ),
    "tool_search_tool_search_result": _tool_names,
    "advisor_result": _text,
    "advisor_redacted_result": lambda _: "[redacted advice]",
}
"""What each known type of content looks like in words. A type that is not here is noted as unknown."""
