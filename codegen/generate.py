"""
Writes what is committed but derived (protobuf code, parts of the reference), or checks for drift.

Owns: which files, or parts of pages, are generated from what. Never edits what is written by hand.
Source: docs/adr/0008-generated-code.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codegen import (
    compatibility_page,
    configuration_page,
    limits_page,
    logs_page,
    metrics_page,
    options_page,
    state_table,
)


__all__ = ["JOBS", "Job", "differences", "generate", "main"]

ROOT: Final = Path(__file__).resolve().parent.parent


_MESSAGES: Final = ("python", "pyi")
_STUBS: Final = (*_MESSAGES, "grpc_python")
_TYPED: Final = ("relayrpc",)
_GENERATED: Final = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_relay.py")
_CASES: Final = "tests/codegen/protos"
_PLUGIN: Final = Path(sys.executable).with_name("protoc-gen-relayrpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Some .proto files that are compiled together."""

    include: str
    """Folder that the import paths in the .proto files start from, relative to the repository."""
    protos: str
    """Folder below `include` whose .proto files are compiled."""
    outputs: tuple[str, ...] = _MESSAGES
    """Of protoc; the relay's own carriers use raw methods, and need no stubs."""
    into: str = "."
    """Folder that stands for `include` where the files are written."""


JOBS: Final = (
    Job(include="protos", protos="relayrpc/v1"),
    Job(include=".", protos="samples/greeter", outputs=_STUBS),
    Job(include=".", protos="samples/chat", outputs=(*_MESSAGES, *_TYPED)),
    Job(include=".", protos="samples/orders", outputs=(*_MESSAGES, *_TYPED)),
    Job(include=".", protos="tests/interop", outputs=_STUBS),
    Job(include=".", protos="benchmarks", outputs=_STUBS),
    Job(include=_CASES, into=_CASES, protos="cases", outputs=_TYPED),
)
_PARTS_OF_PAGES: Final = (
    state_table,
    metrics_page,
    logs_page,
    configuration_page,
    compatibility_page,
    options_page,
)


def generate(job: Job, target: Path) -> list[Path]:
    """
    Compile one job's files.

    Args:
        job: What to compile.
        target: Folder that stands for the repository's root.

    Returns:
        The files written, relative to `target`, sorted.

    Raises:
        subprocess.CalledProcessError: If protoc refuses a file; its own message is on stderr.
    """
    include = ROOT / job.include
    into = target / job.into
    into.mkdir(parents=True, exist_ok=True)
    found = (include / job.protos).rglob("*.proto")
    protos = sorted(str(path.relative_to(include)) for path in found)
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{include}", f"-I{ROOT / 'protos'}",
        f"--plugin=protoc-gen-relayrpc={_PLUGIN}",
        *(f"--{output}_out={into}" for output in job.outputs), *protos,
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT)
    return _generated(target, job)


def _generated(root: Path, job: Job) -> list[Path]:
    """Find a job's files below what stands for the repository's root."""
    found = (root / job.into / job.protos).rglob("*.py*")
    return sorted(path.relative_to(root) for path in found if path.name.endswith(_GENERATED))


def differences() -> list[str]:
    """
    Compare what is committed with what would be written.

    Returns:
        One sentence per file that differs, is missing or is left over; empty when all is well.
    """
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        for job in JOBS:
            written = generate(job, target)
            left_over = set(_generated(ROOT, job)) - set(written)
            problems += [f"{path} has no .proto file" for path in sorted(left_over)]
            for path in written:
                if not (ROOT / path).is_file():
                    problems.append(f"{path} is missing")
                elif (ROOT / path).read_bytes() != (target / path).read_bytes():
                    problems.append(f"{path} differs from its .proto file")
    page = limits_page.PAGE
    if not page.is_file() or page.read_text(encoding="utf-8") != limits_page.render():
        problems.append(f"docs/reference/{page.name} differs from relayrpc/limits.py")
    for part in _PARTS_OF_PAGES:
        text = part.PAGE.read_text(encoding="utf-8")
        if text != part.render(text):
            problems.append(f"docs/reference/{part.PAGE.name} differs from {part.SOURCE}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    if parser.parse_args().check:
        problems = differences()
        for problem in problems:
            print(f"{problem}; run `make gen`", file=sys.stderr)
        return 1 if problems else 0
    for job in JOBS:
        for path in generate(job, ROOT):
            print(path)
    limits_page.PAGE.write_text(limits_page.render(), encoding="utf-8")
    print(limits_page.PAGE.relative_to(ROOT))
    for part in _PARTS_OF_PAGES:
        text = part.PAGE.read_text(encoding="utf-8")
        part.PAGE.write_text(part.render(text), encoding="utf-8")
        print(part.PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
