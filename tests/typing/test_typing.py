"""
Goal: a program that uses a relay is type checked: with plain stubs as one that uses grpcio, with
generated callers and servicers in every type.

Method: programs without mistakes, and programs whose lines say which they hold; mypy with what
users have installed, and pyright.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relayrpc.protos import include_folder
from tests.support.checkers import Complaint, needs_pyright, run_mypy, run_pyright
from tests.support.generated import SHOP, run_protoc


HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONTRACT = ROOT / "samples" / "greeter" / "greeter.proto"
# Behind the code may stand what a checker needs to find the mistake.
EXPECTED = re.compile(r"# error: ([a-z-]+)(, with types-grpcio)?$")
# Which mypy does not look for by itself.
DEPRECATED = "--enable-error-code=deprecated"
PLAIN = ("right.py", "wrong.py")
GENERATED = ("right_generated.py", "wrong_generated.py", "right_faults.py", "wrong_faults.py")
MODULES = ("greeter_relay.py", "shop_relay.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs, and what they are written against."""
    folder = tmp_path_factory.mktemp("programs")
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "mypy", "mypy_grpc", "relayrpc")]
    protos = (CONTRACT, SHOP)
    imports = [f"-I{folder}" for folder in (*(each.parent for each in protos), include_folder())]
    done = run_protoc(*imports, *outputs, *(each.name for each in protos))
    assert done.returncode == 0, done.stderr
    for program in (*PLAIN, *GENERATED):
        (folder / program).write_text((HERE / program).read_text(encoding="utf-8"))
    return folder


def expected(*programs: str, has_grpc_types: bool = True) -> set[Complaint]:
    return {
        Complaint(program, number, match[1])
        for program in programs
        for number, line in enumerate((HERE / program).read_text().splitlines(), start=1)
        if (match := EXPECTED.search(line)) and (has_grpc_types or not match[2])
    }


def lines(complaints: set[Complaint]) -> set[tuple[str, int]]:
    return {(each.file, each.line) for each in complaints}


def test_mypy_finds_the_mistakes_and_nothing_else(folder: Path) -> None:
    programs = [folder / name for name in (*PLAIN, *GENERATED, *MODULES)]
    found, printed = run_mypy(programs, DEPRECATED, folder=folder)
    assert found == expected(*PLAIN, *GENERATED), printed


def test_mypy_finds_the_mistakes_without_types_of_grpcio(folder: Path, tmp_path: Path) -> None:
    """Nothing of this environment is seen but the package, and protobuf's types."""
    import google.protobuf

    installed = Path(google.protobuf.__path__[0]).parents[1]
    (tmp_path / "relayrpc").symlink_to(ROOT / "relayrpc")
    (tmp_path / "google").symlink_to(installed / "google-stubs")
    programs = [folder / name for name in (*GENERATED, *MODULES)]
    options = (DEPRECATED, "--no-site-packages", "--follow-imports=silent")
    found, printed = run_mypy(programs, *options, folder=folder, path=tmp_path)
    assert found == expected(*GENERATED, has_grpc_types=False), printed


@needs_pyright
def test_pyright_finds_the_mistakes_and_nothing_else(folder: Path) -> None:
    """Its names of mistakes are others than mypy's."""
    programs = [folder / name for name in (*GENERATED, *MODULES)]
    found, printed = run_pyright(programs, folder=folder)
    assert lines(found) == lines(expected(*GENERATED)), printed
