"""What files hold, as turns: our own exports, lines of the ``jsonl`` sink, and what an Explorer gives away. Pure.

A file is one JSON value, or one in each line. A value may be

- a run, as `sidestream.traces.exporting.Json` writes it;
- a turn, as the ``jsonl`` sink and `sidestream.traces.exporting.Lines` write it;
- a trace of an Explorer's: ``{"messages": […], …}``, or a list of messages. What a sidestream has put there comes back
  as the turns that it was, for it has marked their ends (`sidestream.sinks.explorer_push`);
- a list of these.

Turns keep the names that they have there. What has none is named after what it says, so that the same file names it the
same each time.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from sidestream.providers.jsons import clean, text_of
from sidestream.traces.conversation import BEGINNINGS, Rule
from sidestream.traces.exporting import JSON_FORMAT
from sidestream.traces.pushing import SNIPPETS, PushedTurn, facts_of, fault_of, metadata_of, moment, pushed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestream.traces.model import Message

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FAMILY: Final = "sidestream-run/"
_WITH_SYSTEM: Final = frozenset(map(str, BEGINNINGS - {Rule.EXTENDS_EARLIER}))


class Unusable(ValueError):
    """A value is none of the above; why not, in words of ours."""


class Importer:
    """Makes turns of the values of one file, in order. `dataset` is the one that they all go to; None for their own."""

    def __init__(self, dataset: str | None = None) -> None:
        self._dataset = dataset
        self._seen: dict[str, int] = {}
        """How often something without a name has been said."""

    def turns(self, value: Any) -> list[PushedTurn]:
        """The turns of a parsed value, those of each run in order; none where it only tells of a dataset."""
        return list(self._turns(clean(value)))

    def _turns(self, value: Any) -> Iterator[PushedTurn]:
        if isinstance(value, list):
            yield from self._listed(value)
            return
        if not isinstance(value, dict):
            raise Unusable("neither a run, nor a turn, nor a trace")
        form = value.get("format")
        if form == JSON_FORMAT:
            yield from self._run(value)
        elif isinstance(form, str) and form.startswith(_FAMILY):
            raise Unusable("a run in a format of another version of sidestream")
        elif "messages" not in value and isinstance(value.get("metadata"), dict):
            return
        elif "trace" in value and "rule" in value:
            yield self._line(value)
        else:
            yield from self._trace(value)

    def _listed(self, values: list[Any]) -> Iterator[PushedTurn]:
        if values and all(isinstance(each, dict) and "role" in each for each in values):
            yield from self._trace({"messages": values})
            return
        for each in values:
            if isinstance(each, list) and any(isinstance(below, list) for below in each):
                raise Unusable("lists of lists of lists")
            yield from self._turns(each)

    def _run(self, document: dict[str, Any]) -> Iterator[PushedTurn]:
        run = _object(document, "run")
        dataset = self._dataset_of(run)
        name = _required(run, "id")
        turns = document.get("turns")
        if not isinstance(turns, list):
            raise Unusable("turns must be a list")
        for place, each in enumerate(turns):
            try:
                yield self._of_run(each, dataset, name)
            except Unusable as error:
                raise Unusable(f"turns[{place}]: {error}") from None

    def _of_run(self, value: Any, dataset: str, run: str) -> PushedTurn:
        """A turn of a run's document; there may be nothing that it has said."""
        if not isinstance(value, dict):
            raise Unusable("not a turn")
        about, facts, system = _object(value, "turn"), _object(value, "facts"), value.get("system", [])
        messages, answered = value.get("messages"), value.get("answered")
        for name, given in (("system", system), ("messages", messages)):
            if given != [] and (fault := fault_of(given)):
                raise Unusable(f"{name}{fault}")
        if not isinstance(answered, int) or not 0 <= answered <= len(messages or []):
            raise Unusable("answered must say how many of the messages are the answer")
        changed = {"changed": value["changed"]} if value.get("changed") else {}
        started, duration = moment(about.get("started_at")), about.get("duration")
        ended = moment(started + duration) if started and isinstance(duration, int | float) else None
        return PushedTurn(
            dataset=dataset,
            id=_required(about, "id"),
            trace=run,
            messages=list(messages or []),
            system=list(system),
            answered=answered,
            facts=facts_of(metadata_of(facts) | changed),
            started_at=started,
            ended_at=ended,
        )

    def _line(self, line: dict[str, Any]) -> PushedTurn:
        """A line of the ``jsonl`` sink; an attempt that nothing new was said in has no messages."""
        name, trace = _required(line, "id"), _required(line, "trace")
        messages, metadata = line.get("messages"), metadata_of(_object(line, "metadata"))
        if messages == []:
            facts = facts_of(metadata)
            began = moment(facts.get("started_at"))
            return PushedTurn(
                dataset=self._dataset_of(line), id=name, trace=trace, messages=[], facts=facts, started_at=began
            )
        if fault := fault_of(messages):
            raise Unusable(f"messages{fault}")
        begins = line.get("rule") in _WITH_SYSTEM
        turn = pushed(self._dataset_of(line), messages or [], metadata, trace=None if begins else trace)
        return replace(turn, id=name, trace=trace)

    def _trace(self, value: dict[str, Any]) -> Iterator[PushedTurn]:
        """A trace of an Explorer's."""
        if fault := fault_of(value.get("messages")):
            raise Unusable(f"messages{fault}")
        metadata = value.get("extra_metadata") or value.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise Unusable("its metadata must be an object")
        metadata = {**({"name": value["name"]} if value.get("name") else {}), **metadata}
        dataset, parts = self._dataset_of(value), _parts(value["messages"])
        names = [_named(_mark(part[-1].get("metadata")).get("exchange")) for part in parts]
        mark = _mark(metadata)
        names[0] = names[0] or _named(mark.get("exchange")) or _named(value.get("id"))
        names = [name or self._called(dataset, part) for name, part in zip(names, parts, strict=True)]
        run = _named(mark.get("trace")) or names[0]
        yield replace(pushed(dataset, parts[0], metadata), id=names[0], trace=run)
        for name, part in zip(names[1:], parts[1:], strict=True):
            yield replace(pushed(dataset, part, {}, trace=run), id=name)

    def _dataset_of(self, value: dict[str, Any]) -> str:
        if self._dataset is not None:
            return self._dataset
        given = value.get("dataset")
        return given if isinstance(given, str) and given else SNIPPETS

    def _called(self, dataset: str, messages: list[Message]) -> str:
        """A name for what has none."""
        said = hashlib.blake2b(f"{dataset}\0{text_of(messages)}".encode(), digest_size=16).hexdigest()
        number = self._seen[said] = self._seen.get(said, 0) + 1
        return said if number == 1 else hashlib.blake2b(f"{said}\0{number}".encode(), digest_size=16).hexdigest()


def _parts(messages: list[Message]) -> list[list[Message]]:
    """The messages of each turn, where their ends are marked; else all of them."""
    parts: list[list[Message]] = [[]]
    for message in messages:
        parts[-1].append(message)
        if "exchange" in _mark(message.get("metadata")):
            parts.append([])
    return [part for part in parts if part]


def _mark(metadata: Any) -> dict[str, Any]:
    """What a sidestream has said of itself."""
    mark = metadata.get("sidestream") if isinstance(metadata, dict) else None
    return mark if isinstance(mark, dict) else {}


def _named(value: Any) -> str | None:
    """The name that something has, if it can be one: a UUID without dashes."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return None
    try:
        return uuid.UUID(value).hex
    except ValueError:
        return value


def _required(value: dict[str, Any], key: str) -> str:
    name = _named(value.get(key))
    if name is None:
        raise Unusable(f"{key} must be a name of at most 64 letters, digits, '-' and '_'")
    return name


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise Unusable(f"{key} must be an object")
    return found
