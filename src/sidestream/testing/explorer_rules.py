"""What the fake Explorer takes, keeps and shows: its rules without the server."""

from __future__ import annotations

import copy
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_DATASET = re.compile(r"[a-zA-Z0-9-_]+")
_IMAGE_URL = re.compile(r"data:image/[^;,]+;base64,")
_IMAGE_TEXT = re.compile(r"\A(?:local_)?base64_img: ")
_SHOWN = 100_000


@dataclass
class PushedTrace:
    """A stored trace. `metadata` is as it was pushed; a GET shows the reserved keys overwritten."""

    key: str
    dataset: str | None
    messages: list[dict[str, Any]]
    metadata: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    @property
    def has_tool_registry(self) -> bool:
        """Whether its tools were written down: not if the arguments of any call are not an object."""
        return all(isinstance(function["arguments"], dict) for function in self._functions())

    def shown(self) -> dict[str, Any]:
        """The trace as a GET answers it."""
        metadata = {**self.metadata, "uploader": f"Via API ...{self.key[-5:]}"}
        if self.has_tool_registry:
            metadata["tool_calls"] = sorted({function.get("name", "") for function in self._functions()})
        messages = [{**message, "content": _cut(message.get("content"))} for message in self.messages]
        return {"id": self.id, "messages": messages, "extra_metadata": metadata}

    def _functions(self) -> list[dict[str, Any]]:
        return [call["function"] for message in self.messages for call in message.get("tool_calls") or []]


class Refused(Exception):
    """Answer with `status` and a `detail` instead."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def checked(payload: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Messages, metadata and annotations of a push, one of each per trace."""
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, list) for one in messages):
        raise Refused(400, "messages must be a list of traces")
    dataset = payload.get("dataset")
    if dataset is not None and not isinstance(dataset, str):
        raise Refused(400, "dataset name must be a string")
    if dataset is not None and not _DATASET.fullmatch(dataset):
        raise Refused(400, "Dataset name can only contain A-Z, a-z, 0-9, - and _")
    parallel = []
    for name, nothing in (("metadata", {}), ("annotations", [])):
        given = payload.get(name)
        if given is not None and (not isinstance(given, list) or len(given) != len(messages)):
            raise Refused(400, f"{name} must be the same length as messages")
        parallel.append(given or [nothing for _ in messages])
    return messages, parallel[0], parallel[1]


def stored(message: Any) -> dict[str, Any]:
    """A message as Explorer keeps it, or 500 for what it trips over."""
    if not isinstance(message, dict):
        raise Refused(500, "message")
    kept: dict[str, Any] = copy.copy(message)
    content = kept.get("content")
    if isinstance(content, str) and _IMAGE_TEXT.match(content):
        kept["content"] = f"local_img_link: /srv/images/{uuid.uuid4()}.png"
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "image_url":
            url = (part.get("image_url") or {}).get("url", "")
            if not _IMAGE_URL.match(url):
                raise Refused(500, "image")
    for call in kept.get("tool_calls") or []:
        if not isinstance(call.get("function"), dict) or "arguments" not in call["function"]:
            raise Refused(500, "tool call")
    return kept


def _cut(content: Any) -> Any:
    if not isinstance(content, str) or len(content) <= _SHOWN:
        return content
    half, cut = _SHOWN // 2, len(content) - _SHOWN
    return f"{content[:half]}<...truncated {cut} characters...>{content[-half:]}"
