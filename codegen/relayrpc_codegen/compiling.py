"""
Compiles .proto files and generates all code from them, with the protoc of grpcio-tools.

Owns: running it, and what is said of its complaints. Does not own: where imports are found
(includes.py), the text of our own modules (plugin.py).
Source: docs/reference/codegen.md; the extra [codegen].
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from relayrpc.contract.fingerprint import leave_out_defaults
from relayrpc.errors import ConfigError
from relayrpc.extras import needs_extra
from relayrpc_codegen.includes import Includes
from relayrpc_codegen.plugin import generate


__all__ = ["Generated", "compile_protos", "generate_code"]

_COMPLAINTS_MAX: Final = 10
_NOT_FOUND: Final = re.compile(r"(.+): File not found\.")
_IMPORT_FAILED: Final = re.compile(r'(.+:\d+):\d+: Import "(.+)" was not found or had errors\.')


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A file of generated code."""

    path: str
    """Below the folder for all of them: "contoso/orders_pb2.py"."""
    data: bytes

    @property
    def is_python(self) -> bool:
        """Whether Python can read it: protoc writes names that are keywords as they are."""
        try:
            ast.parse(self.data)
        except SyntaxError:
            return False
        return True


def compile_protos(includes: Includes) -> FileDescriptorSet:
    """
    Compile the user's files.

    Returns:
        They and all that they import, each behind what it imports, with source code info.

    Raises:
        ConfigError: They cannot be compiled, and why; or grpcio-tools is not installed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set"
        folders = [f"-I{folder}" for folder in includes.folders]
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={target}"]
        told = _run_protoc(*folders, *options, *includes.names)
        if told is not None:
            raise ConfigError("\n".join(_complaints(told, includes.own)))
        return FileDescriptorSet.FromString(target.read_bytes())


def generate_code(files: FileDescriptorSet, wanted: Sequence[str]) -> list[Generated]:
    """
    Generate messages with their types, plain stubs, and typed callers and servicers.

    Args:
        files: The wanted ones and all that they import, each behind what it imports.
        wanted: Names of files.

    Returns:
        In the order of the paths.

    Raises:
        ConfigError: Contract options contradict each other, or grpcio-tools is not installed.
    """
    response = generate(CodeGeneratorRequest(file_to_generate=wanted, proto_file=files.file))
    if response.error:
        raise ConfigError(response.error)
    made = [
        Generated(path=file.name, data=file.content.encode()) for file in response.file
    ]
    with_services = [file.name for file in files.file if file.service and file.name in wanted]
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "set", Path(scratch) / "code"
        plain = FileDescriptorSet.FromString(files.SerializeToString())
        # A set has names of fields in JSON that protoc does not write into code on its own.
        leave_out_defaults(plain)
        source.write_bytes(plain.SerializeToString())
        target.mkdir()
        for kinds, names in (("python", "pyi"), wanted), (("grpc_python",), with_services):
            outputs = [f"--{kind}_out={target}" for kind in kinds]
            told = _run_protoc(f"--descriptor_set_in={source}", *outputs, *names) if names else None
            if told is not None:
                raise ConfigError("\n".join(_complaints(told, ())))
        made += [
            Generated(path=path.relative_to(target).as_posix(), data=path.read_bytes())
            for path in target.rglob("*.py*")
        ]
    return sorted(made, key=lambda each: each.path)


def _run_protoc(*arguments: str) -> str | None:
    """Run it; returns what it said if it failed."""
    with needs_extra("codegen", what="compiling .proto files"):
        import grpc_tools  # noqa: F401  # it runs in a process of its own
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else None


def _complaints(told: str, folders: Sequence[Path]) -> Iterator[str]:
    """Yield what protoc found, without what only follows from it."""
    lines = told.splitlines() or ["protoc failed and said nothing"]
    lacking = {match[1] for line in lines if (match := _NOT_FOUND.fullmatch(line))}
    imports = [match for line in lines if (match := _IMPORT_FAILED.fullmatch(line))]
    found = [
        f'{match[1]}: imports "{match[2]}", which is not below {", ".join(map(str, folders))}; '
        "name the folder that its imports begin from with -I"
        for match in imports
        if match[2] in lacking
    ] or [line for line in lines if not _IMPORT_FAILED.fullmatch(line)]
    yield from found[:_COMPLAINTS_MAX]
    if len(found) > _COMPLAINTS_MAX:
        yield f"and {len(found) - _COMPLAINTS_MAX} more"
