"""The chat sample does what it says. Method: a hub and two peers as processes, as by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import running_hub


pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


def test_two_chat() -> None:
    with running_hub(cwd=ROOT) as hub:
        url = f"relay://127.0.0.1:{hub.grpc_port}"
        ada, bob = (
            subprocess.Popen(
                [sys.executable, "-u", "-m", "samples.chat.peer", name, other, url],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name, other in (("ada", "bob"), ("bob", "ada"))
        )
        with ada, bob:
            assert ada.stdin is not None
            assert ada.stdout is not None
            assert bob.stdin is not None
            assert bob.stdout is not None
            assert ada.stdout.readline() == "ada is here, no port opened\n"
            assert bob.stdout.readline() == "bob is here, no port opened\n"
            ada.stdin.write("hello\nhow are you?\n")
            ada.stdin.flush()
            assert bob.stdout.readline() == "ada: hello\n"
            assert bob.stdout.readline() == "ada: how are you?\n"
            bob.stdin.write("fine\n")
            bob.stdin.flush()
            assert ada.stdout.readline() == "bob: fine\n"
            for peer in (ada, bob):
                assert peer.stdin
                peer.stdin.close()
                assert peer.wait(30) == 0
