"""Which conversation a call belongs to: the rules, as a pure function of the call and of the turns that are known.

Agents resend all of their history with every call. So what a call continues can be seen from its messages: they begin
with what an earlier turn left, its answer included. A *state* stands for messages up to some point: a hash chain over
what each is known by (`sidestream.providers.base.Said`), in which messages of one role that follow one another count as
one. A turn *asks* from the state of its whole request, and *leaves* the state with its answer.

Only an answer that was seen here joins calls; that two calls begin with the same messages says nothing, for so do all
calls of an evaluation. What is decided depends on when calls began, and not on the order in which they became known.

Nothing here is done to the store, and nothing is known of a provider. The system prompt and the tools are no part of
a state.
"""

from __future__ import annotations

import enum
import operator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from sidestream.traces.states import states_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestream.providers.base import Said
    from sidestream.traces.sessions import Session

_LONGEST_CUT: Final = 64 << 10
PATIENCE: Final = 0.1
"""Seconds by which the end of an attempt may be noticed later than the beginning of the next; and, of an attempt that
took less than ten times that, a tenth of what it took, for calls that begin at the same time are none of each other."""
_RECENT: Final = 600.0
"""Seconds within which what was left open is taken up again: a call that failed, a task that was passed on."""
_MOST_ATTEMPTS: Final = 32
_PINNED: Final = 2
"""How many messages at the beginning a client may keep when it drops those after them."""
_SHORTEST_BEGINNING: Final = 256
"""Characters of an answer, captured in part, that are enough to know the whole of it by."""
_MOST_ENDS: Final = 16
"""At how many places of a request the end of a history is looked for; a whole message is rarely said twice."""


class Rule(enum.StrEnum):
    """By which rule a turn was placed; `sidestream`'s documentation has them as a table."""

    FIRST = "first"
    """No known turn left a state that the request passes through: a conversation of its own."""
    REPEATED = "repeated"
    """The same request as one that was answered, and not announced as a retry: a conversation of its own."""
    EXTENDS_TIP = "extends_tip"
    """The request begins with all that its trace held after its latest answer."""
    EXTENDS_EARLIER = "extends_earlier"
    """It begins with what a trace held after an answer that another turn has continued: a branch."""
    CONTINUES_THREAD = "continues_thread"
    """The provider keeps the history, and the request names the answer that it goes on from."""
    CONTINUES_CUT = "continues_cut"
    """It goes on from an answer that was cut off, of which the client kept the beginning, or nothing."""
    RETRY_ANNOUNCED = "retry_announced"
    """The same request again, and the client says that it is a retry."""
    RETRY_INCOMPLETE = "retry_incomplete"
    """The same request again, and the earlier one was not answered whole."""
    HISTORY_REWRITTEN = "history_rewritten"
    """It holds all answers of its trace, but results of tools were cleared, or changed, behind them."""
    HISTORY_TRUNCATED = "history_truncated"
    """The client's session goes on, with only the latest messages of its history."""
    HISTORY_COMPACTED = "history_compacted"
    """The request begins with what the provider itself has made of the history, in an answer that was seen here."""
    HISTORY_SUMMARIZED = "history_summarized"
    """The client's session goes on, with a summary in place of its history."""
    CHILD_OF_SESSION = "child_of_session"
    """The client's headers name the session, or the agent, that this one works for."""
    CHILD_OF_CALL = "child_of_call"
    """The first message is what a tool call passes on that is still open in another conversation."""
    PUSHED = "pushed"
    """It was not captured here, but pushed or imported as a trace of its own; `place` never says so."""
    APPENDED = "appended"
    """The same, put behind a trace that had been pushed."""


ROOTS: Final = frozenset({Rule.FIRST, Rule.REPEATED})
CHILDREN: Final = frozenset({Rule.CHILD_OF_SESSION, Rule.CHILD_OF_CALL})
BEGINNINGS: Final = ROOTS | CHILDREN | {Rule.EXTENDS_EARLIER, Rule.PUSHED}
"""The rules by which a trace begins; by the others a turn is added to one."""
RETRIES: Final = frozenset({Rule.RETRY_ANNOUNCED, Rule.RETRY_INCOMPLETE})
PUSHES: Final = frozenset({Rule.PUSHED, Rule.APPENDED})
"""The rules of turns that were not captured here."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is placed by. Times are Unix time in seconds."""

    scope: bytes
    """Dataset, provider and key: calls that differ in one of them never meet."""
    started_at: float
    ended_at: float
    states: tuple[bytes, ...]
    """The state after each message of the request."""
    leaving: bytes | None
    """The state with the answer; without an answer that of the request. None if the request has no messages."""
    outlines: tuple[bytes, ...] = ()
    """The states by the messages' outlines, and, last, with the answer."""
    answered: bool
    """Whether there is an answer, whole or not."""
    complete: bool
    digests: tuple[bytes, ...]
    """Each message by itself, and the answer."""
    texts: tuple[str, ...]
    """Of each message what an assistant said in it, without white space; "" for other roles."""
    roles: tuple[str, ...]
    cut: str | None = None
    """The text of an answer that is not whole, likewise; None if it is whole, or there is none."""
    manner: bytes = b""
    """System prompt and tools: the same messages sent in another manner are not the same call again."""
    retries: int = 0
    """How often the client says to have sent it before."""
    session: Session | None = None
    answer: bytes | None = None
    """The answer's id, and below that of the one which the request goes on from, where the provider keeps the history.
    Then the request's states say nothing before they are those of the whole (`within_thread`)."""
    previous: bytes | None = None
    compaction: bytes = b""
    """What the provider has made of the history, in the answer; and below, at the beginning of the request."""
    compacted: bytes = b""
    openings: tuple[bytes, ...] = ()
    """The texts of the first message."""
    summary: bool = False
    """Whether the first message looks like the summary of a conversation."""
    arguments: tuple[bytes, ...] = ()
    """The texts that the answer's tool calls pass on."""


class Earlier(NamedTuple):
    """A turn that is known, as far as others are placed by it."""

    turn: int
    parent: int | None
    retry_of: int | None
    known: int
    length: int
    """Messages of its request, and the answer."""
    rule: str
    started_at: float
    ended_at: float
    asking: bytes | None
    leaving: bytes | None
    outline: bytes | None
    answered: bool
    complete: bool
    manner: bytes
    session: str | None
    agent: str | None
    cut: str | None
    retries: int
    last: bytes
    """The digest of its latest message."""

    @property
    def attempt(self) -> int:
        """The first attempt at what this turn tries."""
        return self.turn if self.retry_of is None else self.retry_of


class Known(Protocol):
    """The turns of one scope that began before the call that is to be placed; of very many alike, only the latest."""

    def leaving(self, states: Sequence[bytes], /) -> Iterator[Earlier]:
        """Turns that left one of these states, in the order of `states`; of those with the same, the latest first."""

    def outlined(self, outlines: Sequence[bytes], /) -> Iterator[Earlier]:
        """Turns whose answer left one of these outlines, likewise."""

    def free(self, state: bytes, /) -> Earlier | None:
        """The latest turn that left this state, and that nothing goes on from."""

    def asking(self, state: bytes, /, *, incomplete: bool) -> list[Earlier]:
        """Turns whose whole request had this state, the latest first; or only those that were not answered whole."""

    def was_asked(self, state: bytes, manner: bytes, /) -> bool:
        """Whether there is a turn whose whole request had this state, in this manner."""

    def is_done(self, attempt: int, /) -> bool:
        """Whether this one, or a retry of it, was answered whole."""

    def cut(self, states: Sequence[bytes], /) -> list[Earlier]:
        """Turns whose request had one of these states, and whose answer was cut off, the latest first."""

    def is_taken(self, turn: int, /, but: int | None = None) -> bool:
        """Whether a turn that was answered goes on from this one, or from another attempt at the same.

        What it has called does not count, nor what has only a summary of it, nor attempts at the turn `but`.
        """

    def naming(self, kind: str, name: bytes, /) -> list[Earlier]:
        """Turns whose ``answer``, or whose ``compaction``, is this one, the latest first."""

    def tips(self, session: str, agent: str, /) -> list[Earlier]:
        """Of each trace of a session's agent the latest turn that was answered, the latest first."""

    def passing_on(self, texts: Sequence[bytes], /) -> list[Earlier]:
        """Turns with a tool call that passes on one of these texts, the latest first."""

    def history(self, turn: int, /) -> list[bytes]:
        """The digests of all messages up to a turn's answer, as far as they are kept."""


class Placement(NamedTuple):
    """Where a call belongs."""

    rule: Rule
    parent: int | None = None
    """The turn that it follows, left, or was called from."""
    retry_of: int | None = None
    """The first attempt at the same."""
    known: int = 0
    """How many of the request's messages the turns before have."""


def place(call: Call, known: Known) -> Placement:
    """Where `call` belongs, among what is `known`."""
    if retried := _retried(call, known):
        return retried
    if call.previous is not None:
        before = _named(call, "answer", call.previous, known)
        return _following(Rule.CONTINUES_THREAD, before, 0, known) if before is not None else Placement(Rule.FIRST)
    if not call.states:
        return Placement(Rule.FIRST)
    return (
        _continued(call, known)
        or _after_compaction(call, known)
        or _child(call, known)
        or Placement(Rule.REPEATED if known.was_asked(call.states[-1], call.manner) else Rule.FIRST)
    )


def within_thread(call: Call, asked: Sequence[Said], answer: Said | None, known: Known) -> Call:
    """The call with the states of the whole conversation, where the provider keeps the history of it."""
    if call.previous is None:
        return call
    before = _named(call, "answer", call.previous, known)
    if before is None or before.leaving is None:
        return msgspec.structs.replace(call, states=(), leaving=None, outlines=())
    said = [*asked, *([answer] if answer is not None else [])]
    states = states_of(said, before.leaving)
    leaving = states[-1] if states else before.leaving
    return msgspec.structs.replace(
        call,
        states=tuple(states[: len(asked)]),
        leaving=leaving,
        outlines=tuple(states_of(said, before.outline or b"", outline=True)),
        manner=before.manner,
    )


def _named(call: Call, kind: str, name: bytes, known: Known) -> Earlier | None:
    """The turn that is named; where names are used again, one of the call's own session, and one that is free."""
    named = known.naming(kind, name)
    named = [each for each in named if _is_of_session(each, call)] or named
    return max(named, key=lambda each: not known.is_taken(each.turn), default=None)


def _following(rule: Rule, before: Earlier, place: int, known: Known) -> Placement:
    """What goes on from a turn: by this rule, or as a branch where another has done so."""
    return Placement(Rule.EXTENDS_EARLIER if known.is_taken(before.turn) else rule, before.turn, None, place)


def _is_of_session(each: Earlier, call: Call) -> bool:
    """Whether a turn is of the call's session and agent; or both name none."""
    return (each.session, each.agent) == (call.session.key if call.session is not None else (None, None))


def _is_recent(each: Earlier, call: Call) -> bool:
    """Whether a turn was over when the call began, and not for long."""
    patience = min(PATIENCE, (call.started_at - each.started_at) / 10)
    return -patience <= call.started_at - each.ended_at <= _RECENT


def _retried(call: Call, known: Known) -> Placement | None:
    """The same request again, where that is a retry. Of several that it could be of, the one that it counts on from."""
    tries: dict[int, list[Earlier]] = {}
    for each in known.asking(call.states[-1], incomplete=not call.retries) if call.states else ():
        if each.manner == call.manner and _is_of_session(each, call):
            tries.setdefault(each.attempt, []).append(each)
    open_ = [attempts for attempts in tries.values() if _is_open(attempts, call, known)]
    if not open_:
        return None
    each, *_ = max(open_, key=lambda tried: (not tried[0].complete, tried[0].retries == call.retries - 1))
    rule = Rule.RETRY_ANNOUNCED if call.retries else Rule.RETRY_INCOMPLETE
    return Placement(rule, each.parent, each.attempt, min(each.known, len(call.states)))


def _is_open(attempts: Sequence[Earlier], call: Call, known: Known) -> bool:
    """Whether there may be one more of these attempts at the same, the latest first."""
    latest, first = attempts[0], attempts[-1]
    if len(attempts) > _MOST_ATTEMPTS or not _is_recent(latest, call):
        return False
    if known.is_done(latest.attempt):
        counted = call.retries > 0 and latest.retries == call.retries - 1
        return counted and not known.is_taken(latest.turn)
    if first.parent is None or first.rule in BEGINNINGS or any(each.answered for each in attempts):
        return True
    return not known.is_taken(first.parent, but=latest.attempt)  # else somebody has gone on without it


def _continued(call: Call, known: Known) -> Placement | None:
    """What follows the turn that left the longest part of the request, as it is, or as clients change it."""
    exact, alike = _left(call, known)
    cut, rewritten = _cut(call, exact, known), _rewritten(call, exact, known)
    rule = Rule.CONTINUES_CUT if cut[1] >= rewritten[1] else Rule.HISTORY_REWRITTEN
    before, place = max(cut, rewritten, key=operator.itemgetter(1))
    if before is not None and place > exact:
        return _following(rule, before, place, known)
    if not alike:
        return None
    candidates = [(_likeness(each, call), not known.is_taken(each.turn), each) for each in alike]
    if not any(free for _, free, _ in candidates) and (other := known.free(call.states[exact - 1])) is not None:
        candidates = [(_likeness(other, call), True, other)] if _can_follow(other, call, exact) else candidates
    _, free, before = max(candidates, key=lambda candidate: candidate[:2])  # of equals the first, which is the latest
    return Placement(Rule.EXTENDS_TIP if free else Rule.EXTENDS_EARLIER, before.turn, None, exact)


def _left(call: Call, known: Known) -> tuple[int, list[Earlier]]:
    """The longest of the request's states that known turns have left, in messages; and those turns."""
    reach = {state: place for place, state in enumerate(call.states, 1)}
    longest = 0
    found: list[Earlier] = []
    for each in known.leaving(list(reach)[::-1]):
        place = reach[each.leaving or b""]
        if found and place < longest:
            break
        if _can_follow(each, call, place):
            longest = place
            found.append(each)
    return longest, found


def _can_follow(each: Earlier, call: Call, place: int) -> bool:
    """Whether a request that has come to the state that a turn left goes on from it.

    Without an answer, or with one of which nothing counts, that state is only a request's. Then the answer must be seen
    in it, or what follows must be more of the user's own; for the same request with nothing more is that call at the
    same time, and an assistant's words are somebody else's.
    """
    if each.answered and (each.leaving != each.asking or call.roles[place - 1] == "assistant"):
        return True
    return _says_more(each, call, place)


def _says_more(each: Earlier, call: Call, place: int) -> bool:
    """Whether a request is that of a turn, which nothing came of, with more of the user's own words.

    Where there is no answer before that either, it must be of the same kind, and soon.
    """
    rest = call.roles[place:]
    if not rest or "assistant" in rest or not _is_of_session(each, call):
        return False
    return each.parent is not None or (each.manner == call.manner and _is_recent(each, call))


def _likeness(each: Earlier, call: Call) -> int:
    """How much a turn is of the call's own kind, where several left the same state."""
    return 2 * _is_of_session(each, call) + (each.manner == call.manner)


def _cut(call: Call, beyond: int, known: Known) -> tuple[Earlier | None, int]:
    """The turn whose answer was cut off, and is fed back as far as the client kept it; and the messages up to there."""
    reach = {state: place for place, state in enumerate(call.states, 1) if place >= beyond}
    best: tuple[Earlier | None, int] = (None, 0)
    for each in known.cut(list(reach)[::-1]):
        place = reach[each.asking or b""]
        rest, said, cut = call.roles[place:], "".join(call.texts[place : place + 1]), each.cut or ""
        more = len(cut) >= _SHORTEST_BEGINNING and said.startswith(cut)  # the client has what was not captured
        if rest[:1] == ("assistant",):
            begun = place + 1 if said and (cut.startswith(said) or more) else 0
        else:
            begun = place if _says_more(each, call, place) else 0
        if begun > best[1]:
            best = (each, begun)
    return best


def _rewritten(call: Call, beyond: int, known: Known) -> tuple[Earlier | None, int]:
    """The turn whose answer is still in the request, while results of tools before it are not what they were."""
    answers = [place for place in range(len(call.roles), beyond, -1) if call.roles[place - 1] == "assistant"]
    reach = {call.outlines[place - 1]: place for place in answers}
    for each in known.outlined(list(reach)):
        return each, reach[each.outline or b""]
    return None, 0


def _after_compaction(call: Call, known: Known) -> Placement | None:
    """The conversation goes on, with less of its history than before."""
    made = _named(call, "compaction", call.compacted, known) if call.compacted else None
    if made is not None:
        return _following(Rule.HISTORY_COMPACTED, made, 1, known)
    tips = known.tips(*call.session.key) if call.session is not None else []
    for tip in tips:
        if tip.last in call.digests and (overlap := _overlap(call, known.history(tip.turn))):
            return _following(Rule.HISTORY_TRUNCATED, tip, overlap, known)
    alike = [tip for tip in tips if tip.manner == call.manner] if call.summary else []
    return _following(Rule.HISTORY_SUMMARIZED, alike[0], 0, known) if len(alike) == 1 else None


def _overlap(call: Call, history: list[bytes]) -> int:
    """How many of the request's messages are the end of `history`, and what the client put or kept before that."""
    messages = list(call.digests[: len(call.states)])
    answers = [place for place, role in enumerate(call.roles, 1) if role == "assistant"]
    ends = [end for end in reversed(answers) if messages[end - 1 : end] == history[-1:]][:_MOST_ENDS]
    for skipped in range(min(_PINNED, len(messages)) + 1):
        if not (messages[:skipped] == history[:skipped] or (skipped == 1 and call.summary)):
            break
        for end in ends:
            if end > skipped and messages[skipped:end] == history[skipped - end :]:
                return end
    return 0


def _child(call: Call, known: Known) -> Placement | None:
    """The turn that has called for this conversation."""
    openers = [
        each
        for each in (known.passing_on(call.openings) if call.openings else [])
        if _is_recent(each, call) and not known.is_taken(each.turn)
    ]
    session = call.session
    if session is not None and session.parent is not None:
        by = [each for each in openers if (each.session, each.agent) == session.parent]
        by = by or sorted(known.tips(*session.parent), key=lambda tip: -tip.length)
        if by:
            return Placement(Rule.CHILD_OF_SESSION, by[0].turn)
    own = [each for each in openers if session is None or each.session in {None, session.id}]
    return Placement(Rule.CHILD_OF_CALL, own[0].turn) if own else None


def cut_text(answer: Said | None, *, complete: bool) -> str | None:
    """What is kept of an answer that is not whole, maybe nothing; None if it is whole, or there is none."""
    return answer.text[:_LONGEST_CUT] if answer is not None and not complete else None
