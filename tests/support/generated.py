"""Modules generated from the protos of `tests/codegen`, by protoc and its plugins."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relayrpc.protos import include_folder


__all__ = ["PROTOS", "SHOP", "Cases", "generate_cases", "run_protoc"]

_ROOT: Final = Path(__file__).resolve().parents[2]
PROTOS: Final = _ROOT / "tests" / "codegen" / "protos"
SHOP: Final = _ROOT / "tests" / "support" / "shop.proto"
"""A service with faults."""


@dataclass(frozen=True)
class Cases:
    """Generated modules, by their names within the package `cases`."""

    folder: Path

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(f"cases.{name}")


def run_protoc(
    *arguments: str | Path, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """
    Run the protoc of grpcio-tools, which finds its plugins beside the interpreter.

    Args:
        variables: Of the environment, beside those of this process.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "grpc_tools.protoc", *map(str, arguments)]
    environment = {**os.environ, "PATH": path, **variables}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def generate_cases(folder: Path, *outputs: str, **variables: str) -> None:
    """Generate from all protos of `tests/codegen`; `outputs` are protoc's."""
    protos = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    kinds = [f"--{output}_out={folder}" for output in outputs]
    done = run_protoc(f"-I{PROTOS}", f"-I{include_folder()}", *kinds, *protos, **variables)
    assert done.returncode == 0, done.stderr
