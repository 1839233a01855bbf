"""
Contracts in files: what is written of one, and read as one.

Owns: names of files, which of them get code. Does not own: their text (contract/proto_text.py), the
code (relayrpc_codegen).
Source: docs/reference/cli.md, "relayrpc contracts pull".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import typer
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from relayrpc.cli.codegen import write_code
from relayrpc.cli.schema import read_descriptors
from relayrpc.contract.descriptors import DescriptorSet, checked, load_pool, read_files
from relayrpc.contract.fingerprint import normalise, parse_file
from relayrpc.contract.proto_text import proto_text
from relayrpc.errors import ConfigError, ContractError, RelayError


__all__ = ["proto_texts", "read_contract", "write_contract"]


def proto_texts(descriptor_set: bytes) -> dict[str, str]:
    """
    Write the files of a set: name -> text, the one that defines the service last.

    Raises:
        RelayError: The set cannot be used.
    """
    try:
        files = read_files(descriptor_set)
        pool = load_pool(files)
    except ContractError as error:
        raise RelayError(f"the hub's descriptors cannot be used: {error}") from error
    return {name: proto_text(parse_file(data), pool) for name, data in files.items()}


def write_contract(descriptor_set: bytes, folder: str, *, has_code: bool) -> None:
    """
    Write the .proto files of a set, then their code.

    Raises:
        RelayError: The set cannot be used, or would write elsewhere.
        ConfigError: The code cannot be made.
        OSError: A file cannot be written.
    """
    texts = proto_texts(descriptor_set)
    for name in texts:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise RelayError(f"the contract has a file {name!r}, which would not be below {folder}")
    for name, text in texts.items():
        target = Path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        typer.echo(target)
    if has_code:
        _write_code(descriptor_set, Path(folder))


def _write_code(descriptor_set: bytes, folder: Path) -> None:
    from relayrpc_codegen.compiling import generate_code
    from relayrpc_codegen.includes import installed_folders

    installed = installed_folders()
    files = FileDescriptorSet.FromString(descriptor_set)
    own = [
        file.name
        for file in files.file
        if not any((place / file.name).is_file() for place in installed)
    ]
    write_code(generate_code(files, own), folder)


def read_contract(
    service: str,
    version: str,
    protos: Sequence[str],
    includes: Sequence[str],
    descriptor_set: str | None,
) -> DescriptorSet | None:
    """
    Read a contract from the user's files; None: none are named.

    Args:
        service: Full name of what it is to define.
        version: What --to says; it goes with no file.
        protos: .proto files.
        includes: Folders in which their imports are found.
        descriptor_set: A FileDescriptorSet with everything that is imported.

    Raises:
        ConfigError: It cannot be used; the text says what there is instead.
    """
    read = read_descriptors(protos=protos, includes=includes, descriptor_set=descriptor_set)
    if read is None:
        return None
    if version:
        raise ConfigError("--to and a file exclude each other")
    where, data = read
    try:
        files = read_files(data)
        pool = load_pool(files)
        root = pool.FindServiceByName(service).file.name
        return checked(normalise(files, root))
    except KeyError as error:
        raise ConfigError(f"{where}: there is no service {service!r} in it") from error
    except ContractError as error:
        raise ConfigError(f"{where}: {error}") from error
