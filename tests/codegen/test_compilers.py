"""
The plugin in other compilers than grpcio-tools. Goal: each writes the same and says the same.
Method: they run it as their users do, by its name, on what test_output.py has from grpcio-tools.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relayrpc.protos import include_folder
from tests.support.generated import PROTOS


BIN = Path(sys.executable).parent
# Of editions and keywords an old protoc knows nothing; buf wants packages and folders alike.
USUAL = ("collisions", "comments", "left/money", "old", "right/money", "shapes", "shop")
WRONG = """\
syntax = "proto3";
package wrong;
import "relayrpc/v1/contract.proto";
message M {}
service Wrong {
  rpc Do(M) returns (M) {
    option (relayrpc.v1.operation) = { terminating: true };
  }
}
"""
SAID = (
    "wrong.proto:7: wrong.Wrong.Do: terminating, but the contract's session is ALLOWED, and has to "
    "be REQUIRED"
)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "BUF_CACHE_DIR": str(cwd / "cache"),
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def compare(folder: Path) -> None:
    for name in USUAL:
        written = folder / "cases" / f"{name}_relay.py"
        assert written.read_bytes() == (PROTOS / "cases" / f"{name}_relay.py").read_bytes(), name


def make_buf_folder(folder: Path, wrong: str = "") -> None:
    """Make a user's folder, with buf's two files."""
    protos = folder / "protos"
    for name in USUAL:
        (protos / "cases" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROTOS / "cases" / f"{name}.proto", protos / "cases" / f"{name}.proto")
    if wrong:
        (protos / "wrong.proto").write_text(wrong)
    vendored = folder / "third_party" / "relayrpc" / "v1"
    vendored.mkdir(parents=True)
    shutil.copy(include_folder() / "relayrpc" / "v1" / "contract.proto", vendored)
    (folder / "buf.yaml").write_text(
        "version: v2\nmodules: [{path: protos}, {path: third_party}]\n"
    )
    (folder / "buf.gen.yaml").write_text(
        "version: v2\nplugins:\n  - local: protoc-gen-relayrpc\n    out: gen\n"
    )


def test_buf_writes_the_same(tmp_path: Path) -> None:
    make_buf_folder(tmp_path)
    done = run("buf", "generate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "gen")


def test_buf_says_what_contradicts(tmp_path: Path) -> None:
    make_buf_folder(tmp_path, WRONG)
    done = run("buf", "generate", cwd=tmp_path)
    assert done.returncode
    assert SAID in done.stderr
    assert not (tmp_path / "gen").exists()


def test_grpcio_tools_say_what_contradicts(tmp_path: Path) -> None:
    (tmp_path / "wrong.proto").write_text(WRONG)
    includes = ["-I.", f"-I{include_folder()}"]
    command = (sys.executable, "-m", "grpc_tools.protoc", *includes, "--relayrpc_out=.")
    done = run(*command, "wrong.proto", cwd=tmp_path)
    assert done.returncode
    assert done.stderr == f"--relayrpc_out: {SAID}\n"


@pytest.mark.skipif(shutil.which("protoc") is None, reason="no protoc on PATH")
def test_protoc_writes_the_same(tmp_path: Path) -> None:
    standard = importlib.resources.files("grpc_tools") / "_proto"
    includes = [f"-I{folder}" for folder in (PROTOS, include_folder(), standard)]
    names = [f"cases/{name}.proto" for name in USUAL]
    done = run("protoc", *includes, "--relayrpc_out=.", *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compare(tmp_path)
