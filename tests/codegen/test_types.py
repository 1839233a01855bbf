"""Types of what is generated, for protos of every kind. Goal: no checker has anything to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkers import needs_pyright, run_mypy, run_pyright
from tests.support.generated import generate_cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With messages as mypy-protobuf types them; protoc writes no Python for some of them."""
    folder = tmp_path_factory.mktemp("typed")
    generate_cases(folder, "python", "mypy", "relayrpc")
    return folder


def test_mypy_finds_nothing(folder: Path) -> None:
    found, printed = run_mypy(sorted(folder.rglob("*_relay.py")), folder=folder)
    assert not found, printed
    assert "Success" in printed


@needs_pyright
def test_pyright_finds_nothing(folder: Path) -> None:
    found, printed = run_pyright(sorted(folder.rglob("*_relay.py")), folder=folder)
    assert not found, printed
