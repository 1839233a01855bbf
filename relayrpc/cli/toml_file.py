"""
A TOML file, and on which line each of its keys stands.

Owns: reading it, a sentence for a file that cannot be used, finding lines. Does not own: what the
keys mean (config.py).
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relayrpc.errors import ConfigError
from relayrpc.limits import KIB


__all__ = ["ADDRESSES_TABLE", "BACKENDS_TABLE", "TOMLFile", "read_toml"]

BACKENDS_TABLE: Final = "expose"
"""Each of these is a server that `relayrpc expose` makes a host of; the rest is the hub's."""
ADDRESSES_TABLE: Final = "addresses"
"""In it is a table for each address of which something is said."""

_FILE_BYTES_MAX: Final = 64 * KIB
_TABLE: Final = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_KEY: Final = re.compile(r"\s*([\w\-.~/\"' ]+?)\s*=")
_LINE_AND_COLUMN: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True, slots=True)
class TOMLFile:
    """What a file says."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    """
    Dotted name of each table and key -> its line, from 1; of a list of tables "expose" for the
    first, "expose.0", "expose.1.at".
    """

    def where(self, name: str) -> str:
        """Return "relayrpc.toml:12" for a dotted name; one within an inline table has its line."""
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return f"{self.path}:{self.lines[name]}" if name else str(self.path)


def read_toml(path: Path) -> TOMLFile:
    """
    Read a file of at most 64 KiB.

    Raises:
        ConfigError: It cannot be read, or is no TOML.
    """
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _LINE_AND_COLUMN.search(str(error))
        reason = str(error).removesuffix(place[0] if place else " (at end of document)")
        line = f"{place[1]}:{place[2]}" if place else f"{text.count(chr(10)) + 1}"
        raise ConfigError(f"{path}:{line}: no TOML: {reason[0].lower()}{reason[1:]}") from error
    except (ValueError, RecursionError) as error:
        # Python's own bounds on digits and on tables in tables.
        raise ConfigError(f"{path}: too long a number, or too deep a table") from error
    return TOMLFile(path, values, _lines(text))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise ConfigError(f"{path}: more than {_FILE_BYTES_MAX} bytes; is it the right file?")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no TOML: it is not UTF-8") from error


def _lines(text: str) -> dict[str, int]:
    """Find where tables and keys begin. What looks like a key within a text counts as one."""
    lines: dict[str, int] = {}
    counts: Counter[str] = Counter()
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _TABLE.match(line):
            table = _dotted(match[2])
            lines.setdefault(table, number)
            if match[1] == "[[":
                name = table
                table = f"{name}.{counts[name]}"
                counts[name] += 1
                lines[table] = number
        elif match := _KEY.match(line):
            name = _dotted(match[1])
            lines.setdefault(f"{table}.{name}" if table else name, number)
    return lines


def _dotted(text: str) -> str:
    return ".".join(part.strip(" \t\"'") for part in text.split("."))
