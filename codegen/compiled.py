"""
Compiles .proto files in this process, with the protoc of grpcio-tools.

Owns: where imports are found. Does not own: what is made of the descriptors (options_page.py, ...).
"""

from __future__ import annotations

import importlib.resources
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from relayrpc.protos import include_folder


__all__ = ["compile_set"]


def compile_set(folder: Path, *names: str) -> FileDescriptorSet:
    """
    Compile .proto files, with the relay's own and protobuf's at hand.

    Args:
        folder: Where their import paths begin.
        names: Of the files, relative to it.

    Returns:
        They and all that they import, each behind what it imports, with source code info.

    Raises:
        ValueError: protoc refused them; why is on standard error.
    """
    standard = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set"
        arguments = [f"-I{include}" for include in (folder, include_folder(), standard)]
        arguments += ["--include_imports", "--include_source_info"]
        arguments += [f"--descriptor_set_out={target}", *names]
        if protoc.main(["protoc", *arguments]):
            raise ValueError(f"protoc refused {', '.join(names)}")
        return FileDescriptorSet.FromString(target.read_bytes())
