"""What an attempt at a delivery makes of its row: when it is tried again, and when it is given up.

Pure functions of a row, an outcome and the time; no I/O, no clock, no queue.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidestream.errors import Ambiguous, DeliveryError, Retryable
from sidestream.store.rows import State

if TYPE_CHECKING:
    from sidestream.sinks.base import Found
    from sidestream.store.rows import Delivery

NO_KEY = "the key of the call is not known any more"
KEYLESS = "the call brought no key along, and none is configured"
REFUSED_KEY = "the destination refused the key of the call"
REFUSED_OWN_KEY = "the destination refused the configured key"
UNCLEAR = "it may have arrived, and that cannot be found out"
GONE = "the destination does not have the trace any more"

_MARGIN = 300.0
_LONGEST_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a delivery is tried again. All times are seconds."""

    first_wait: float = 1.0
    """The most that is waited after a first failure; it doubles with each further one."""
    longest_wait: float = 300.0
    shortest_wait: float = 0.05
    longest_asked: float = 3600.0
    """The most that a destination's own wish (``Retry-After``) can make it."""
    settle: float = 10.0
    """How long a destination may still be busy with a request whose end was not seen."""
    give_up_after: float = 72 * 3600.0
    """Counted from the first attempt."""
    server_errors: int = 12
    """How many answers of 500 one turn gets."""
    key_wait: float = 2.0
    """How long a key may come later than its turn, before the configured one is taken, or the turn is parked."""
    refused_rest: float = 300.0
    """How long a key that was refused is not tried again."""
    longest_send: float = 3600.0
    """What takes longer is cancelled; for sinks that know no limit of their own."""
    grace: float = 1.0
    """What a cancelled delivery, a last save and the sink's `close` get at the end, each."""

    def wait(self, failures: int, after: float | None = None) -> float:
        """How long to wait after so many failures in a row: full jitter, but as long as was asked for."""
        ceiling = min(self.longest_wait, self.first_wait * 2 ** min(max(failures, 1) - 1, 30))
        asked = min(after, self.longest_asked) if isinstance(after, int | float) and after > 0 else 0.0
        return max(random.uniform(0, ceiling), self.shortest_wait, asked)  # noqa: S311 (jitter, not a secret)


def refusal(key: str) -> str:
    """Why rows are parked whose key was refused; `key` is its fingerprint, "" for the configured one."""
    return REFUSED_KEY if key else REFUSED_OWN_KEY


def time_left(delivery: Delivery, now: float, policy: Policy) -> float:
    """Seconds until an open row is due. A wait longer than any we ask for means that the clock was set back: 0."""
    if delivery.state is not State.RETRY_AT:
        return 0.0
    left = delivery.due_at - now
    longest = max(policy.longest_asked, policy.longest_wait, policy.settle) + _MARGIN
    return left if 0 < left <= longest else 0.0


def claim(delivery: Delivery, now: float, *, remote: str | None = None, told_until: int | None = None) -> None:
    """It is about to be sent, as what is added to `remote`: a crash must not take the knowledge of that.

    Why it waited is over: `GONE` was said of another trace.
    """
    _set(delivery, State.SENDING, None)
    delivery.remote, delivery.told_until = remote, told_until
    delivery.attempts += 1
    if delivery.tried_at is None or delivery.tried_at > now:  # the clock was set back
        delivery.tried_at = now


def arrived(delivery: Delivery, remote: str | None) -> None:
    """It is where it should be."""
    _set(delivery, State.DELIVERED, None)
    delivery.ambiguous = False
    delivery.remote = _text(remote) if isinstance(remote, str) else None


def failed(delivery: Delivery, error: DeliveryError, wait: float, now: float, policy: Policy) -> None:
    """It was sent, and that failed. `wait` is for the errors after which it is tried again."""
    if isinstance(error, Retryable):
        if _too_old(delivery, now, policy):
            _set(delivery, State.DEAD, f"given up after {policy.give_up_after / 3600:g} hours: {error}")
        else:
            again(delivery, now + wait, str(error))
    elif isinstance(error, Ambiguous):
        delivery.server_errors += error.server_error
        again(delivery, now + max(wait, policy.settle), str(error), ambiguous=True)
        if _too_old(delivery, now, policy):
            park(delivery, UNCLEAR)
    else:
        _set(delivery, State.DEAD, str(error))


def looked(delivery: Delivery, found: Found | None, now: float, policy: Policy) -> None:
    """The destination was asked for one of which nobody knew whether it had arrived. If not, it is sent once more."""
    if found is not None:
        arrived(delivery, found.remote)
    elif delivery.server_errors >= policy.server_errors:
        _set(
            delivery, State.DEAD, f"given up after {delivery.server_errors} server errors: {delivery.reason or UNCLEAR}"
        )
    else:
        again(delivery, now, delivery.reason)


def look_failed(delivery: Delivery, error: DeliveryError, wait: float, now: float, policy: Policy) -> None:
    """The destination could not be asked, or could not say."""
    if isinstance(error, Retryable) and not _too_old(delivery, now, policy):
        again(delivery, now + wait, str(error), ambiguous=True)
    else:
        park(delivery, UNCLEAR)


def gone(delivery: Delivery, wait: float, now: float, policy: Policy, *, looked_for: bool) -> None:
    """The trace that it was to be appended to is not there any more, and so neither is this.

    That one is forgotten, so it goes to another at once, and the attempt does not count. If it was not to be appended
    to any, there is nothing to forget, and it waits.
    """
    was_new = delivery.remote is None
    if was_new and _too_old(delivery, now, policy):
        _set(delivery, State.DEAD, f"given up after {policy.give_up_after / 3600:g} hours: {GONE}")
        return
    if not (was_new or looked_for):
        delivery.attempts -= 1
    again(delivery, now + (wait if was_new else 0.0), GONE)


def broke(delivery: Delivery, wait: float, now: float, policy: Policy, *, findable: bool) -> None:
    """The sink itself raised something unexpected while it was sending or looking.

    It counts like a server error. Where nobody could find out whether it arrived, it is simply sent again.
    """
    delivery.server_errors += 1
    reason = "a defect of the sink; see the log"
    if delivery.server_errors < policy.server_errors:
        ambiguous = findable or delivery.ambiguous
        again(delivery, now + (max(wait, policy.settle) if ambiguous else wait), reason, ambiguous=ambiguous)
    elif findable or delivery.ambiguous:
        park(delivery, UNCLEAR)
        delivery.ambiguous = True
    else:
        _set(delivery, State.DEAD, f"given up after {delivery.server_errors} failures: {reason}")


def interrupted(delivery: Delivery, now: float, policy: Policy) -> None:
    """The attempt was cancelled, so it may have arrived."""
    again(delivery, now + policy.settle, "interrupted", ambiguous=True)


def release(delivery: Delivery) -> None:
    """It was claimed, but not sent."""
    delivery.attempts -= 1
    if delivery.attempts:
        again(delivery, 0.0, delivery.reason)
    else:
        _set(delivery, State.PENDING, None)
        delivery.tried_at = None
        delivery.remote = delivery.told_until = None


def bury(delivery: Delivery, reason: str) -> None:
    """It is given up for good."""
    _set(delivery, State.DEAD, reason)


def park(delivery: Delivery, reason: str) -> None:
    """It waits for somebody."""
    _set(delivery, State.PARKED, reason)


def again(delivery: Delivery, due_at: float, reason: str | None, *, ambiguous: bool = False) -> None:
    """It is tried again at `due_at`, or looked for first."""
    _set(delivery, State.RETRY_AT, reason)
    delivery.due_at = due_at
    delivery.ambiguous = ambiguous


def _set(delivery: Delivery, state: State, reason: str | None) -> None:
    delivery.state = state
    delivery.reason = reason and _text(reason)


def _text(text: str) -> str:
    """What a plugin says, as any store can keep it."""
    return text[:_LONGEST_TEXT].encode(errors="replace").decode()


def _too_old(delivery: Delivery, now: float, policy: Policy) -> bool:
    return delivery.tried_at is not None and now - delivery.tried_at >= policy.give_up_after
