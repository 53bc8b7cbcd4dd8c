"""Reads a configuration that came from the supervisor: for a relay, a recorder, and for the plan."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestream import config as configuration
from sidestream.app import create_app, has_viewer, is_open
from sidestream.errors import ConfigError, Problem, SidestreamError
from sidestream.options import Secret
from sidestream.processes import plan
from sidestream.processes.channel import Document
from sidestream.processes.plan import Plan
from sidestream.store.directory import Directory

if TYPE_CHECKING:
    from sidestream.config import Config


def configured(document: Document) -> Config:
    """The configuration of a document, with what the command line said; `ConfigError` has every problem."""
    try:
        if document.host is not None:
            configuration.host_name(document.host)
    except ValueError as error:
        raise ConfigError([Problem("--host", str(error))]) from None
    config = configuration.load(document.data)
    server = config.server
    if document.host is not None:
        server = replace(server, host=document.host)
    if document.port is not None:
        server = replace(server, port=document.port)
    return replace(config, server=server)


def for_relay(config: Config) -> Config:
    """What a relay's application is made of: a recorder that is a process is somebody else's for it."""
    if config.recorder.mode in {"auto", "process"}:
        return replace(config, recorder=replace(config.recorder, mode="external"))
    return config


def main() -> int:
    """Read a document from standard input, write the plan for it to standard output; the exit status."""
    output = os.dup(1)
    os.dup2(2, 1)  # so that nothing a plugin prints gets into the plan
    outcome: Plan | SidestreamError
    try:
        outcome = planned(configured(Document.decode(sys.stdin.buffer.readline())))
    except SidestreamError as error:
        outcome = error
    line, status = plan.answer(outcome)
    with os.fdopen(output, "wb") as stream:
        stream.write(line)
    return status


def planned(config: Config) -> Plan:
    """The plan for a configuration; everything that a relay would refuse at its start is refused here."""
    create_app(for_relay(config), raw_request_bodies=True)
    server, recorder = config.server, config.recorder
    return Plan(
        host=server.host,
        port=server.port,
        prefix=server.prefix,
        workers=server.workers,
        mode="process" if recorder.mode == "auto" else recorder.mode,
        directory=str(Directory(Path(recorder.dir)).path),
        viewer=_viewer(config),
        notice=server.notice,
        drain=server.drain,
        flush=recorder.flush,
        digest=_digest(config),
    )


def _viewer(config: Config) -> str:
    if not has_viewer(config):
        return ""
    if is_open(config):
        return "open"
    return "token" if config.viewer.token is not None else "made"


def _digest(config: Config) -> str:
    concerned = {"recorder": asdict(config.recorder), "sinks": [[spec.name, spec.options] for spec in config.sinks]}
    return hashlib.sha256(json.dumps(concerned, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> Any:
    return value.reveal() if isinstance(value, Secret) else repr(value)
