"""Protos compiled for tests, by the protoc of grpcio-tools in this process."""

from __future__ import annotations

import importlib.resources
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


__all__ = ["compile_set"]

_PROTOS = Path(__file__).resolve().parent.parent.parent / "protos"


def compile_set(folder: Path, *names: str) -> FileDescriptorSet:
    """
    Compile protos, with the relay's own and protobuf's at hand.

    Args:
        folder: Where their import paths begin.
        names: Of the protos, relative to it.

    Returns:
        They and all that they import, each behind what it imports, with source code info.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set"
        standard = importlib.resources.files("grpc_tools") / "_proto"
        arguments = [f"-I{include}" for include in (folder, _PROTOS, standard)]
        arguments += ["--include_imports", "--include_source_info"]
        arguments += [f"--descriptor_set_out={target}", *names]
        assert protoc.main(["protoc", *arguments]) == 0
        return FileDescriptorSet.FromString(target.read_bytes())
