"""
What must not drift unseen, as functions from source text to complaints.

Each rule looks at one file; `test_tidy.py` runs them over the repository and shows, on a few lines
of bad code each, that they can fail.
Source: docs/ARCHITECTURE.md, "Codemap" and "What never happens".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final


__all__ = [
    "LAYERS",
    "PURE",
    "PURE_FILES",
    "RULES",
    "SURFACE",
    "Rule",
    "banned_calls",
    "decoding_asserts",
    "json_mapping",
    "layers",
    "module_docstring",
    "pure_imports",
    "todo_without_issue",
    "unreferenced",
]

Rule = Callable[[PurePosixPath, str], list[str]]

LAYERS: Final[dict[str, int]] = {
    "errors": 0,
    "limits": 0,
    "v1": 0,
    "extras": 1,
    "protos": 1,
    "link": 1,
    "auth": 1,
    "contract": 1,
    "observe": 1,
    "carrier": 2,
    "endpoint": 3,
    "store": 3,
    "hub": 4,
    "gateway": 5,
    "agent": 5,
    "events": 5,
    "cli": 6,
    "dashboard": 6,
}
"""Part of the package -> its height; a part imports only itself and what is lower."""

_KNOWS_ONLY: Final[dict[str, set[str]]] = {"store": {"errors", "limits"}}
"""Part of the package -> all that it may import, where that is less than what is lower."""

SURFACE: Final[dict[str, int]] = {
    "__init__": LAYERS["hub"],
    "_sync": LAYERS["hub"],
    "aio": LAYERS["hub"],
    "testing": LAYERS["cli"],
    "typed": LAYERS["hub"],
    "__main__": LAYERS["cli"] + 1,
}
"""What programs import and no part does -> the height below which it may import itself."""

PURE: Final = ("relayrpc/link/", "relayrpc/auth/", "relayrpc/contract/")
"""Folders of what imports no I/O, clock or randomness."""

PURE_FILES: Final = (
    "relayrpc/endpoint/retry.py",
    "relayrpc/hub/addresses.py",
    "relayrpc/hub/announcing.py",
    "relayrpc/hub/capacity.py",
    "relayrpc/hub/checks.py",
    "relayrpc/hub/config.py",
    "relayrpc/hub/contract_history.py",
    "relayrpc/hub/contract_table.py",
    "relayrpc/hub/credit.py",
    "relayrpc/hub/describe.py",
    "relayrpc/hub/forward.py",
    "relayrpc/hub/hosts.py",
    "relayrpc/hub/journal.py",
    "relayrpc/hub/links.py",
    "relayrpc/hub/observer.py",
    "relayrpc/hub/one_way.py",
    "relayrpc/hub/placing.py",
    "relayrpc/hub/queue.py",
    "relayrpc/hub/routing.py",
    "relayrpc/hub/rule_books.py",
    "relayrpc/hub/selection.py",
    "relayrpc/observe/metrics.py",
    "relayrpc/observe/throttle.py",
    "relayrpc/store/checks.py",
)
"""The same elsewhere: the modules that say "Pure" of themselves."""

_PLUGIN: Final = "codegen/relayrpc_codegen/"
_PLUGIN_KNOWS: Final = {"contract", "errors", "extras", "protos"}
_IMPURE_MODULES: Final = {"asyncio", "grpc", "random", "secrets", "socket", "threading", "time"}
_DECODING: Final = ("frames.py", "framing.py", "handshake.py", "messages.py")
_PRINTING: Final = ("relayrpc/cli/", "samples/", "benchmarks/", "codegen/", "tests/simulation/")
_JSON_MAPPING: Final = "relayrpc/contract/json.py"
_TODO: Final = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b(?!\(#\d+\))")
_ENTRY_POINTS: Final = {
    "relayrpc",
    "relayrpc.__main__",
    "relayrpc.aio",
    "relayrpc.cli.main",
    "relayrpc.testing",
    "relayrpc.testing.pytest_plugin",
    "relayrpc.typed",
}


def layers(path: PurePosixPath, source: str) -> list[str]:
    """Imports inside the package point one way; importing for types only counts too."""
    if str(path).startswith(_PLUGIN):
        return _plugin_layer(path, source)
    if path.parts[0] != "relayrpc":
        return []
    own = _part(path)
    height = SURFACE[own] if own in SURFACE else LAYERS[own]
    complaints = []
    for line, module in _imports(source):
        if not module.startswith("relayrpc."):
            continue
        part = module.split(".")[1]
        if part == "__version__":
            continue
        if part in SURFACE:
            if own not in SURFACE:
                complaints.append(f"{path}:{line}: {own} imports the public surface, {module}")
        elif part != own and (
            LAYERS[part] >= height or part not in _KNOWS_ONLY.get(own, {part})
        ):
            complaints.append(f"{path}:{line}: {own} must not import {part}")
    return complaints


def _plugin_layer(path: PurePosixPath, source: str) -> list[str]:
    """The plugin of protoc knows contracts, and nothing that could be at either end of a call."""
    return [
        f"{path}:{line}: the plugin must not import {module}"
        for line, module in _imports(source)
        if module.startswith("relayrpc.") and module.split(".")[1] not in _PLUGIN_KNOWS
    ]


def pure_imports(path: PurePosixPath, source: str) -> list[str]:
    """Pure parts import no I/O, clock or randomness: those are arguments."""
    if not str(path).startswith(PURE) and str(path) not in PURE_FILES:
        return []
    return [
        f"{path}:{line}: pure code imports {module}"
        for line, module in _imports(source, is_typing_included=False)
        if module.split(".")[0] in _IMPURE_MODULES
    ]


def json_mapping(path: PurePosixPath, source: str) -> list[str]:
    """Messages become JSON, and JSON messages, in one place, so that all errors read alike."""
    if path.parts[0] != "relayrpc" or str(path) == _JSON_MAPPING:
        return []
    return [
        f"{path}:{line}: imports json_format; use {_JSON_MAPPING}"
        for line, module in _imports(source)
        if module.startswith("google.protobuf.json_format")
    ]


def banned_calls(path: PurePosixPath, source: str) -> list[str]:
    """Calls with a better replacement, which the complaint names."""
    complaints = []
    # In a simulation time is virtual, and sleeping is how it passes.
    is_real_time = path.parts[0] == "tests" and path.parts[1] != "simulation"
    may_print = str(path).startswith(_PRINTING)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            complaints.append(f"{path}:{node.lineno}: bare except; name what is expected")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in {"time.time", "time"} and path.parts[0] == "relayrpc":
            complaints.append(f"{path}:{node.lineno}: {name}(); the time is an argument")
        elif is_real_time and name in {"asyncio.sleep", "time.sleep"} and not _is_zero(node):
            complaints.append(f"{path}:{node.lineno}: {name}(); wait for a condition")
        elif name == "print" and not may_print:
            complaints.append(f"{path}:{node.lineno}: print(); log, or return it")
    return complaints


def decoding_asserts(path: PurePosixPath, source: str) -> list[str]:
    """What a peer sent is never asserted: `python -O` must not change the wire."""
    if path.parts[:2] != ("relayrpc", "link") or path.name not in _DECODING:
        return []
    return [
        f"{path}:{node.lineno}: assert where peer data is decoded; raise a ProtocolError"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert)
    ]


def todo_without_issue(path: PurePosixPath, source: str) -> list[str]:
    """A reminder names its issue, as in (#12) right behind it, or it is forgotten."""
    return [
        f"{path}:{line}: {match[1]} without an issue"
        for line, text in enumerate(source.splitlines(), start=1)
        if (match := _TODO.search(text))
    ]


def module_docstring(path: PurePosixPath, source: str) -> list[str]:
    """Every module says what it owns."""
    if ast.get_docstring(ast.parse(source)):
        return []
    return [f"{path}:1: no module docstring"]


def unreferenced(sources: dict[PurePosixPath, str]) -> list[str]:
    """
    Find modules of the package that no other module of it imports.

    Args:
        sources: Path -> text, of the whole package.
    """
    imported = {
        module
        for path, source in sources.items()
        for _, module in _imports(source, package=_module(path), is_package=path.stem == "__init__")
    }
    modules = {_module(path) for path in sources if path.stem != "__init__"}
    lonely = modules - imported - _ENTRY_POINTS
    return [f"{module} is imported by nothing" for module in sorted(lonely)]


RULES: Final[tuple[Rule, ...]] = (
    layers,
    pure_imports,
    json_mapping,
    banned_calls,
    decoding_asserts,
    todo_without_issue,
    module_docstring,
)


def _part(path: PurePosixPath) -> str:
    return path.parts[1].removesuffix(".py")


def _module(path: PurePosixPath) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(
    source: str, *, package: str = "", is_package: bool = False, is_typing_included: bool = True
) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported; `from a import b` gives both `a` and `a.b`."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if not is_typing_included and id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package.split(".")[: None if is_package and node.level == 1 else -1]
                module = ".".join([*above, module]).rstrip(".")
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _is_zero(call: ast.Call) -> bool:
    """`asyncio.sleep(0)` gives the loop one turn and waits for no time."""
    return [ast.unparse(argument) for argument in call.args] == ["0"]
