"""
The repository keeps its own rules. Goal: drift fails a test. Method: rules.py over every file.

Each rule is also run on a few bad lines, to show that it can fail, and on good ones beside them.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tests.tidy import rules


ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def sources(*tops: str) -> dict[PurePosixPath, str]:
    """Path from the root -> text, of every hand-written Python file below `tops`."""
    return {
        PurePosixPath(path.relative_to(ROOT).as_posix()): path.read_text(encoding="utf-8")
        for top in tops
        for path in sorted((ROOT / top).rglob("*.py"))
        if not path.name.endswith(GENERATED)
    }


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_repository_keeps_rule(rule: rules.Rule) -> None:
    everything = sources("relayrpc", "samples", "codegen", "tests", "benchmarks")
    complaints = [text for path, source in everything.items() for text in rule(path, source)]
    assert not complaints, "\n".join(complaints)


def test_package_has_no_unreferenced_module() -> None:
    assert not rules.unreferenced(sources("relayrpc"))


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    pattern = r"(^|[^A-Za-z0-9_])/(work|root|home/[a-z]+)/"
    command = ["git", "grep", "-nIE", pattern, "--", ".", ":!tests/tidy"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not found.stdout


def complaints(rule: rules.Rule, path: str, *lines: str) -> list[str]:
    return rule(PurePosixPath(path), "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("relayrpc/link/call.py", "from relayrpc.carrier import base"),
        ("relayrpc/errors.py", "from relayrpc.link.call import Call"),
        ("relayrpc/endpoint/live_link.py", "import relayrpc.hub.server"),
        ("relayrpc/hub/server.py", "from relayrpc.cli import hub"),
        ("relayrpc/hub/server.py", "import relayrpc.aio"),
        ("relayrpc/store/memory.py", "from relayrpc.hub.config import HubConfig"),
        ("relayrpc/store/memory.py", "from relayrpc.contract import descriptors"),
        ("relayrpc/carrier/driver.py", "from relayrpc.store.base import Store"),
        ("relayrpc/gateway/grpc.py", "from relayrpc.testing import memory_pair"),
        ("relayrpc/aio.py", "from relayrpc.hub.session import HubSessions"),
        ("relayrpc/testing/__init__.py", "from relayrpc.cli import main"),
        ("codegen/relayrpc_codegen/plugin.py", "from relayrpc.endpoint import handlers"),
        ("codegen/relayrpc_codegen/plugin.py", "from relayrpc.link import frames"),
    ],
)
def test_layers_rule_refuses_import_upwards(path: str, line: str) -> None:
    assert complaints(rules.layers, path, line)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("relayrpc/link/call.py", "from relayrpc.link.flow import Budget"),
        ("relayrpc/hub/server.py", "from relayrpc.carrier import base"),
        ("relayrpc/aio.py", "from relayrpc.endpoint.server import Server"),
        ("relayrpc/testing/__init__.py", "from relayrpc.gateway.grpc import NativeGateway"),
        ("relayrpc/testing/__init__.py", "import relayrpc.aio"),
        ("codegen/relayrpc_codegen/plugin.py", "from relayrpc.errors import ContractError"),
        ("codegen/relayrpc_codegen/includes.py", "from relayrpc.protos import include_folder"),
        ("relayrpc/link/call.py", "import dataclasses"),
    ],
)
def test_layers_rule_takes_import_downwards(path: str, line: str) -> None:
    assert not complaints(rules.layers, path, line)


@pytest.mark.parametrize(
    "line", ["import asyncio", "from grpc import aio", "from time import monotonic"]
)
def test_pure_rule_refuses_io_and_clocks(line: str) -> None:
    assert complaints(rules.pure_imports, "relayrpc/link/call.py", line)
    assert complaints(rules.pure_imports, "relayrpc/hub/routing.py", line)
    assert not complaints(rules.pure_imports, "relayrpc/hub/server.py", line)


def test_pure_rule_is_for_every_module_that_says_it_is_pure() -> None:
    saying = [
        str(path)
        for path, source in sources("relayrpc").items()
        if re.search(r"\bPure[.:]", ast.get_docstring(ast.parse(source)) or "")
    ]
    assert [name for name in saying if not name.startswith(rules.PURE)] == [*rules.PURE_FILES]


def test_pure_rule_takes_what_is_imported_for_types_only() -> None:
    lines = ("from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    import random")
    assert not complaints(rules.pure_imports, "relayrpc/link/link.py", *lines)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("relayrpc/hub/server.py", ["now = time.time()"]),
        ("tests/unit/test_x.py", ["await asyncio.sleep(0.1)"]),
        ("relayrpc/hub/server.py", ["print('here')"]),
        ("relayrpc/hub/server.py", ["try:", "    x()", "except:", "    raise"]),
    ],
)
def test_banned_calls_rule_refuses(path: str, lines: list[str]) -> None:
    assert complaints(rules.banned_calls, path, *lines)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("tests/unit/test_x.py", "await asyncio.sleep(0)"),
        ("samples/greeter/host.py", "await asyncio.sleep(0.1)"),
        ("tests/simulation/world.py", "await asyncio.sleep(0.1)"),
        ("relayrpc/cli/main.py", "print('here')"),
        ("relayrpc/hub/server.py", "now_s = loop.time()"),
    ],
)
def test_banned_calls_rule_takes(path: str, line: str) -> None:
    assert not complaints(rules.banned_calls, path, line)


@pytest.mark.parametrize(
    "line",
    ["from google.protobuf import json_format", "from google.protobuf.json_format import Parse"],
)
def test_json_rule_refuses_another_mapping(line: str) -> None:
    assert complaints(rules.json_mapping, "relayrpc/cli/call.py", line)
    assert not complaints(rules.json_mapping, "relayrpc/contract/json.py", line)
    assert not complaints(rules.json_mapping, "tests/support/wire_vectors.py", line)


def test_decoding_rule_refuses_assert_on_peer_data() -> None:
    line = "assert len(batch) < 10"
    assert complaints(rules.decoding_asserts, "relayrpc/link/frames.py", line)
    assert not complaints(rules.decoding_asserts, "relayrpc/link/outbox.py", line)


def test_todo_rule_wants_an_issue() -> None:
    assert complaints(rules.todo_without_issue, "relayrpc/aio.py", "# TO" + "DO: later")
    assert not complaints(rules.todo_without_issue, "relayrpc/aio.py", "# TO" + "DO(#12): later")


def test_docstring_rule_wants_one() -> None:
    assert complaints(rules.module_docstring, "relayrpc/aio.py", "x = 1")
    assert not complaints(rules.module_docstring, "relayrpc/aio.py", '"""Says what it owns."""')


def test_unreferenced_rule_finds_module_nobody_imports() -> None:
    package = {
        PurePosixPath("relayrpc/__init__.py"): "",
        PurePosixPath("relayrpc/errors.py"): "",
        PurePosixPath("relayrpc/aio.py"): "from relayrpc.endpoint import server",
        PurePosixPath("relayrpc/endpoint/server.py"): "",
    }
    assert rules.unreferenced(package) == ["relayrpc.errors is imported by nothing"]
