"""
Becomes another program that dies with its parent: `python -m benchmarks.leash PROGRAM ARG...`.

Our own children end when their standard input does; a hub or a nats-server would outlive a killed
benchmark.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final


__all__ = ["main"]

PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h; it holds across execv."""


def main(argv: list[str]) -> None:
    """Become `argv`; does not return."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
