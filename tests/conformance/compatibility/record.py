"""
Asks buf about every pair of table.py, and writes verdicts.json: the rules that each one breaks.

    python -m tests.conformance.compatibility.record

Owns: how buf is asked: one call answers for all pairs, as each has a package and a folder of its
own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.conformance.compatibility.table import PAIRS, Pair


__all__ = [
    "CATEGORIES",
    "PATH",
    "ask_buf",
    "ask_buf_about_files",
    "record",
    "rules_of_buf",
    "write_files",
]

PATH = Path(__file__).with_name("verdicts.json")
CATEGORIES = ("WIRE_JSON", "WIRE")
_BUF = Path(sysconfig.get_path("scripts")) / "buf"
_CONFIG = json.dumps({"version": "v2", "breaking": {"use": list(CATEGORIES)}})


def rules_of_buf() -> dict[str, set[str]]:
    """Return the rules that buf has, by category."""
    command = [_BUF, "config", "ls-breaking-rules", "--version", "v2", "--format", "json"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rules = [json.loads(line) for line in made.splitlines()]
    return {
        category: {rule["id"] for rule in rules if category in rule["categories"]}
        for category in CATEGORIES
    }


def write_files(texts: Mapping[str, str], folder: Path) -> None:
    """Write files below a folder, by their names."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def ask_buf(pairs: Collection[Pair]) -> dict[str, set[str]]:
    """Return the rules of both categories that each pair breaks, by its name."""
    found: dict[str, set[str]] = {pair.name: set() for pair in pairs}
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            write_files(pair.old, Path(folder, "old"))
            write_files(pair.new, Path(folder, "new"))
        for path, rule in _breaking(".", "../old", Path(folder, "new")):
            found[path.partition("/")[0]].add(rule)
    return found


def ask_buf_about_files(
    old: Collection[FileDescriptorProto], new: Collection[FileDescriptorProto]
) -> dict[str, set[str]]:
    """Return the rules of both categories that each file of the new ones breaks, by its name."""
    found: dict[str, set[str]] = {file.name: set() for file in new}
    with tempfile.TemporaryDirectory() as folder:
        for name, files in (("old.binpb", old), ("new.binpb", new)):
            Path(folder, name).write_bytes(FileDescriptorSet(file=files).SerializeToString())
        for path, rule in _breaking("new.binpb", "old.binpb", Path(folder)):
            found[path].add(rule)
    return found


def _breaking(new: str, old: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Run buf in a folder; yields file and rule of each difference."""
    command = [_BUF, "breaking", new, "--against", old, "--error-format", "json"]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [*command, "--config", _CONFIG],
            cwd=folder,
            env={**os.environ, "BUF_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    # 100 is buf's code for differences, and for files that do not compile.
    if done.returncode not in (0, 100) or '"COMPILE"' in done.stdout:
        raise RuntimeError(done.stdout + done.stderr)
    for line in done.stdout.splitlines():
        difference = json.loads(line)
        yield difference["path"], difference["type"]


def record() -> dict[str, dict[str, list[str]]]:
    """Return what verdicts.json holds: name of the pair -> category -> rules that it breaks."""
    said = ask_buf(PAIRS)
    rules = rules_of_buf()
    return {
        name: {category: sorted(broken & rules[category]) for category in CATEGORIES}
        for name, broken in said.items()
    }


def main() -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(verdict)}" for name, verdict in record().items()]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
