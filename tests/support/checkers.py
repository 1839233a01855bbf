"""Type checkers, run as users run them: mypy of this environment, pyright from npm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import pytest


__all__ = ["Complaint", "needs_pyright", "run_mypy", "run_pyright"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_PYRIGHT: Final = _ROOT / "tests" / "typing" / "pyright" / "node_modules" / ".bin" / "pyright"
_MYPY_LINE: Final = re.compile(r"(?P<file>.+?):(?P<line>\d+): error: .* {2}\[(?P<code>[a-z-]+)\]$")

needs_pyright: Final = pytest.mark.skipif(
    shutil.which("node") is None or not _PYRIGHT.exists(),
    reason="needs Node.js and the package of tests/typing/pyright, which `make test` installs",
)


class Complaint(NamedTuple):
    """An error that a checker found."""

    file: str
    """Its name, without the folder."""
    line: int
    code: str
    """The checker's name of the kind of mistake."""


def run_mypy(
    files: Iterable[Path], *options: str, folder: Path, path: Path | None = None
) -> tuple[set[Complaint], str]:
    """
    Run `mypy --strict`.

    Args:
        folder: Where imports are found; what is said of files elsewhere is left out.
        path: More of such folders.

    Returns:
        What it finds, and all that it prints.
    """
    search = os.pathsep.join(str(each) for each in (folder, path) if each is not None)
    cache = _ROOT / ".mypy_cache" / "typing"
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases",
            "--config-file=", f"--cache-dir={cache}", *options, *map(str, files),
        ],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "MYPYPATH": search},
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = {
        Complaint(Path(match["file"]).name, int(match["line"]), match["code"])
        for line in done.stdout.splitlines()
        if (match := _MYPY_LINE.match(line)) and not match["file"].startswith(("/", ".."))
    }
    return found, done.stdout


def run_pyright(files: Iterable[Path], *, folder: Path) -> tuple[set[Complaint], str]:
    """
    Run pyright in its strict mode.

    Args:
        folder: Where imports are found; a file that says how strict to be is written there.

    Returns:
        What it finds, and all that it prints.
    """
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = subprocess.run(
        [_PYRIGHT, "--outputjson", "--pythonpath", sys.executable, *files],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = {
        Complaint(
            Path(each["file"]).name, each["range"]["start"]["line"] + 1, each.get("rule", "syntax")
        )
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }
    return found, done.stdout
