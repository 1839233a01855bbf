"""
What a process has used: processor time, memory, sockets. Linux only.

Never adds work to the process that is measured.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final


__all__ = ["cpu_s", "resident_bytes", "sockets_count"]

CPUCLOCK_SCHED: Final = 2
"""From linux/posix-timers.h: all threads of a process, counted by the scheduler in nanoseconds."""


def cpu_s(pid: int) -> float:
    """
    Processor time of a whole process.

    /proc/PID/stat has the same in ticks of 10 ms, too coarse for a short window.
    """
    return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)


def resident_bytes(pid: int) -> int:
    """Memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def sockets_count(pid: int) -> int:
    """Sockets a process has open, to see that every link has its own."""
    folder = f"/proc/{pid}/fd"
    count = 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:  # Closed since it was listed.
            continue
    return count
