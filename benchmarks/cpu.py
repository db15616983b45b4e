"""The core that a process runs on, and the CPU time that it has used."""

import ctypes
import os
import sys
import time


def require_linux() -> None:
    """Stop where the CPU time of another process cannot be read.

    Raises:
        SystemExit: this is not Linux.
    """
    if sys.platform != "linux":
        raise SystemExit(
            "The benchmarks compare the CPU time of a worker, which they can read on Linux only. "
            "Run them there, or in a Linux container."
        )


def cpu_seconds(pid: int) -> float:
    """The CPU time that all threads of a process have used, those that have ended included.

    From its CPU-time clock (POSIX ``clock_getcpuclockid``), which counts nanoseconds.
    ``/proc/PID/stat`` counts in steps of 10 ms, and ``/proc/PID/task/*/schedstat`` forgets a thread
    that ends: the pool of threads for plain ``def`` dependencies shrinks between two rounds.

    Raises:
        ProcessLookupError: there is no such process.
    """
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error), f"process {pid}")
    return time.clock_gettime(clock.value)


def pin(core: int) -> None:
    """Stay on one core."""
    os.sched_setaffinity(0, {core})


def cores() -> tuple[int, int]:
    """One core for the application, and another for everything else where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]
