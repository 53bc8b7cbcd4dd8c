"""``python -m chaos``: the long runs, and their tables."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.disk import full_disk
from chaos.interference import interference
from chaos.kills import kills
from chaos.outage import outage
from chaos.reloads import reloads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def table(*rows: tuple[object, ...]) -> None:
    """Print rows of a Markdown table; the first is its head."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if not number:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


async def _kills(count: int) -> bool:
    rows: list[tuple[object, ...]] = [
        (
            "durability",
            "kills",
            "clean ends",
            "lost",
            "outside the window",
            "stored twice",
            "pushed twice",
            "undelivered",
        )
    ]
    good = True
    for durability in ("strict", "async"):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            found = await kills(Path(folder), durability, count)
        counts = found.stored_twice, found.pushed_twice, found.left.undelivered
        rows.append((durability, count, len(found.calls.clean), len(found.lost), len(found.unexplained), *counts))
        lost = found.lost if durability == "strict" else found.unexplained
        good = good and found.left.sound and found.delivered and not (lost or found.stored_twice)
        good = good and found.left.undelivered == 0 and found.pushed_twice <= count
    table(*rows)
    return good


async def _outage(count: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        found = await outage(Path(folder), count)
    table(
        ("exchanges", "delivered", "pushed twice", "in order", "tries while down", "seconds to drain"),
        (
            *(len(found.calls.clean), found.left.deliveries.get("delivered", 0)),
            *(sum(found.pushed.values()) - len(found.pushed), found.in_order, found.tries, round(found.drain_seconds)),
        ),
    )
    moments = ("a tenth of the load", "all of it", "drained")
    kinds = list(found.memory[0])
    table(("MB when it had", *kinds), *((when, *mb.values()) for when, mb in zip(moments, found.memory, strict=True)))
    flat = all(found.memory[1][kind] < 1.3 * found.memory[0][kind] + 10 for kind in kinds)
    return flat and found.delivered and found.in_order and sum(found.pushed.values()) == len(found.pushed)


async def _reloads(count: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        calls = await reloads(Path(folder), count)
    table(("SIGHUPs", "requests", "failed"), (count, calls.sent, calls.failed))
    return not calls.failed


async def _disk(count: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        found = await full_disk(Path(folder), count)
    if found is None:
        print("No file system can be mounted here: the full disk is left out.\n")
        return True
    clean = [len(calls.clean) for calls in (found.before, found.during, found.after)]
    kept = [
        sum(marker in found.left.markers for marker in calls.clean)
        for calls in (found.before, found.during, found.after)
    ]
    table(
        ("the disk", "before", "full", "room again"),
        ("clean ends", *clean),
        ("kept", *kept),
        ("restarts", "", "", found.restarts),
    )
    failed = found.before.failed + found.during.failed + found.after.failed
    return not failed and not found.restarts and (clean[0], clean[2]) == (kept[0], kept[2])


async def _interference(megabytes: int) -> bool:
    good = False
    rows: list[tuple[object, ...]] = [("recorder", "age of events, ms", "p50", "p99", "longest")]
    for mode in ("process", "thread"):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            alone, beside = await interference(Path(folder), mode, megabytes)
        rows.append((mode, "alone", alone.p50, alone.p99, alone.longest))
        rows.append((mode, f"{megabytes} MB being understood", beside.p50, beside.p99, beside.longest))
        if mode == "process":
            good = beside.p99 < 3 * alone.p99 + 2
    table(*rows)
    return good


def main() -> int:
    """Run what is asked for, by default everything; the exit status."""
    runs: dict[str, tuple[Callable[[int], Coroutine[None, None, bool]], int]] = {
        "kills": (_kills, 100),
        "outage": (_outage, 20_000),
        "reloads": (_reloads, 50),
        "disk": (_disk, 200),
        "interference": (_interference, 30),
    }
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *runs], help="which of them; all unless given")
    parser.add_argument("--count", type=int, help="kills, exchanges, reloads, calls or megabytes")
    options = parser.parse_args()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {machine}\n", flush=True)
    failed = []
    for name in options.names or runs:
        run, count = runs[name]
        if not asyncio.run(run(options.count or count)):
            failed.append(name)
    if failed:
        print(f"not as promised: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
