"""Everything sidestream raises, as one tree.

::

    SidestreamError
    ├── ConfigError            the configuration cannot work: every problem with its path
    ├── GatewayError           an answer of our own (4xx/5xx) instead of the provider's
    ├── RelayError             the transport of an exchange ended badly
    │   ├── UpstreamFailed     the provider's side broke
    │   ├── TimedOut           one of the idle limits passed
    │   ├── ClientDisconnected the client's side went away
    │   ├── ShutDown           the gateway itself ended
    │   └── NotRecorded        strict durability was asked for, and could not be given
    └── DeliveryError          a sink could not deliver a turn
        ├── Retryable          ... now; later it may
        ├── Ambiguous          ... as far as it knows; it may have
        ├── Unauthorized       ... with this key
        ├── Gone               ... there: the trace that it was to be appended to is not there any more
        └── Undeliverable      ... ever

Messages name what was wrong, where, and what to do. They never hold a secret or raw input.
"""

from __future__ import annotations

from dataclasses import dataclass


class SidestreamError(Exception):
    """Base of everything sidestream raises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: `path` (``middlewares[1].stream_tee.limit``) and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(SidestreamError):
    """The configuration cannot work. `problems` has everything found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class GatewayError(SidestreamError):
    """Answer this exchange ourselves: HTTP `status`, a stable `code` for ``x-sidestream-error``, and a message.

    A middleware raises it before the response has begun; the client gets it in the provider's error shape. With
    `retry_after` it is told to come back in so many seconds.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


class RelayError(SidestreamError):
    """The transport of an exchange ended badly."""


class UpstreamFailed(RelayError):
    """The provider's side broke: refused, reset, cut short, or not HTTP."""


class TimedOut(RelayError):
    """One of the idle limits (``upstreams.*.first_byte``, ``idle``, ``write``) passed."""


class ClientDisconnected(RelayError):
    """The client's side went away before the last byte."""


class ShutDown(RelayError):
    """The gateway ended it before the last byte: at its shutdown, or because a middleware went on without it."""


class NotRecorded(RelayError):
    """Under strict durability: what was relayed could not be written down, or not in time."""


class DeliveryError(SidestreamError):
    """A sink could not deliver a turn."""


class Retryable(DeliveryError):
    """Not now. `after` is the least number of seconds to wait, where the destination said so."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Ambiguous(DeliveryError):
    """Nobody knows: it was sent, and may have arrived.

    `server_error` says that the destination failed with just this, and not altogether. `after` is the least number of
    seconds to wait, where it said so.
    """

    def __init__(self, message: str, *, server_error: bool = False, after: float | None = None) -> None:
        super().__init__(message)
        self.server_error = server_error
        self.after = after


class Unauthorized(DeliveryError):
    """Not with this key: the destination does not know it, or does not let it in."""


class Gone(DeliveryError):
    """Not there: the destination does not have `Turn.remote` any more. The turn is sent anew, as of a new trace."""


class Undeliverable(DeliveryError):
    """Never: the destination refuses this turn for good."""
