"""The demo shows what it promises. Goal: `make demo` works. Method: run it and read its output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


def test_demo_shows_all_shapes_the_move_and_the_stream_that_survives() -> None:
    command = [sys.executable, "-m", "samples.greeter.demo"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for shape in ("SayHello", "ListGreetings", "CollectNames", "Chat"):
        assert shape in done.stdout
    assert "moved to websocket" in done.stdout
    assert done.stdout.count("cut the host's connection") == 2
    assert "none lost, none doubled" in done.stdout
    assert not done.stderr
