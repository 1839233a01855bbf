"""
The benchmark's processes: starts them, waits until they are ready, gives them work, ends them.

Owns: bounds on what may run and how long. Never measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import sys
from asyncio.subprocess import PIPE
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType


__all__ = [
    "BenchmarkError",
    "Process",
    "Processes",
    "Worker",
    "open_files_max",
    "raise_open_files_limit",
]

Answer = TypeVar("Answer")

PROCESSES_MAX: Final = 16
START_TIMEOUT_S: Final = 20.0
ANSWER_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 3.0
LINE_BYTES_MAX: Final = 1024 * 1024
TAIL_LINES_MAX: Final = 20


class BenchmarkError(Exception):
    """A measurement could not be taken; the text says which process said what."""


class Process:
    """A program that runs beside the benchmark, and the last lines it wrote."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._tail: deque[str] = deque(maxlen=TAIL_LINES_MAX)
        self._expected: tuple[re.Pattern[str], asyncio.Future[re.Match[str]]] | None = None
        outputs = [stream for stream in (process.stdout, process.stderr) if stream is not None]
        self._reader = asyncio.ensure_future(self._read_all(outputs))

    @classmethod
    async def start(cls, name: str, argv: Sequence[str], variables: Mapping[str, str]) -> Self:
        """Start `argv`, with more environment variables and pipes for all three streams."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=LINE_BYTES_MAX,
            env={**os.environ, **variables},
        )
        return cls(name, process)

    async def line_matching(self, pattern: str) -> re.Match[str]:
        """
        Wait for a line of output.

        Raises:
            BenchmarkError: If the process ends first, or says nothing of the kind in 20 s.
        """
        future: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        compiled = re.compile(pattern)
        found = next(filter(None, map(compiled.search, self._tail)), None)
        if found is not None:
            return found
        self._expected = (compiled, future)
        return await self._bounded(future, START_TIMEOUT_S)

    async def aclose(self) -> None:
        """Ask it to stop, and kill it when it has not after 3 s."""
        with contextlib.suppress(ProcessLookupError):
            self._ask_to_stop()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def line_received(self, line: str) -> None:
        """Take one line of output."""
        self._tail.append(line)
        if self._expected is None:
            return
        pattern, future = self._expected
        match = pattern.search(line)
        if match is not None and not future.done():
            future.set_result(match)

    def ended(self, error: BenchmarkError) -> None:
        """Tell whoever waits that nothing more will come."""
        if self._expected is not None and not self._expected[1].done():
            self._expected[1].set_exception(error)

    def _ask_to_stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()

    async def _read_all(self, outputs: list[asyncio.StreamReader]) -> None:
        async def read(stream: asyncio.StreamReader) -> None:
            while line := await stream.readline():
                self.line_received(line.decode(errors="replace").rstrip())

        await asyncio.gather(*map(read, outputs))
        self.ended(self._failure("ended"))

    async def _bounded(self, future: asyncio.Future[Answer], timeout_s: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise self._failure(f"gave no answer within {timeout_s:g} s") from None

    def _failure(self, what: str) -> BenchmarkError:
        return BenchmarkError("\n  ".join([f"{self.name} {what}; it last wrote:", *self._tail]))


class Worker(Process):
    """A child of our own (benchmarks.child): says when it is ready, then answers commands."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        super().__init__(name, process)
        self.ready: dict[str, Any] = {}
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def run(self, command: str, **arguments: Any) -> dict[str, Any]:
        """
        Have one command done and wait for its result.

        Raises:
            BenchmarkError: If the command fails, the worker ends, or a minute passes.
        """
        assert self._process.stdin is not None
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        request = {"id": number, "command": command, "arguments": arguments}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            return await self._bounded(future, ANSWER_TIMEOUT_S)
        finally:
            del self._answers[number]

    def line_received(self, line: str) -> None:
        """Take one answer; what is none is kept for error messages."""
        if not line.startswith("{"):
            super().line_received(line)
            return
        answer = json.loads(line)
        if "ready" in answer:
            self.ready = answer["ready"]
            super().line_received("ready")
            return
        future = self._answers.get(answer["id"])
        if future is None or future.done():
            return
        if "error" in answer:
            future.set_exception(BenchmarkError(f"{self.name}: {answer['error']}"))
        else:
            future.set_result(answer["result"])

    def ended(self, error: BenchmarkError) -> None:
        """Fail every command still running."""
        super().ended(error)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(error)

    def _ask_to_stop(self) -> None:
        # With its input its commands end, and it closes its connections in order.
        assert self._process.stdin is not None
        self._process.stdin.close()


class Processes:
    """Every process of one measurement; none survives the `async with` block."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """
        Args:
            variables: Environment variables that every process gets beside ours.
        """
        self._variables = variables or {}
        self._started: list[Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Callers go first: a host that outlives its callers ends in order.
        for process in reversed(self._started):
            await process.aclose()

    async def start_program(self, name: str, *argv: str) -> Process:
        """Start a program that is not one of ours; it dies with the benchmark."""
        self._check_count()
        leashed = [sys.executable, "-m", "benchmarks.leash", *argv]
        process = await Process.start(name, leashed, self._variables)
        self._started.append(process)
        return process

    async def start_worker(self, name: str, module: str, *arguments: str) -> Worker:
        """Start a module of ours and wait until it is ready."""
        self._check_count()
        argv = [sys.executable, "-m", module, *arguments]
        worker = await Worker.start(name, argv, self._variables)
        self._started.append(worker)
        await worker.line_matching("^ready$")
        return worker

    def _check_count(self) -> None:
        if len(self._started) >= PROCESSES_MAX:
            raise BenchmarkError(f"a measurement may start {PROCESSES_MAX} processes")


def open_files_max() -> int:
    """How many files a process may open: the system's hard limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_open_files_limit() -> None:
    """Let this process and its children open as many files as the system allows."""
    hard = open_files_max()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
