"""A child of the supervisor that does as its document says, in place of a relay, a recorder or a plan.

The document is JSON: ``plan`` has what the plan differs in from an ordinary one, ``problems`` and ``error`` what is
wrong; ``relay`` and ``recorder`` have one word for how those behave. Who connects to a relay is told its pid, and the
document's ``name``.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import sys
import threading
import time
from typing import Any

PLAN = {
    "host": "127.0.0.1",
    "port": 0,
    "prefix": "/p",
    "workers": 1,
    "mode": "process",
    "directory": "/d",
    "viewer": "",
    "notice": 0.0,
    "drain": 0.2,
    "flush": 0.2,
    "digest": "d",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--control", type=int)
    parser.add_argument("--listen", type=int, action="append", default=[])
    options = parser.parse_args()
    if options.kind == "plan":
        script = read_document(sys.stdin.buffer.readline())
        if "garbage" in script:
            sys.exit(3)
        sys.stdout.write(json.dumps({**script, "plan": {**PLAN, **script.get("plan", {})}}))
        return
    control = socket.socket(fileno=options.control)
    lines = control.makefile("rwb")
    script = read_document(lines.readline())
    behave(script, script.get(options.kind, ""), lines, [socket.socket(fileno=number) for number in options.listen])


def read_document(line: bytes) -> dict[str, Any]:
    data = json.loads(line)["data"]
    script: dict[str, Any] = json.loads(base64.b64decode(data)) if data else {}
    return script


def behave(script: dict[str, Any], word: str, lines: Any, listening: list[socket.socket]) -> None:
    if word == "refuse":
        sys.exit(2)
    if word == "hang":
        time.sleep(60)
    for sock in listening:
        sock.setblocking(True)
        threading.Thread(target=serve, args=(sock, script.get("name", "")), daemon=True).start()
    if word == "babble":
        lines.write(b"x" * (1 << 20) + b"\n[]\n{}\n" + b"[" * 100_000 + b'\n{"kind":"stats","stats":7}\n')
    say(lines, kind="ready")
    if word == "die":
        os._exit(4)
    obey(word, lines)


def serve(sock: socket.socket, name: str) -> None:
    while True:
        client, _ = sock.accept()
        with client:
            client.sendall(f"{os.getpid()} {name}".encode())


def obey(word: str, lines: Any) -> None:
    count = 1
    for line in lines:
        message = json.loads(line)
        kind = message["kind"]
        if kind == "report" and word != "busy":
            say(lines, kind="stats", number=message["number"], stats={"count": count, "gauges": {"now": 1}})
        elif kind in {"stop", "retire"} and word != "deaf":
            say(lines, kind="stats", stats={"count": count, "gauges": {"now": 1}})
            return


def say(lines: Any, **message: Any) -> None:
    lines.write(json.dumps(message).encode() + b"\n")
    lines.flush()


main()
