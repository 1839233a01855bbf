"""The orders sample does what it says. Method: hub, host and caller as processes, as by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import running_hub, running_process


pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
SERVING = re.compile(r"serving samples\.orders\.v1\.Orders, no port opened\n")


def test_customer_orders_within_a_session_and_is_told_what_is_shipped() -> None:
    with running_hub(cwd=ROOT) as hub:
        url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/orders"
        host = (sys.executable, "-m", "samples.orders.host", url)
        with running_process(host, SERVING, cwd=ROOT) as (process, _):
            command = [sys.executable, "-m", "samples.orders.caller", url]
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
            )
            process.terminate()
            assert process.wait(30) == 0
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "opened    welcome, Ada",
        "shipped   2 × tea",
        "placed    order 1",
        "shipped   4 × cups",
        "placed    order 2",
        "refused   there are 4 × cups",
        "listed    1 2",
        "closed    6 things, as a present",
    ]


def test_command_of_the_readme_writes_what_is_committed(tmp_path: Path) -> None:
    arguments = ["samples/orders/orders.proto", "-I", ".", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "relayrpc", "codegen", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("orders_pb2.py", "orders_pb2.pyi", "orders_relay.py"):
        path = Path("samples", "orders", name)
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
