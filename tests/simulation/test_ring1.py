"""
Goal: the pure core keeps its promises in every simulated world, and a world replays exactly.

Method: some hundred seeds of ring 1; then, that these seeds reach what they are meant to reach, and
that neither hash order nor what ran before changes a world.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Final

import pytest

from tests.simulation import ring1
from tests.simulation.processes import Network
from tests.simulation.ring1 import run_world
from tests.simulation.run import main


_SEEDS: Final = range(200)
_BLOCK: Final = 20
_REPLAYED: Final = (5, 11, 28)

_REACHED: Final = (
    "budget used %",
    "cancel",
    "end 0 by host",
    "end 4 by caller",
    "end 4 by hub",
    "end 8 by hub",
    "end 12 by hub",
    "end 14 by caller",
    "end 14 by hub",
    "fault cut",
    "fault delay",
    "fault stall",
    "going away",
    "handshake timed out",
    "host told 1",
    "host told 4",
    "hub drained",
    "hub restarted",
    "link ended",
    "move",
    "offline",
    "replaced",
    "resumed",
    "starved",
    "takeover",
    "withdraw",
)

_seen: Counter[str] = Counter()


@pytest.mark.parametrize("first", _SEEDS[::_BLOCK])
def test_worlds_keep_every_promise(first: int) -> None:
    for seed in range(first, first + _BLOCK):
        _seen.update(run_world(seed).seen)


def test_worlds_reach_what_they_are_for() -> None:
    """Runs after the worlds above; alone, it runs as many as it needs."""
    for seed in _SEEDS:
        if all(_seen[what] for what in _REACHED):
            break
        _seen.update(run_world(seed).seen)
    assert [what for what in _REACHED if not _seen[what]] == []


def test_seed_replays_exactly() -> None:
    for seed in _REPLAYED:
        assert run_world(seed).trace == run_world(seed).trace


def test_trace_does_not_depend_on_hash_order() -> None:
    code = (
        "import hashlib\n"
        "from tests.simulation.ring1 import run_world\n"
        f"text = ''.join(run_world(seed).trace_text(count=10**6) for seed in {_REPLAYED})\n"
        "print(hashlib.sha256(text.encode()).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1


def test_command_runs_seeds_and_counts_what_they_reach(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--ring", "1", "--seeds", "2"]) == 0
    assert "ring 1: 2 seeds clean" in capsys.readouterr().out


def test_command_shows_the_trace_of_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ring", "1", "--seed", "5", "--about", "host0", "--lines", "3"]) == 0
    assert capsys.readouterr().out.count("host0") >= 3


def test_command_names_the_seed_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: Network) -> None:
        network.world.fail("leak", "made up")

    monkeypatch.setattr(ring1, "check_at_rest", fail)
    assert main(["--ring", "1", "--seeds", "3", "--first", "7"]) == 1
    said = capsys.readouterr()
    assert "ring 1: seed 7 FAILED: [leak] made up" in said.out
    assert "make sim SEED=7" in said.out
    assert "FAILED  leak  made up" in said.out
