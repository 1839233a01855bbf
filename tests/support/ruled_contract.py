"""The contract of ruled.proto, compiled with the options that come with protovalidate."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import protovalidate
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.descriptors import collect, load_pool
from relayrpc.contract.standard import STANDARD_FILES, standard_file


__all__ = ["CONTRACT", "DESCRIPTOR_SET", "POOL", "SERVICE", "Violations", "message_class"]

SERVICE: Final = "test.rules.Orders"

_PROTO: Final = Path(__file__).with_name("ruled.proto")


def _compile() -> dict[str, bytes]:
    """Return the files that protoc makes of it, by name."""
    options = protovalidate.ViolationsPb.desc().file.proto.to_binary()
    standard = [FileDescriptorProto.FromString(standard_file(name)) for name in STANDARD_FILES]
    with tempfile.TemporaryDirectory() as folder:
        known, made = Path(folder) / "known", Path(folder) / "made"
        files = [*standard, FileDescriptorProto.FromString(options)]
        known.write_bytes(FileDescriptorSet(file=files).SerializeToString())
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{_PROTO.parent}",
            f"--descriptor_set_in={known}", f"--descriptor_set_out={made}", "--include_imports",
            _PROTO.name,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        found = FileDescriptorSet.FromString(made.read_bytes()).file
    return {
        file.name: file.SerializeToString() for file in found if file.name not in STANDARD_FILES
    }


_FILES: Final = _compile()
POOL: Final = load_pool(_FILES)
CONTRACT: Final = collect(POOL.FindFileByName(_PROTO.name))
"""As a host announces it."""
DESCRIPTOR_SET: Final = FileDescriptorSet(
    file=map(FileDescriptorProto.FromString, _FILES.values())
).SerializeToString()


def message_class(name: str) -> Any:
    """Return the class of a message of the contract, by its short name."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"test.rules.{name}"))


Violations: Final[Any] = GetMessageClass(POOL.FindMessageTypeByName("buf.validate.Violations"))
