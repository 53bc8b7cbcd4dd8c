"""What a person is shown of a store: plain values, the same for the viewer's pages, the JSON API and the command line.

Times are Unix seconds, durations seconds, sizes bytes, costs US dollars. A *run* is one trace: a conversation with all
its turns. Where an agent went back, or called another, there is a run for each branch and each child.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from sidestream.store.rows import State  # noqa: TC001  # msgspec resolves it at run time


class Unclear(ValueError):
    """What was asked for cannot be looked up; why not, in words of ours."""


class TurnState(enum.StrEnum):
    """How a turn stands, in one word."""

    RUNNING = "running"
    """Its exchange is under way."""
    ANSWERED = "answered"
    """The answer is whole."""
    REFUSED = "refused"
    """The model refused (stop reason ``refusal``)."""
    CUT = "cut"
    """There is an answer, but not all of it: it broke off, or ran into a limit of the transport."""
    ABANDONED = "abandoned"
    """The client left before the answer was whole."""
    FAILED = "failed"
    """There is no answer: the provider refused, or could not be reached."""


class RunKind(enum.StrEnum):
    """How a run came to be."""

    RUN = "run"
    """By itself."""
    BRANCH = "branch"
    """It left another run at one of its turns."""
    CHILD = "child"
    """A turn of another run called it: a sub-agent."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, as the provider counted them: `input` is without what was read from or written to its cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_written: int = 0


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a line."""

    id: str
    """The trace's id: that of the exchange that began it."""
    dataset: str
    title: str
    """How its first user message begins; "" where nobody said anything."""
    kind: RunKind = RunKind.RUN
    parent: str | None = None
    """The run that it left, or was called from; None where that is not known any more."""
    model: str | None = None
    """The latest turn's."""
    state: TurnState
    """The latest turn's, in order of their beginnings; ``running`` while one is under way."""
    started_at: float
    ended_at: float
    """When the latest answer ended."""
    turns: int
    tool_calls: int
    tool_errors: int
    errors: int
    """Turns that are cut, abandoned, refused or failed."""
    tokens: Tokens
    cost: float | None
    """Of the turns whose price is known; None where none is."""
    children: int = 0
    """Runs that left this one, or were called from it."""


class TurnSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A turn in a line."""

    id: str
    """Its exchange's."""
    run: str
    number: int
    """Its place in the run, from 1."""
    rule: str
    """Why it is there (`sidestream.traces.conversation.Rule`)."""
    parent: str | None
    """The exchange that it follows, left, or was called from."""
    retry_of: str | None
    """The exchange whose repetition it is."""
    state: TurnState
    status: int | None
    """HTTP status; None where the provider never answered."""
    model: str | None
    stop_reason: str | None
    started_at: float
    duration: float
    time_to_first_byte: float | None
    tokens_per_second: float | None
    tokens: Tokens
    cost: float | None
    tools: list[str]
    """Names of the tools that the answer calls, in order."""
    tool_errors: int
    """Results in its request that are errors."""


class TurnMessages(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn added to its run."""

    turn: TurnSummary
    system: list[dict[str, Any]]
    """The system prompt, where this turn begins a run or has another one than the turn before; else empty."""
    messages: list[dict[str, Any]]
    """New messages and the answer (`sidestream.traces.model`)."""
    answered: int
    """How many of the last of `messages` are the answer."""
    facts: dict[str, Any]
    """What is known of the exchange (`sidestream.traces.understanding.understand`)."""
    changed: list[str]
    """Which of ``system`` and ``tools`` are not those of the turn before."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run with all its turns in lines, and what hangs together with it."""

    summary: RunSummary
    turns: list[TurnSummary]
    """In order; all of them."""
    related: list[Related]
    """The whole family: the run that all began with first, then in order of their beginnings; this one included."""
    related_left: int = 0
    """Members of a very large family that are left out of it."""


class Related(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a run's family."""

    run: RunSummary
    turn: str | None
    """The exchange of its parent at which it left, or was called."""


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are wanted; what is None does not matter."""

    dataset: str | None = None
    model: str | None = None
    state: TurnState | None = None
    tool: str | None = None
    """One that was called."""
    errors: bool | None = None
    """Whether anything in it went wrong (`RunSummary.errors`, `tool_errors`)."""
    since: float | None = None
    until: float | None = None
    """Of their beginnings; `until` not included."""
    everything: bool = False
    """Branches and children, too."""


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first."""

    runs: list[RunSummary]
    next: str | None
    """What to give as ``before`` for the next page; None at the end."""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A message in which the words were found."""

    run: RunSummary
    turn: str
    """The exchange that said it first."""
    number: int
    role: str
    """Of the message: ``user``, ``assistant``, ``thinking``, ``tool``, ``system``."""
    snippet: list[Piece]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a snippet; those with `hit` are what was looked for."""

    text: str
    hit: bool = False


class HitPage(msgspec.Struct, frozen=True, kw_only=True):
    """Hits, newest first. There may be none on a page that has a `next`: it was time to answer."""

    hits: list[Hit]
    next: str | None
    indexing: int
    """Texts that are stored but cannot be found yet; 0 as a rule."""


class DatasetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset in a line."""

    name: str
    runs: int
    turns: int
    last_at: float


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """What began in one span of time."""

    start: float
    turns: int = 0
    errors: int = 0
    tokens: Tokens = Tokens()
    cost: float = 0.0
    durations: Percentiles | None = None
    """Of whole answers; None where there were none."""
    first_bytes: Percentiles | None = None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    p50: float
    p95: float
    p99: float


class ToolSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a tool in a span of time."""

    name: str
    calls: int
    errors: int
    p50: float | None
    p95: float | None
    """Seconds from the answer that called it to the request that brought its result; parallel calls share it."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a span of time."""

    since: float
    until: float
    seconds: float
    """The length of a bucket."""
    buckets: list[Bucket]
    """All of them, empty ones too, in order."""
    total: Bucket
    tools: list[ToolSummary]
    """The slowest first."""
    tools_left: int = 0
    """Further ones, that are left out of it."""
    models: dict[str, int]
    """Turns by model."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A turn under way."""

    id: str
    """Its exchange's."""
    run: str
    """The run that it seems to go on with; its own id for a new one. That is settled when it has ended."""
    dataset: str
    model: str | None
    title: str
    """Of the run, if it is a new one; else ""."""
    started_at: float
    request_bytes: int
    response_bytes: int
    answering: bool
    """Whether the response has begun."""


class ExchangeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange as it was on the wire: its content-encodings undone, and what is no UTF-8 replaced."""

    id: str
    dataset: str
    provider: str
    method: str
    path: str
    request_headers: dict[str, str]
    """Of an allow-list."""
    request: str
    request_truncated: bool
    """Only the beginning is here."""
    status: int | None
    response_headers: dict[str, str]
    response: str
    response_truncated: bool
    chunk_sizes: list[int]
    """Bytes of each chunk of the response, as it came."""
    chunk_times: list[float]
    """When each went to the client, counted from `started_at`."""
    outcome: str
    error: str | None
    """What went wrong with the transport."""
    started_at: float
    duration: float


class DeliveryRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where the delivery of a turn to a sink stands."""

    id: int
    state: State
    sink: str
    dataset: str
    turn: str
    """Its exchange."""
    attempts: int
    due_at: float | None
    """When it is tried again."""
    reason: str | None
    remote: str | None
    """What the destination calls the trace."""


class DeliveryCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries are in which state, by sink, and the newest of them."""

    counts: dict[str, dict[str, int]]
    deliveries: list[DeliveryRow]
