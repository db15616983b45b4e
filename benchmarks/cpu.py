"""The core that a process runs on, and the CPU time that it has used."""

import os
from pathlib import Path


def require_linux() -> None:
    """Stop unless CPU times can be read here.

    Raises:
        SystemExit: there is no ``/proc/PID/task/*/schedstat``.
    """
    if not list(Path("/proc/self/task").glob("*/schedstat")):
        raise SystemExit(
            "The CPU time of a worker is read from /proc/PID/task/*/schedstat, which only Linux "
            "has. Run the benchmarks on Linux, or in a Linux container."
        )


def cpu_seconds(pid: int) -> float:
    """The CPU time of all threads of a process so far, by the scheduler's own count.

    The unit of ``schedstat`` is the nanosecond (Linux, Documentation/scheduler/sched-stats.rst),
    while ``/proc/PID/stat`` counts in steps of 10 ms.
    """
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def pin(core: int) -> None:
    """Stay on one core."""
    os.sched_setaffinity(0, {core})


def cores() -> tuple[int, int]:
    """One core for the application, and another for everything else where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]
