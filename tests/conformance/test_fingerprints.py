"""
Contracts have the fingerprints that the vectors say. Goal: one contract has one name, whoever
built it.

Method: protoc compiles the texts of each vector; what it makes, and what generated code holds, is
brought into normal form, by both of protobuf's implementations.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from relayrpc.contract.descriptors import checked
from relayrpc.contract.fingerprint import fingerprint_of, normalise
from tests.support.contracts import set_pool


ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("fingerprints")
VECTORS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")
}
# Imports the module of the root as generated, and prints the fingerprint of its contract.
OF_GENERATED_CODE = """
import importlib, sys
from google.protobuf.internal import api_implementation
from relayrpc.contract.descriptors import collect
from relayrpc.contract.fingerprint import fingerprint_of
assert api_implementation.Type() == sys.argv[2]
root = importlib.import_module(sys.argv[1]).DESCRIPTOR
print(fingerprint_of(collect(root)).hex())
"""


def protoc(protos: dict[str, str], folder: Path, *outputs: str) -> None:
    for name, text in protos.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", *outputs, *protos]
    subprocess.run(command, check=True, capture_output=True)


def compiled(protos: dict[str, str], folder: Path) -> dict[str, bytes]:
    """Compile to serialized files by name, with all that protoc can add."""
    made = folder / "set"
    protoc(
        protos,
        folder,
        f"--descriptor_set_out={made}",
        "--include_imports",
        "--include_source_info",
    )
    files = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    return {file.name: file.SerializeToString() for file in files}


@pytest.mark.parametrize("name", VECTORS)
def test_files_have_the_fingerprint(name: str, tmp_path: Path) -> None:
    vector = VECTORS[name]
    for protos in (vector["protos"], *vector["same"]):
        normal = normalise(compiled(protos, tmp_path), vector["root"])
        assert base64.b64encode(normal).decode() == vector["normal"]
        assert fingerprint_of(normal).hex() == vector["fingerprint"]


@pytest.mark.parametrize("name", VECTORS)
def test_normal_form_is_a_set_that_can_be_used(name: str) -> None:
    vector = VECTORS[name]
    found = checked(base64.b64decode(vector["normal"]))
    assert found.fingerprint.hex() == vector["fingerprint"]
    for service in found.services:
        assert found.file_of_symbol(service) == vector["root"]
        assert set_pool(found.data).FindServiceByName(service).full_name == service


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("name", VECTORS)
def test_generated_code_has_the_fingerprint(
    name: str, implementation: str, tmp_path: Path
) -> None:
    vector = VECTORS[name]
    protoc(vector["protos"], tmp_path, f"--python_out={tmp_path}")
    module = vector["root"].removesuffix(".proto") + "_pb2"
    paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", OF_GENERATED_CODE, module, implementation],
        env={**os.environ, **paths, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == vector["fingerprint"]


def test_vectors_have_different_fingerprints() -> None:
    assert len({vector["fingerprint"] for vector in VECTORS.values()}) == len(VECTORS) > 5


def test_runner_notices_another_contract(tmp_path: Path) -> None:
    vector: dict[str, Any] = VECTORS["plain"]
    changed = {name: text.replace("first_name", "name") for name, text in vector["protos"].items()}
    normal = normalise(compiled(changed, tmp_path), vector["root"])
    assert fingerprint_of(normal).hex() != vector["fingerprint"]
