"""What is declared is what is committed. Goal: honest bounds, no drift. Method: compare files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from codegen import generate, limits_page


ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lower_bound(requirements: list[str], name: str) -> str:
    matches = (re.match(rf"{name}[>=]=([\d.]+)", text) for text in requirements)
    found = [match[1] for match in matches if match]
    assert len(found) == 1, f"{name} needs exactly one lower bound"
    return found[0]


def test_generated_files_are_what_their_sources_say() -> None:
    assert generate.differences() == []


def test_protos_pass_buf_lint(tmp_path: Path) -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run(
        [str(buf), "lint", "protos"],
        cwd=ROOT,
        env={**os.environ, "BUF_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_protobuf_lower_bound_is_that_of_the_generated_code() -> None:
    code = (ROOT / "relayrpc/v1/link_pb2.py").read_text(encoding="utf-8")
    written = re.search(r"# Protobuf Python Version: ([\d.]+)", code)
    assert written is not None
    assert lower_bound(PROJECT["dependencies"], "protobuf") == written[1]


def test_grpcio_lower_bound_is_that_of_the_generated_stubs() -> None:
    code = (ROOT / "samples/greeter/greeter_pb2_grpc.py").read_text(encoding="utf-8")
    written = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", code)
    assert written is not None
    assert lower_bound(PROJECT["dependencies"], "grpcio") == written[1]
    assert lower_bound(PROJECT["optional-dependencies"]["dev"], "grpcio-tools") == written[1]


def test_drift_check_notices_a_changed_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself can fail. A page is changed, because the code would have to be in place."""
    page = tmp_path / "limits.md"
    page.write_text(limits_page.render() + "| `more` | 1 | |\n", encoding="utf-8")
    monkeypatch.setattr(limits_page, "PAGE", page)
    assert len(generate.differences()) == 1
