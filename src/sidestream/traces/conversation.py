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
import hashlib
import operator
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sidestream.providers.base import Said
    from sidestream.traces.sessions import Session

DIGEST: Final = 16
"""Bytes of a state, and of any other digest here."""
_LONGEST_CUT: Final = 64 << 10
_SHORTEST_CLUE: Final = 8
"""Characters, without white space, that a task must have to be known again as such."""
_MOST_CLUES: Final = 64
_PATIENCE: Final = 1.0
"""Seconds by which the end of an attempt may be noticed later than the beginning of the next."""
_PINNED: Final = 2
"""How many messages at the beginning a client may keep when it drops those after them."""
_SHORTEST_BEGINNING: Final = 256
"""Characters of an answer, captured in part, that are enough to know the whole of it by."""
_MOST_ENDS: Final = 16
"""At how many places of a request the end of a history is looked for; a whole message is rarely said twice."""
_SUMMARY: Final = re.compile(  # possessive: what comes before is never looked at twice
    r"\s*+(?:<system-reminder>(?>.*?</system-reminder>)\s*+)*+"
    r"(?:this session is being continued from a previous conversation"
    r"|<(?:conversation[_-])?summary>"
    r"|\W{0,4}(?:here is |here's |this is )?(?:the |a )?(?:conversation summary|summary of (?:the|our|this|your) "
    r"(?:previous |earlier |prior )?(?:conversation|session|history|context|discussion|work))"
    r"|\W{0,4}(?:previous|earlier) conversation (?:summary|\(?summarized)"
    r"|the (?:conversation )?history before this point was compacted)",
    re.IGNORECASE | re.DOTALL,
)


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


ROOTS: Final = frozenset({Rule.FIRST, Rule.REPEATED})
CHILDREN: Final = frozenset({Rule.CHILD_OF_SESSION, Rule.CHILD_OF_CALL})
BEGINNINGS: Final = ROOTS | CHILDREN | {Rule.EXTENDS_EARLIER}
"""The rules by which a trace begins; by the others a turn is added to one."""
RETRIES: Final = frozenset({Rule.RETRY_ANNOUNCED, Rule.RETRY_INCOMPLETE})


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
    rule: Rule
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

    @property
    def attempt(self) -> int:
        """The first attempt at what this turn tries."""
        return self.turn if self.retry_of is None else self.retry_of


class Known(Protocol):
    """The turns of one scope that began before the call that is to be placed; of very many alike, only the latest."""

    def leaving(self, states: Sequence[bytes], /) -> Iterator[Earlier]:
        """Turns that left one of these states, in the order of `states`; of those with the same, the latest first."""

    def outlined(self, outlines: Sequence[bytes], /) -> Iterator[Earlier]:
        """Turns that were answered and left one of these outlines, likewise."""

    def asking(self, state: bytes, /) -> list[Earlier]:
        """Turns whose whole request had this state, the latest first."""

    def cut(self, states: Sequence[bytes], /) -> list[Earlier]:
        """Turns whose request had one of these states, and whose answer was cut off, the latest first."""

    def is_taken(self, attempt: int, /) -> bool:
        """Whether a turn that was answered goes on from this one, or from a retry of it, and is no child of it."""

    def is_done(self, attempt: int, /) -> bool:
        """Whether a retry of this one was answered whole."""

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
    attempts = known.asking(call.states[-1]) if call.states else []
    attempts = [each for each in attempts if each.manner == call.manner]
    if retried := _retried(call, attempts, known):
        return retried
    if call.previous is not None:
        return _in_thread(call.previous, known) or Placement(Rule.FIRST)
    if not call.states:
        return Placement(Rule.FIRST)
    return (
        _continued(call, known)
        or _after_compaction(call, known)
        or _child(call, known)
        or Placement(Rule.REPEATED if attempts else Rule.FIRST)
    )


def within_thread(call: Call, asked: Sequence[Said], answer: Said | None, known: Known) -> Call:
    """The call with the states of the whole conversation, where the provider keeps the history of it."""
    if call.previous is None:
        return call
    before = next(iter(known.naming("answer", call.previous)), None)
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


def _in_thread(previous: bytes, known: Known) -> Placement | None:
    """What follows an answer that the request names."""
    named = known.naming("answer", previous)
    if not named:
        return None
    before = named[0]
    rule = Rule.EXTENDS_EARLIER if known.is_taken(before.attempt) else Rule.CONTINUES_THREAD
    return Placement(rule, before.turn)


def _retried(call: Call, attempts: Sequence[Earlier], known: Known) -> Placement | None:
    """The same request again, where that is a retry."""
    if call.retries and attempts:
        latest = next((each for each in attempts if not each.complete), attempts[0])
        return _again(Rule.RETRY_ANNOUNCED, latest, call)
    for each in attempts:
        over = not each.complete and each.ended_at <= call.started_at + _PATIENCE
        if over and not known.is_done(each.attempt):
            return _again(Rule.RETRY_INCOMPLETE, each, call)
    return None


def _again(rule: Rule, each: Earlier, call: Call) -> Placement:
    return Placement(rule, each.parent, each.attempt, min(each.known, len(call.states)))


def _continued(call: Call, known: Known) -> Placement | None:
    """What follows the turn that left the longest part of the request, as it is, or as clients change it."""
    exact, alike = _left(call, known)
    cut, rewritten = _cut(call, exact, known), _rewritten(call, exact, known)
    rule = Rule.CONTINUES_CUT if cut[1] >= rewritten[1] else Rule.HISTORY_REWRITTEN
    before, place = max(cut, rewritten, key=operator.itemgetter(1))
    if before is not None and place > exact:
        return Placement(Rule.EXTENDS_EARLIER if known.is_taken(before.attempt) else rule, before.turn, None, place)
    if not alike:
        return None
    candidates = [(_likeness(each, call), not known.is_taken(each.attempt), each) for each in alike]
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
    rest = call.roles[place:]
    return bool(rest) and "assistant" not in rest


def _likeness(each: Earlier, call: Call) -> int:
    """How much a turn is of the call's own kind, where several left the same state."""
    session = call.session
    return 2 * (session is not None and (each.session, each.agent) == session.key) + (each.manner == call.manner)


def _cut(call: Call, beyond: int, known: Known) -> tuple[Earlier | None, int]:
    """The turn whose answer was cut off, and is fed back as far as the client kept it; and the messages up to there."""
    reach = {state: place for place, state in enumerate(call.states, 1) if place >= beyond}
    best: tuple[Earlier | None, int] = (None, 0)
    for each in known.cut(list(reach)[::-1]):
        place = reach[each.asking or b""]
        rest, said, cut = call.roles[place:], "".join(call.texts[place : place + 1]), each.cut or ""
        begun = 0
        if rest[:1] == ("assistant",) and (cut.startswith(said) if said else False):
            begun = place + 1
        elif rest[:1] == ("assistant",) and len(cut) >= _SHORTEST_BEGINNING and said.startswith(cut):
            begun = place + 1  # the client has more of it than was captured
        elif rest and "assistant" not in rest:
            begun = place
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
    for before in known.naming("compaction", call.compacted) if call.compacted else ():
        return Placement(Rule.HISTORY_COMPACTED, before.turn, None, 1)
    tips = known.tips(*call.session.key) if call.session is not None else []
    for tip in tips:
        if overlap := _overlap(call, known.history(tip.turn)):
            return Placement(Rule.HISTORY_TRUNCATED, tip.turn, None, overlap)
    if not (call.summary and tips):
        return None
    longest = max(tips, key=lambda tip: (tip.manner == call.manner, tip.length))
    return Placement(Rule.HISTORY_SUMMARIZED, longest.turn)


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
        if each.ended_at <= call.started_at + _PATIENCE and not known.is_taken(each.attempt)
    ]
    parent = call.session.parent if call.session is not None else None
    if parent is not None:
        by = [each for each in openers if (each.session, each.agent) == parent]
        by = by or sorted(known.tips(*parent), key=lambda tip: -tip.length)
        if by:
            return Placement(Rule.CHILD_OF_SESSION, by[0].turn)
    return Placement(Rule.CHILD_OF_CALL, openers[0].turn) if openers else None


def scope_of(dataset: str, provider: str, fingerprint: str) -> bytes:
    """The scope of calls; `fingerprint` stands for the key that they brought along."""
    return digest(dataset, provider, fingerprint)


def states_of(messages: Iterable[Said], before: bytes = b"", *, outline: bool = False) -> list[bytes]:
    """The state after each of `messages`, which follow on the state `before`; with `outline` by their outlines."""
    states: list[bytes] = []
    chain = _Chain(before)
    for message in messages:
        chain.add(message, message.outline if outline and message.outline is not None else message.units)
        states.append(chain.state)
    return states


def digest_of(message: Said) -> bytes:
    """A message by itself."""
    return digest(message.role, message.text, *message.units)


def digest(*parts: str | bytes) -> bytes:
    """A digest of texts and bytes, in which it cannot be told apart from any other list of them."""
    hashed = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.digest()


def clues(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Digests of texts, white space apart, by which a task is known again that was passed on."""
    bare = ["".join(text.split()) for text in texts]
    return tuple(dict.fromkeys(digest(text) for text in bare if len(text) >= _SHORTEST_CLUE))[:_MOST_CLUES]


def is_summary(openings: Iterable[str]) -> bool:
    """Whether one of these texts begins as summaries of conversations do."""
    return any(_SUMMARY.match(text[:20_000]) for text in openings)


def cut_text(answer: Said | None, *, complete: bool) -> str | None:
    """What is kept of an answer that is not whole, maybe nothing; None if it is whole, or there is none."""
    return answer.text[:_LONGEST_CUT] if answer is not None and not complete else None


class _Chain:
    """The state so far. Messages of one role in a row are one message: what an assistant says in them is one text."""

    def __init__(self, state: bytes) -> None:
        self.state = state
        self._role = ""
        self._before = state
        """The state before the assistant's messages that are being added."""
        self._text = self._units = hashlib.blake2b(digest_size=DIGEST)

    def add(self, message: Said, units: Iterable[bytes]) -> None:
        if message.role != self._role:
            self._role, self._before = message.role, self.state
            self._text, self._units = hashlib.blake2b(digest_size=DIGEST), hashlib.blake2b(digest_size=DIGEST)
        if message.role == "assistant":
            self._text.update(message.text.encode("utf-8", "surrogatepass"))
            for unit in units:
                self._units.update(digest(unit))
            if message.text or message.units:
                self.state = digest(self._before, message.role, self._text.digest(), self._units.digest())
            return
        for unit in units:
            self.state = digest(self.state, message.role, unit)
