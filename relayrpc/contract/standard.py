"""
The files that every protobuf runtime has: google/protobuf/*.proto. Pure.

They are left out of descriptor sets, and whoever reads a set adds its own: they differ a little
from release to release (descriptor.proto in each), and would make one contract look like many.
Owns: which files those are. Does not own: their content, which is this runtime's.
"""

from __future__ import annotations

import functools
import importlib
from typing import Final

from google.protobuf import descriptor_pool


__all__ = ["STANDARD_FILES", "standard_file", "standard_file_of", "standard_pool"]

STANDARD_FILES: Final = frozenset(
    f"google/protobuf/{name}.proto"
    for name in (
        "any",
        "api",
        "compiler/plugin",
        "descriptor",
        "duration",
        "empty",
        "field_mask",
        "source_context",
        "struct",
        "timestamp",
        "type",
        "wrappers",
    )
)
"""Part of the fingerprint's definition: one more or less changes fingerprints."""


def standard_pool() -> descriptor_pool.DescriptorPool:
    """Make a pool with these files and nothing else."""
    pool = descriptor_pool.DescriptorPool()
    for data in _contents().values():
        pool.AddSerializedFile(data)
    return pool


def standard_file(name: str) -> bytes:
    """Return one of them, serialized."""
    return _contents()[name]


def standard_file_of(symbol: str) -> str | None:
    """Return the name of the one that declares something; None: none does."""
    try:
        return _shared_pool().FindFileContainingSymbol(symbol).name
    except KeyError:
        return None


@functools.cache
def _contents() -> dict[str, bytes]:
    """Return them by name, each behind what it imports."""
    found: dict[str, bytes] = {}
    names = sorted(STANDARD_FILES, reverse=True)
    while names:
        path = names[-1].removesuffix(".proto").replace("/", ".")
        file = importlib.import_module(f"{path}_pb2").DESCRIPTOR
        missing = [other.name for other in file.dependencies if other.name not in found]
        names += missing
        if not missing:
            found[names.pop()] = file.serialized_pb
    return found


@functools.cache
def _shared_pool() -> descriptor_pool.DescriptorPool:
    return standard_pool()
