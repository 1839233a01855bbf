"""The page on the link protocol agrees with the code. Goal: no drift. Method: compare texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codegen import generate, state_table
from relayrpc.link.call import TRANSITIONS, CallState
from tests.support import wire_vectors


VECTORS = {path.stem for path in wire_vectors.FOLDER.glob("*.json")}


def page() -> str:
    return state_table.PAGE.read_text(encoding="utf-8")


def test_page_is_short() -> None:
    assert len(page().splitlines()) <= 150


def test_states_on_the_page_are_those_of_the_table() -> None:
    assert page() == state_table.render(page())


def test_every_state_and_transition_is_rendered() -> None:
    sides = [state_table.states(side) for side in ("opener", "responder")]
    assert set().union(*sides) == set(CallState)
    assert set(sides[0]) & set(sides[1]) == {CallState.ENDED}
    rows = re.findall(r"^\| [A-Z_]+ \|(.*)\|$", page(), re.MULTILINE)
    cells = [cell.strip() for row in rows for cell in row.split("|")]
    assert sum(cell != "–" for cell in cells) == len(TRANSITIONS)


def test_vectors_named_on_the_page_exist() -> None:
    named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", page())) - {"not_executed"}
    notes = re.findall(r"Note over .*\((.*)\)", page())
    named |= {name for note in notes for name in note.split(", ")}
    assert named - {"credit_bytes"} <= VECTORS


def test_drift_check_notices_a_changed_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / state_table.PAGE.name
    changed.write_text(page().replace("AWAITING_BEGUN", "AWAITED"), encoding="utf-8")
    monkeypatch.setattr(state_table, "PAGE", changed)
    assert generate.differences() == [
        f"docs/reference/{changed.name} differs from relayrpc/link/call.py"
    ]


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        state_table.render("# A page\n")
