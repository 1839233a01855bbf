"""
Real processes for the end-to-end tests: the hub from the command line, on free ports.

Owns: starting, waiting for a line, stopping. Never waits for a time to pass.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


__all__ = ["RunningHub", "running_hub", "running_process"]

_LISTENING = re.compile(r"relayrpc hub listening: grpc (\S+):(\d+), http (\S+):(\d+)\n")
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RunningHub:
    """A hub process that accepts connections."""

    process: subprocess.Popen[str]
    grpc_port: int
    http_port: int

    def wait(self) -> int:
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def running_hub(
    *flags: str,
    python: str | Path = sys.executable,
    cwd: Path | None = None,
    stderr: IO[str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[RunningHub]:
    """
    Run `relayrpc hub` on free loopback ports; it is killed at the end if it still runs.

    Args:
        flags: Further flags; a later `--grpc` or `--http` wins over the free port.
        python: The interpreter that has relayrpc.
        cwd: Where it runs.
        stderr: An open file for its log; None: the test's own.
        prefix: A command that runs the hub's, in its own place.
    """
    ports = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    command = (*prefix, str(python), "-m", "relayrpc", "hub", *ports, *flags)
    with running_process(command, _LISTENING, cwd=cwd, stderr=stderr) as (process, match):
        yield RunningHub(process, int(match[2]), int(match[4]))


@contextmanager
def running_process(
    command: Sequence[str | Path],
    ready: re.Pattern[str],
    *,
    cwd: Path | None = None,
    stderr: IO[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    """
    Run a command; it is killed at the end if it still runs.

    Args:
        command: And its arguments.
        ready: What its first line on standard output is.
        cwd: Where it runs.
        stderr: An open file for its log; None: the test's own.
        env: Its whole environment; None: the test's own.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd, env=env
    )
    with process:
        try:
            line = _stdout(process).readline()
            match = ready.fullmatch(line)
            assert match is not None, f"it printed {line!r}"
            yield process, match
        finally:
            process.kill()


def _stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout
