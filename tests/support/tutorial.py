"""
Does what a tutorial's pages say: writes their files, types their commands, and compares what is
printed.

A block of code whose first line is a comment with a path is that file; a block `console` has
commands behind "$ ", and what they print. "&" runs one in the background, whose first line is
compared; "kill %name" ends the last such that its name begins.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


__all__ = ["Reader"]

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FILE: Final = re.compile(r"(?:#|//) ([\w./-]+\.\w+)\n(.*)", re.DOTALL)
_WAIT_S: Final = 60.0


@dataclass
class Reader:
    """Works in a folder, and leaves no process behind."""

    folder: Path
    replaced: Mapping[str, str]
    """What stands in the pages -> what it is here, as the ports that are free."""
    _running: list[tuple[str, subprocess.Popen[str]]] = field(default_factory=list)

    def follow(self, page: Path) -> None:
        """Do all that a page says, in its order."""
        for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for old, new in self.replaced.items():
                text = text.replace(old, new)
            if kind == "console":
                for command, printed in _commands(text):
                    self._type(command, printed)
            elif match := _FILE.match(text):
                path = self.folder / match[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(match[2], encoding="utf-8")

    def _type(self, line: str, printed: list[str]) -> None:
        is_background = line.endswith(" &")
        command = shlex.split(line.removesuffix(" &"))
        if command[0] == "kill":
            self._end(command[1].removeprefix("%"))
        elif is_background:
            # What it logs is not compared.
            process = self._start(command, stderr=subprocess.DEVNULL)
            self._running.append((command[0], process))
            assert process.stdout is not None
            assert [process.stdout.readline().rstrip("\n")] == printed, line
        else:
            process = self._start(command, stderr=subprocess.STDOUT)
            out, _ = process.communicate(timeout=_WAIT_S)
            # Of a traceback pages have the last line.
            lines = out.splitlines()
            is_traceback = bool(lines) and lines[0].startswith("Traceback ")
            assert (lines[-1:] if is_traceback else lines) == printed, f"{line}\n{out}"

    def _start(self, command: list[str], *, stderr: int) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.folder, env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip

    def _end(self, name: str) -> None:
        started = next(each for each in reversed(self._running) if each[0].startswith(name))
        self._running.remove(started)
        _, process = started
        process.terminate()
        process.communicate(timeout=_WAIT_S)

    def close(self) -> None:
        """End what runs."""
        for _, process in reversed(self._running):
            process.kill()
            process.communicate()


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a block, and the lines that it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *printed = part.splitlines()
        yield command, printed
