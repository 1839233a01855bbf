"""
Where the imports of .proto files begin, and what is found from there.

Owns: the folder of those who do not say it with -I. Does not own: compiling (compiling.py).
Source: docs/reference/codegen.md, "Imports".
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from relayrpc.errors import ConfigError
from relayrpc.protos import include_folder


__all__ = ["Includes", "find_root", "installed_folders"]

# A comment, or a string, in which nothing begins one.
_COMMENT: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""", re.DOTALL
)
_IMPORT: Final = re.compile(r"""\bimport\s+(?:\w+\s+)?["']([^"'\n]+)["']\s*;""")
_PACKAGE: Final = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)


def installed_folders() -> list[Path]:
    """Return where the protos of installed packages are: the relay's, google.rpc's and such."""
    folders = [include_folder()]
    google = importlib.util.find_spec("google.rpc")
    assert google is not None
    assert google.submodule_search_locations is not None
    folders += [Path(place).resolve().parents[1] for place in google.submodule_search_locations]
    return list(dict.fromkeys(folders))


def find_root(proto: Path, installed: Iterable[Path]) -> Path:
    """
    Find the folder that the imports of a file begin from.

    Args:
        proto: A file that is there.
        installed: Folders in which imports are found, too.

    Returns:
        The folder that the file's package stands below, where folders are called as the package is;
        else the nearest one above the file from which all imports are found; else the file's own.
    """
    text = _COMMENT.sub(
        lambda match: match[1] or " ", proto.read_text(encoding="utf-8", errors="replace")
    )
    imports = [
        name
        for name in _IMPORT.findall(text)
        if not any((folder / name).is_file() for folder in installed)
    ]
    candidates = list(proto.parents)
    package = _PACKAGE.search(text)
    parts = package[1].split(".") if package else []
    if len(parts) < len(candidates) and list(proto.parent.parts[-len(parts) :]) == parts:
        candidates.insert(0, candidates[len(parts)])
    for folder in candidates:
        if all((folder / name).is_file() for name in imports):
            return folder
    return proto.parent


class Includes:
    """
    The folders that imports are looked for in, and what the user's files are called from there.

    Attributes:
        own: The user's.
        folders: The user's, then those of installed packages.
        names: The user's files as other files import them, in their order.
    """

    def __init__(self, protos: Sequence[str], given: Sequence[str]) -> None:
        """
        Args:
            protos: The user's files.
            given: What was said with -I; none: it is found out.

        Raises:
            ConfigError: There is no such file or folder, or a file is below none of them.
        """
        for proto in protos:
            if not Path(proto).is_file():
                raise ConfigError(f"{proto}: no such file")
        for folder in given:
            if not Path(folder).is_dir():
                raise ConfigError(f"-I {folder}: no such folder")
        self._installed = installed_folders()
        roots = [Path(folder) for folder in given]
        roots = roots or [find_root(Path(proto), self._installed) for proto in protos]
        self.own = list(dict.fromkeys(roots))
        self.folders = [*self.own, *self._installed]
        self.names = [self._name(Path(proto)) for proto in protos]

    def _name(self, proto: Path) -> str:
        for folder in self.own:
            if proto.resolve().is_relative_to(folder.resolve()):
                name = proto.resolve().relative_to(folder.resolve()).as_posix()
                found = self.path(name)
                assert found is not None
                if not found.samefile(proto):
                    raise ConfigError(f"{proto} is hidden by {found}, which is called the same")
                return name
        raise ConfigError(f"{proto} is below none of the folders given with -I")

    def path(self, name: str) -> Path | None:
        """Return where a file is that is imported by a name; None: it is protobuf's own."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def with_paths(self, text: str) -> str:
        """Say of lines that begin with the name of a file where that is."""
        lines = []
        for line in text.splitlines():
            name, colon, rest = line.partition(":")
            lines.append(f"{self.path(name) or name}{colon}{rest}" if name else line)
        return "\n".join(lines)

    def is_own(self, name: str) -> bool:
        """Say whether a file is the user's, and none that is installed with its code."""
        return name in self.names or (
            any((folder / name).is_file() for folder in self.own)
            and not any((folder / name).is_file() for folder in self._installed)
            and not name.startswith("google/protobuf/")
        )
