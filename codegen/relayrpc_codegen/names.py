"""
Python's names for what .proto files name. Pure.

Owns: modules, and names that Python or the generated code has for itself. Does not own: which names
those are in a file (reading.py).
Source: protobuf's own Python generator, for modules; docs/reference/codegen.md, "Names".
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from relayrpc.errors import ContractError


__all__ = [
    "aliases",
    "can_be_imported",
    "fault_names",
    "is_free",
    "messages_module",
    "module_path",
    "rename",
    "require_names",
]

_SUFFIX: Final = "_relay"
# What stands in no name.
_NO_NAME: Final = re.compile(r"\W")
_FULL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def require_names(proto: str, full_names: Iterable[str]) -> None:
    """
    Check names that become paths and text; protoc's are good, others' may be anything.

    Args:
        proto: Name of a file.
        full_names: Of what is in it.

    Raises:
        ContractError: The file would be written elsewhere, or a name is none.
    """
    is_path = all(part not in ("", ".", "..") for part in proto.split("/"))
    if not is_path or not proto.isprintable() or set(proto) & set("\"\\"):
        raise ContractError(f"nothing can be generated from a file called {proto!r}")
    for name in full_names:
        if not _FULL_NAME.fullmatch(name):
            raise ContractError(f"{proto}: {name!r} is no name")


def messages_module(proto: str) -> str:
    """Return the module of a file's messages: "a/b-c.proto" -> "a.b_c_pb2"."""
    return f"{_stem(proto)}_pb2"


def module_path(proto: str) -> str:
    """Return the path of what is generated from a file: "a/b-c.proto" -> "a/b_c_relay.py"."""
    return f"{_stem(proto).replace('.', '/')}{_SUFFIX}.py"


def _stem(proto: str) -> str:
    return proto.removesuffix(".proto").replace("-", "_").replace("/", ".")


def can_be_imported(module: str) -> bool:
    """Say whether an import statement can name a module."""
    return all(map(is_free, module.split(".")))


def is_free(name: str) -> bool:
    """Say whether a name can stand in a program's text."""
    return name.isidentifier() and not keyword.iskeyword(name)


def aliases(modules: Iterable[str]) -> dict[str, str]:
    """
    Name modules within the one that imports them: by their last part, where that is one module's
    and a name, else by all parts.

    Returns:
        Module -> name, in the order of the modules.
    """
    ordered = sorted(set(modules))
    count = Counter(_last(module) for module in ordered)
    taken: set[str] = set()
    found: dict[str, str] = {}
    for module in ordered:
        last = _last(module)
        is_short = count[last] == 1 and last.isidentifier()
        name = last if is_short else f"_{_NO_NAME.sub('_', module)}"
        while name in taken:
            name += "_"
        taken.add(name)
        found[module] = name
    return found


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def rename(
    names: Collection[str], reserved: Collection[str], *, prefix: str = "method"
) -> dict[str, str]:
    """
    Name a service's methods, or a message's fields, in Python. A name stays what it is, but for
    keywords, names that the generated code needs, and private ones.

    Args:
        names: Of all methods of a service, or all fields of a message.
        reserved: What cannot be a name there.
        prefix: Of those that are private.

    Returns:
        Name -> name in Python; no two are the same, and none begins with an underscore.
    """
    kept = {name for name in names if name[0] != "_" and is_free(name) and name not in reserved}
    found = {name: name for name in kept}
    taken = {*kept, *reserved}
    for name in names:
        if name not in kept:
            free = f"{prefix}{name}" if name[0] == "_" else f"{name}_"
            while free in taken:
                free += "_"
            taken.add(free)
            found[name] = free
    return found


def fault_names(messages: Mapping[str, str]) -> dict[str, str]:
    """
    Name the classes of faults: by the message's own name and those that it is nested in; where that
    is several messages', by their full names.

    Args:
        messages: Full name -> name within its package: "Order.Gone".

    Returns:
        Full name -> name of the class; no two are the same, and all end in "Fault".
    """
    short = {full_name: _fault_name(path) for full_name, path in messages.items()}
    count = Counter(short.values())
    taken: set[str] = set()
    found: dict[str, str] = {}
    for full_name, name in short.items():
        free = name if count[name] == 1 else _fault_name(full_name)
        while free in taken:
            free = f"{free.removesuffix('Fault')}_Fault"
        taken.add(free)
        found[full_name] = free
    return found


def _fault_name(path: str) -> str:
    name = "".join(part[:1].upper() + part[1:] for part in path.split("."))
    return name if name.endswith("Fault") else f"{name}Fault"
