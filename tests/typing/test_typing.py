"""
Goal: a program that uses a relay with generated stubs is type checked as one that uses grpcio.

Method: stubs that mypy-protobuf generates, types-grpcio's types, and `mypy --strict` on a program
without mistakes and on one whose lines say which they hold.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONTRACT = ROOT / "samples" / "greeter" / "greeter.proto"
EXPECTED = re.compile(r"# error: ([a-z-]+)$")
FOUND = re.compile(r"wrong\.py:(\d+): error: .* \[([a-z-]+)\]$")


def run(*command: str, cwd: Path) -> str:
    # The plugin of protoc stands beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_checker_finds_the_mistakes_and_nothing_else(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out=." for kind in ("pyi", "mypy_grpc")]
    run("grpc_tools.protoc", f"-I{CONTRACT.parent}", *outputs, CONTRACT.name, cwd=tmp_path)
    for program in ("right.py", "wrong.py"):
        (tmp_path / program).write_text((HERE / program).read_text(encoding="utf-8"))
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\n")
    cache = ROOT / ".mypy_cache" / "typing"
    printed = run(
        "mypy", f"--config-file={config}", f"--cache-dir={cache}", "right.py", "wrong.py",
        cwd=tmp_path,
    )  # fmt: skip
    expected = {
        (number, match[1])
        for number, line in enumerate((HERE / "wrong.py").read_text().splitlines(), start=1)
        if (match := EXPECTED.search(line))
    }
    errors = [line for line in printed.splitlines() if ": error: " in line]
    found = {(int(match[1]), match[2]) for line in errors if (match := FOUND.search(line))}
    assert found == expected, printed
    assert len(errors) == len(expected), printed
