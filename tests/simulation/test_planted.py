"""
The simulation finds what is wrong. Goal: no check of ring 1 is blind. Method: one planted bug at a
time, a few fixed seeds, and the check that must fail.

A bug found too late, or by none of its checks, means that a check was weakened or that the drawing
of worlds no longer reaches it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulation.planted import BUGS, Bug, find
from tests.simulation.ring1 import run_seed


SEEDS = range(40)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "simulation.md"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_found_by_its_check(bug: Bug) -> None:
    seed = find(bug, SEEDS)
    assert seed is not None, f"no world of {SEEDS} failed by {bug.check!r}"
    # The same world is clean once the bug is gone: it was the bug that was found.
    run_seed(seed)


def test_document_names_every_bug_and_its_check() -> None:
    rows = re.findall(r"^\| (.+?) \| `([a-z-]+)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert rows == [(bug.name, bug.check) for bug in BUGS]
