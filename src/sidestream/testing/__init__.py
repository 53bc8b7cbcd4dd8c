"""Test doubles for those who build on sidestream, and for its own tests: real sockets, no mocks, no sleeps."""

from sidestream.testing.explorer import FakeExplorer
from sidestream.testing.explorer_rules import PushedTrace
from sidestream.testing.gateway import gateway, running
from sidestream.testing.sinks import ListSink
from sidestream.testing.upstream import ScriptedUpstream

__all__ = ["FakeExplorer", "ListSink", "PushedTrace", "ScriptedUpstream", "gateway", "running"]
