"""
The documentation tells the truth. Goal: no flag, limit or error without a line, no dead link.

Method: read the pages, and compare them with the code they describe.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from codegen import compatibility_page, configuration_page, limits_page, metrics_page
from relayrpc import errors
from relayrpc.agent.backend import Backend
from relayrpc.cli.backends import read_backends
from relayrpc.cli.config import load_settings
from relayrpc.cli.flags import limit_flags
from relayrpc.cli.main import app
from relayrpc.contract.compatibility_rules import RULES
from relayrpc.endpoint import metadata


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("samples/**/*.md")]
)
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEST_FUNCTION = re.compile(r"^(?:async )?def test_", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def commands(group: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    """Give each command by its name, as it is called: "hub", "store backup"."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 150


def test_architecture_is_short() -> None:
    assert len(read("docs/ARCHITECTURE.md").splitlines()) <= 200


def test_limits_page_lists_every_limit_with_its_reason() -> None:
    assert read("docs/reference/limits.md") == limits_page.render()
    assert all(reason for _, _, reason in limits_page.bounds())


def test_metrics_page_has_the_table() -> None:
    page = read("docs/reference/metrics.md")
    assert page == metrics_page.render(page)
    assert "| `relayrpc_calls_total` | counter |" in page


def test_compatibility_page_has_every_rule() -> None:
    page = read("docs/reference/contract-compatibility.md")
    assert page == compatibility_page.render(page)
    for name, rule in RULES.items():
        assert f"| `{name}` |" in page
        assert rule.breaks
        assert rule.instead


def test_configuration_page_has_the_tables() -> None:
    page = read("docs/reference/configuration.md")
    assert page == configuration_page.render(page)
    assert "| `grpc` | `\"127.0.0.1:7350\"` | `--grpc` |" in page
    assert "| `link_budget_bytes` |" in page


def test_configuration_page_has_a_file_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = read("docs/reference/configuration.md")
    text, _servers = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "relayrpc.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    loaded = load_settings({}, file=None)
    assert not loaded.problems
    assert set(loaded.origins.values()) == {
        f"relayrpc.toml:{number}"
        for number, line in enumerate(text.splitlines(), start=1)
        if " = " in line
    }


def test_configuration_page_has_servers_that_can_be_exposed_and_every_setting(
    tmp_path: Path,
) -> None:
    page = read("docs/reference/configuration.md")
    _, text = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "relayrpc.toml").write_text(text, encoding="utf-8")
    greeter, billing = read_backends(tmp_path / "relayrpc.toml")
    assert (str(greeter), greeter.is_secure) == ("grpc://127.0.0.1:50051", False)
    assert (billing.is_secure, billing.services) == (True, ("contoso.Billing",))
    section = page.split("## Servers to expose")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([a-z_]+)`", section, re.MULTILINE) == [
        field.name for field in fields(Backend)
    ]


def test_configuration_page_quotes_what_is_said_of_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = read("docs/reference/configuration.md")
    (tmp_path / "relayrpc.toml").write_text("\n" * 9 + "[limits]\nlink_max = 1", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELAYRPC_LOG_LEVEL", "loud")
    told = load_settings(limit_flags(["calls_open_max=10000"]), file=None).problems
    quoted = re.findall(r"^    relayrpc: (.*: .*)$", page, re.MULTILINE)
    assert sorted(quoted) == sorted(told)


def test_cli_page_has_every_command_and_flag() -> None:
    page = read("docs/reference/cli.md")
    for name, command in commands():
        assert f"## `relayrpc {name}`" in page
        section = page.split(f"## `relayrpc {name}`")[1].split("\n## ")[0]
        documented = set(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE))
        flags = {flag for option in command.params for flag in option.opts if flag[:2] == "--"}
        assert documented == flags - {"--help"}, name


def test_every_command_explains_itself_with_example_and_exit_codes() -> None:
    for name, command in commands():
        assert "Example:" in command.help, name
        assert "Exit codes:" in command.help, name


def test_compatibility_page_has_every_key_that_a_call_may_have_for_the_relay() -> None:
    section = read("docs/reference/grpc-compatibility.md").split("## Metadata of the relay")[1]
    rows = re.findall(r"^\| `relay-([a-z-]+)` \|.*\| (.*?) ?\|$", section, re.MULTILINE)
    told = {name.replace("-", "_"): bound for name, bound in rows}
    # The gateway's own.
    assert told.pop("session") == ""
    assert set(told) == set(metadata.RelayKeys._fields)
    for name, bound in told.items():
        if bound:
            assert bound == f"{metadata._RELAY_VALUE_BYTES_MAX[name]} bytes"


def test_errors_page_has_every_error() -> None:
    page = read("docs/reference/errors.md")
    assert set(re.findall(r"^\| `([A-Za-z]+Error)`", page, re.MULTILINE)) == set(errors.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_files_named_in_the_documentation_exist() -> None:
    """Paths in backticks that begin with a folder of the repository."""
    pattern = re.compile(r"`((?:relayrpc|docs|protos|samples|codegen|tests|benchmarks)/[\w./-]+)`")
    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page in PAGES
        for path in pattern.findall(page.read_text(encoding="utf-8"))
        # Imports in protos begin in their folder.
        if not any((folder / path).exists() for folder in (ROOT, ROOT / "protos"))
    ]
    assert not missing


def test_makefile_has_every_verb_that_the_documentation_names() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    in_code = re.compile(r"(?:^    |`)make ([a-z-]+)", re.MULTILINE)
    for page in PAGES:
        assert set(in_code.findall(page.read_text(encoding="utf-8"))) <= verbs, page
    assert {"demo", "test", "test-all", "bench", "sim", "lint", "types", "gen", "check"} <= verbs


def test_readme_example_compiles() -> None:
    (example,) = SNIPPET.findall(read("README.md"))
    assert len(example.splitlines()) <= 20
    compile(example, "README.md", "exec")


def test_module_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "relayrpc", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"relayrpc \d+\.\d+\.\d+\S*\n", done.stdout)


def examples() -> list[Any]:
    """The complete programs in the pages for users."""
    folders = ("explanation", "howto", "reference")
    pages = [page for folder in folders for page in ROOT.glob(f"docs/{folder}/*.md")]
    found = [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in sorted(pages)
        for number, code in enumerate(SNIPPET.findall(page.read_text(encoding="utf-8")), start=1)
    ]
    assert found
    return found


@pytest.mark.parametrize("code", examples())
def test_example_runs(code: str, tmp_path: Path) -> None:
    """As a program; one that defines tests, by pytest."""
    command = [sys.executable, "-W", "error", "-c", code]
    if TEST_FUNCTION.search(code):
        example = tmp_path / "test_example.py"
        example.write_text(code, encoding="utf-8")
        # Of this repository's configuration an example knows nothing.
        options = ["-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", *options, str(example)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_code_cites_only_pages_that_exist() -> None:
    cited = {
        f"{path.relative_to(ROOT)}: {page}"
        for path in [*ROOT.glob("relayrpc/**/*.py"), *ROOT.glob("tests/**/*.py")]
        for page in re.findall(r"docs/[\w/.-]+\.md", path.read_text(encoding="utf-8"))
        if not (ROOT / page).exists()
    }
    assert not cited
