"""
Goal: importing relayrpc costs nothing, and says so at once where it cannot work.

Method: fresh interpreters; what they have imported says what was paid for.
"""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_importing_the_package_imports_nothing_large() -> None:
    done = run(
        "import sys, relayrpc; "
        "print(*{'asyncio', 'google.protobuf', 'grpc', 'websockets'} & sys.modules.keys())"
    )
    assert done.stdout == "\n", done.stderr


def test_every_public_name_is_loaded_when_it_is_used() -> None:
    done = run("import relayrpc; print(*[type(getattr(relayrpc, n)) for n in relayrpc.__all__])")
    assert done.returncode == 0, done.stderr
    done = run("import relayrpc; relayrpc.nonsense")
    assert "AttributeError: module 'relayrpc' has no attribute 'nonsense'" in done.stderr


def test_free_threaded_python_is_refused_in_one_sentence() -> None:
    done = run("import sys; sys._is_gil_enabled = lambda: False; import relayrpc")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: relayrpc needs the GIL: grpcio does not support free-threaded Python; "
        "set PYTHON_GIL=1"
    )
