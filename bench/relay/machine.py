"""The machine under the bench: which cores are for whom, how fast they are at the moment, what processes have used."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HARNESS: Final = 0
"""The core of mock, load, and a gateway's trace plane."""
GATEWAY: Final = 1
"""The core of what is measured."""

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_WORK: Final = 150_000
_IDLE: Final = (3, 4)
"""Which columns of ``/proc/stat`` are not work."""


class Process(NamedTuple):
    """A process and its command line."""

    pid: int
    line: str


def core(number: int) -> set[int]:
    """This core, or the nearest to it that there is."""
    there = sorted(os.sched_getaffinity(os.getpid()))
    return {there[number % len(there)]}


@contextlib.contextmanager
def pinned(number: int) -> Iterator[None]:
    """Whatever this thread starts meanwhile runs on that core."""
    before = os.sched_getaffinity(0)
    cores = core(number)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pids: Iterable[int], number: int) -> None:
    """Have processes run on that core, all of their threads."""
    cores = core(number)
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)


def calibrate() -> float:
    """Seconds of CPU for a fixed piece of work on the gateway's core: the speed of a shared machine drifts."""
    with pinned(GATEWAY):
        return min(_piece_of_work() for _ in range(3))


def _piece_of_work() -> float:
    begun, number = time.thread_time(), 0
    for step in range(_WORK):
        number = (number * 31 + step) & 0xFFFFFFFF
    return time.thread_time() - begun


def tree(pid: int) -> list[Process]:
    """A process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return [Process(each, _line(each)) for each in found]


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that processes have used, user and system, and their ended children."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += sum(map(int, _stat(pid)[11:15]))
    return total / _TICK


def memory(pids: Iterable[int]) -> int:
    """Resident bytes of processes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return total


def busy() -> float:
    """Seconds of CPU that the whole machine has used; also what a hypervisor took."""
    fields = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(each for column, each in enumerate(fields) if column not in _IDLE) / _TICK


def wait_until_quiet(most: float, patience: float) -> None:
    """Wait until the machine uses less than `most` cores, or the patience (seconds) ends."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        before, begun = busy(), time.monotonic()
        time.sleep(0.3)
        if (busy() - before) / (time.monotonic() - begun) <= most:
            return


def describe() -> dict[str, str]:
    """What a reader of figures has to know of the machine."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{os.cpu_count()} cores, {model}",
        "python": f"Python {platform.python_version()}",
    }


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the command, which may be anything: first the state, then the parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
