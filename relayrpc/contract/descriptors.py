"""
Descriptor sets of contracts: made from a pool, and read when they come from somebody else. Pure.

What a peer sent is checked in steps, so that whoever reads a large set can do something else in
between. What passes can be loaded by anything that reads descriptors.
Owns: what may be in a set, and what is found in one. Does not own: the normal form
(fingerprint.py).
Source: docs/adr/0016-contract-fingerprint.md; google/protobuf/descriptor.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from relayrpc.contract.contradictions import OptionsCheck
from relayrpc.contract.fingerprint import (
    fingerprint_of,
    import_order,
    normalise,
    parse_file,
    parse_set,
)
from relayrpc.contract.standard import (
    STANDARD_FILES,
    standard_file,
    standard_file_of,
    standard_pool,
)
from relayrpc.errors import ContractError
from relayrpc.limits import DEFAULT_LIMITS


if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.contract.options import ContractOptions
    from relayrpc.limits import Limits


__all__ = ["DescriptorSet", "checked", "collect", "load_pool", "read_files", "shown_few"]

_FILE_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,512}")
# Of FileDescriptorSet.file, and the only one that a set has.
_FILE_TAG: Final = 0x0A
# What a name that can be looked up costs beyond its characters.
_ENTRY_BYTES: Final = 192
_REFERENCE_BYTES: Final = 8
# As many are noted in one step.
_STEP_ENTRIES: Final = 1024
_SYMBOL_CHARS_MAX: Final = 1024
_REASON_CHARS_MAX: Final = 200
_SHOWN_CHARS_MAX: Final = 80
_SENTENCES_MAX: Final = 5
_SENTENCE_CHARS_MAX: Final = 400
# What a varint of this many bytes says is more than any file has.
_LENGTH_BYTES_MAX: Final = 4


def collect(file: FileDescriptor) -> bytes:
    """
    Return the descriptor set of the services that a file defines, in normal form.

    Raises:
        ContractError: The pool's descriptors contradict each other.
    """
    files: dict[str, bytes] = {}
    reached = [file]
    while reached:
        each = reached.pop()
        if each.name not in files:
            files[each.name] = each.serialized_pb
            reached += each.dependencies
    return normalise(files, file.name)


def read_files(descriptor_set: bytes) -> dict[str, bytes]:
    """
    Take a descriptor set apart, as compilers write it: name -> file, serialized, in its order.

    Raises:
        ContractError: It is none.
    """
    try:
        files = parse_set(descriptor_set).file
    except DecodeError as error:
        raise ContractError(_reason(error)) from error
    return {file.name: file.SerializeToString() for file in files}


def load_pool(files: Mapping[str, bytes]) -> DescriptorPool:
    """
    Load files, in whatever order they come, into a pool of their own.

    Args:
        files: Serialized FileDescriptorProtos by their names, with all that they import; protobuf's
            own may be missing, and are this runtime's.

    Raises:
        ContractError: They cannot be used together.
    """
    pool = standard_pool()
    try:
        imports = {name: list(parse_file(data).dependency) for name, data in files.items()}
        # What imports all of them comes last, and is none of them.
        for name in import_order({**imports, "": files}, "")[:-1]:
            pool.AddSerializedFile(files[name])
    except (DecodeError, TypeError) as error:
        raise ContractError(_reason(error)) from error
    return pool


class DescriptorSet:
    """
    One contract's descriptor set. Nothing but `data` and `fingerprint` may be used before `check()`
    is through.

    Attributes:
        data: A serialized FileDescriptorSet in normal form.
        fingerprint: Its 32 bytes.
        services: Full names of what its last file defines.
        contracts: Their options, by those names.
        weight_bytes: About what it takes of memory.
    """

    __slots__ = (
        "_declared",
        "_extensions",
        "_files",
        "_imports",
        "_types_count",
        "contracts",
        "data",
        "fingerprint",
        "services",
        "weight_bytes",
    )

    def __init__(self, data: bytes) -> None:
        """
        Args:
            data: What came.
        """
        self.data = data
        self.fingerprint = fingerprint_of(data)
        self.services: tuple[str, ...] = ()
        self.contracts: Mapping[str, ContractOptions] = {}
        self.weight_bytes = len(data)
        # By file name, in the order of the set: where in the data it is.
        self._files: dict[str, slice] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self._types_count = 0
        # Full names of what stands at the top of files -> the file's name.
        self._declared: dict[str, str] = {}
        # Full name of a message -> numbers of its extensions -> the file's name.
        self._extensions: dict[str, dict[int, str]] = {}

    def check(self, limits: Limits) -> Iterator[None]:
        """
        Check the set, a bounded part of it with each step. Once.

        Args:
            limits: `contract_*` count here.

        Raises:
            ContractError: It is too large, broken, not closed, or not in normal form; or options of
                its services contradict each other.
        """
        try:
            yield from self._check_files(limits)
        except (DecodeError, TypeError, KeyError, UnicodeDecodeError) as error:
            number = len(self._files) + 1
            raise ContractError(
                f"file {number} of the descriptor set cannot be used: {_reason(error)}"
            ) from error

    def _check_files(self, limits: Limits) -> Iterator[None]:
        pool = standard_pool()
        file = None
        for where in _split(self.data, limits):
            data = self.data[where]
            file = parse_file(data)
            self._check_form(file)
            self._count_types(file, limits)
            pool.AddSerializedFile(data)
            # Not every implementation looks at a file before somebody asks for it.
            pool.FindFileByName(file.name)
            self._files[file.name] = where
            self._imports[file.name] = tuple(file.dependency)
            yield
            yield from self._index(file)
        if file is None:
            raise ContractError("the descriptor set is empty")
        if import_order(self._imports, file.name) != list(self._files):
            raise ContractError(
                f"the descriptor set has other files than {file.name!r} imports, or in another "
                "order"
            )
        prefix = f"{file.package}." if file.package else ""
        self.services = tuple(f"{prefix}{service.name}" for service in file.service)
        yield from self._check_options(OptionsCheck(pool.FindFileByName(file.name), file))

    def _check_options(self, check: OptionsCheck) -> Iterator[None]:
        yield from check.steps()
        if check.found:
            raise ContractError(shown_few([str(each) for each in check.found]))
        self.contracts = check.contracts
        for contract in check.contracts.values():
            self.weight_bytes += _ENTRY_BYTES
            for operation in contract.operations.values():
                names_count = len(operation.faults) + len(operation.scopes)
                self.weight_bytes += _ENTRY_BYTES + _REFERENCE_BYTES * names_count
            yield

    def _check_form(self, file: FileDescriptorProto) -> None:
        name = file.name
        if not _FILE_NAME.fullmatch(name):
            raise ContractError(f"{name[:_SHOWN_CHARS_MAX]!r} is no name of a file")
        if name in STANDARD_FILES:
            raise ContractError(f"{name!r} is protobuf's own and has no place in a descriptor set")
        if name in self._files:
            raise ContractError(f"{name!r} is in the descriptor set twice")
        if file.HasField("source_code_info"):
            raise ContractError(f"{name!r} has source code info")
        for imported in file.dependency:
            if imported not in self:
                raise ContractError(
                    f"{name!r} imports {imported[:_SHOWN_CHARS_MAX]!r}, which does not stand "
                    "before it"
                )

    def _count_types(self, file: FileDescriptorProto, limits: Limits) -> None:
        self._types_count += len(file.service) + len(file.enum_type) + len(file.extension)
        for message in _messages(file):
            self._types_count += 1 + len(message.enum_type) + len(message.extension)
            if self._types_count > limits.contract_types_max:
                break
        if self._types_count > limits.contract_types_max:
            raise ContractError(
                f"the descriptor set declares more than {limits.contract_types_max} messages, "
                "enums, extensions and services"
            )

    # --- looking in ---

    def __contains__(self, file: str) -> bool:
        """Say whether there is a file of that name, in the set or in every runtime."""
        return file in self._files or file in STANDARD_FILES

    def files(self) -> Iterator[bytes]:
        """Yield its files, serialized, each behind what it imports."""
        yield from (self.data[where] for where in self._files.values())

    def with_imports(self, file: str) -> list[bytes]:
        """Return a file that is there, serialized, and behind it all that it needs."""
        found: dict[str, bytes] = {}
        names = [file]
        # The list grows while it is gone through.
        for name in names:
            if name in found:
                continue
            if name in self._files:
                found[name] = self.data[self._files[name]]
                names += self._imports[name]
            else:
                found[name] = standard_file(name)
                names += parse_file(found[name]).dependency
        return list(found.values())

    def file_of_symbol(self, symbol: str) -> str | None:
        """
        Return the name of the file that declares something; None: none does.

        Args:
            symbol: A full name: "pkg.Message", "pkg.Service.Method", "pkg.Message.field" ...
        """
        top = self.top_of(symbol)
        if top is None:
            return standard_file_of(symbol)
        name = self._declared[top]
        if top == symbol or _declares(parse_file(self.data[self._files[name]]), symbol):
            return name
        return None

    def top_of(self, symbol: str) -> str | None:
        """Return what stands at the top of a file and is or would hold a symbol; None: nothing."""
        top = symbol if len(symbol) <= _SYMBOL_CHARS_MAX else ""
        while top and top not in self._declared:
            top = top.rpartition(".")[0]
        return top or None

    def file_of_extension(self, message: str, number: int) -> str | None:
        """Return the name of the file that declares an extension; None: none does."""
        return self._extensions.get(message, {}).get(number)

    def extension_numbers(self, message: str) -> list[int]:
        """Return the numbers of a message's extensions, ascending."""
        return sorted(self._extensions.get(message, {}))

    # --- filling it ---

    def _index(self, file: FileDescriptorProto) -> Iterator[None]:
        """Note what a file declares, a bounded part of it with each step."""
        prefix = f"{file.package}." if file.package else ""
        for name in _top_names(file):
            self._declared[f"{prefix}{name}"] = file.name
            self.weight_bytes += _ENTRY_BYTES + len(name)
            if not len(self._declared) % _STEP_ENTRIES:
                yield
        extensions = list(file.extension)
        for count, message in enumerate(_messages(file), start=1):
            extensions += message.extension
            if not count % _STEP_ENTRIES:
                yield
        for extension in extensions:
            numbers = self._extensions.setdefault(extension.extendee.removeprefix("."), {})
            numbers[extension.number] = file.name
            self.weight_bytes += _ENTRY_BYTES


def checked(data: bytes, limits: Limits = DEFAULT_LIMITS) -> DescriptorSet:
    """
    Check a set all at once, as `DescriptorSet.check` does; for those who need not do anything else.

    Raises:
        ContractError: As there.
    """
    found = DescriptorSet(data)
    for _ in found.check(limits):
        pass
    return found


def shown_few(sentences: Sequence[str]) -> str:
    """Join sentences, as many as somebody reads at once."""
    shown = [sentence[:_SENTENCE_CHARS_MAX] for sentence in sentences[:_SENTENCES_MAX]]
    left = len(sentences) - len(shown)
    return "; ".join(shown) + (f"; and {left} more" if left else "")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_REASON_CHARS_MAX]


def _top_names(file: FileDescriptorProto) -> Iterator[str]:
    for group in (file.message_type, file.service, file.extension, file.enum_type):
        yield from (each.name for each in group)
    for enum in file.enum_type:
        # Values stand beside their enum.
        yield from (value.name for value in enum.value)


def _messages(file: FileDescriptorProto) -> Iterator[DescriptorProto]:
    """Yield every message of a file, those within others too."""
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        yield message
        messages += message.nested_type


def _split(data: bytes, limits: Limits) -> Iterator[slice]:
    """
    Yield where each file of a set stands. Nothing is parsed for it: a set of empty messages would
    take a hundred times its size.
    """
    if len(data) > limits.contract_bytes_max:
        raise ContractError(
            f"the descriptor set has {len(data)} bytes, over {limits.contract_bytes_max}"
        )
    at = count = 0
    while at < len(data):
        size, begin = _read_length(data, at + 1)
        if data[at] != _FILE_TAG or begin + size > len(data):
            raise ContractError("the bytes are no descriptor set")
        if size > limits.contract_file_bytes_max:
            raise ContractError(
                f"a file of the descriptor set has {size} bytes, over "
                f"{limits.contract_file_bytes_max}"
            )
        count += 1
        if count > limits.contract_files_max:
            raise ContractError(
                f"the descriptor set has more than {limits.contract_files_max} files"
            )
        at = begin + size
        yield slice(begin, at)


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """Read a varint; returns it and where it ends."""
    size = 0
    for index, byte in enumerate(data[at : at + _LENGTH_BYTES_MAX]):
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return size, at + index + 1
    raise ContractError("the bytes are no descriptor set")


def _declares(file: FileDescriptorProto, symbol: str) -> bool:
    """Say whether something within a message or service of a file has a full name."""
    top, *path = symbol.removeprefix(f"{file.package}." if file.package else "").split(".")
    for service in file.service:
        if service.name == top:
            return any([method.name] == path for method in service.method)
    return any(_has(message, path) for message in file.message_type if message.name == top)


def _has(message: DescriptorProto, path: Sequence[str]) -> bool:
    """Say whether a message holds what a path names, its first part directly."""
    while True:
        name, *path = path
        inner = next((each for each in message.nested_type if each.name == name), None)
        if inner is None:
            break
        if not path:
            return True
        message = inner
    if path:
        return False
    # Values stand beside their enum.
    values = (value for enum in message.enum_type for value in enum.value)
    parts = (message.field, message.oneof_decl, message.enum_type, message.extension, values)
    return any(part.name == name for group in parts for part in group)
