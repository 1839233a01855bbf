"""
Descriptors are written as .proto files that mean the same. Goal: compiled again, they give the very
same contract. Method: the contracts that other tests are made of, written and compiled by protoc.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from relayrpc.contract.descriptors import load_pool
from relayrpc.contract.fingerprint import normalise, parse_file
from relayrpc.contract.proto_text import proto_text
from relayrpc.contract.standard import STANDARD_FILES
from tests.conformance.compatibility.table import PAIRS
from tests.support.contracts import make_file, make_pool


ROOT = Path(__file__).resolve().parents[2]
VECTORS = [
    path
    for path in sorted((ROOT / "tests" / "conformance" / "fingerprints").glob("*.json"))
    # The declarations of its options are no part of the contract.
    if path.stem != "option_imports"
]
CASES = ROOT / "tests" / "codegen" / "protos"

Texts = Mapping[str, str]


def compiled(texts: Texts, folder: Path) -> dict[str, bytes]:
    """Compile files; returns them and all that they import, by name."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    made = folder / "set"
    includes = [f"-I{folder}", f"-I{ROOT / 'protos'}"]
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *includes, "--include_imports",
         f"--descriptor_set_out={made}", *texts],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    files = FileDescriptorSet.FromString(made.read_bytes()).file
    return {
        file.name: file.SerializeToString() for file in files if file.name not in STANDARD_FILES
    }


def written(files: Mapping[str, bytes]) -> Texts:
    """Write files, as they are in normal form."""
    texts: dict[str, str] = {}
    for name in files:
        pool, file = load(files, name)
        texts[name] = proto_text(file, pool)
    return texts


def load(
    files: Mapping[str, bytes], name: str
) -> tuple[DescriptorPool, FileDescriptorProto]:
    closed = {
        file.name: file.SerializeToString()
        for file in FileDescriptorSet.FromString(normalise(files, name)).file
    }
    return load_pool(closed), parse_file(closed[name])


def check(texts: Texts, folder: Path) -> None:
    """Compile, write, compile again, and compare."""
    before = compiled(texts, folder / "before")
    after = compiled(written(before), folder / "after")
    differing = [name for name in texts if normalise(before, name) != normalise(after, name)]
    assert not differing


def texts_below(folder: Path) -> Texts:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.proto")
    }


def test_files_of_the_generator_are_written_as_they_were(tmp_path: Path) -> None:
    """Keywords, collisions, nested types, groups, editions, comments, no package ..."""
    check(texts_below(CASES), tmp_path)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_of_fingerprints_are_written_as_they_were(path: Path, tmp_path: Path) -> None:
    check(json.loads(path.read_text(encoding="utf-8"))["protos"], tmp_path)


@pytest.mark.parametrize("side", ["old", "new"])
def test_versions_of_the_compatibility_table_are_written_as_they_were(
    side: str, tmp_path: Path
) -> None:
    """Every rule of the language that compatibility depends on."""
    check(merged(getattr(pair, side) for pair in PAIRS), tmp_path)


def merged(sides: Iterable[Texts]) -> Texts:
    return {name: text for side in sides for name, text in side.items()}


def test_own_contracts_are_written_as_they_were(tmp_path: Path) -> None:
    protos = ROOT / "protos"
    texts = {name: text for name, text in texts_below(protos).items() if "link" not in name}
    check(texts, tmp_path)


def test_text_is_as_somebody_would_write_it() -> None:
    file = make_file("shop/orders.proto", package="shop", fields={"id": 1, "next": 2})
    assert proto_text(file, make_pool(file)) == (
        'syntax = "proto3";\n'
        "\n"
        "package shop;\n"
        "\n"
        "service Service {\n"
        "  rpc Do(M) returns (M);\n"
        "}\n"
        "\n"
        "message M {\n"
        "  int32 id = 1;\n"
        "  int32 next = 2;\n"
        "}\n"
    )
