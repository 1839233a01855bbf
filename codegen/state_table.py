"""
Writes the states of a call into docs/reference/link-protocol.md, from relayrpc/link/call.py.

Owns: the form of that part. The text around it is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from codegen.marked import put_between_marks
from relayrpc.link.call import TRANSITIONS, CallInput, CallState


__all__ = ["PAGE", "SOURCE", "render", "states"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "link-protocol.md"
SOURCE: Final = "relayrpc/link/call.py"

# Where a call starts at each end: without and with everything it sends in Open.
_SIDES: Final = {
    "opener": (CallState.CALLING, CallState.AWAITING),
    "responder": (CallState.SERVING, CallState.ANSWERING),
}


def states(side: str) -> list[CallState]:
    """Return the states that a call can reach at one side, in the order of CallState."""
    reached = set(_SIDES[side])
    while more := {to for (at, _), to in TRANSITIONS.items() if at in reached} - reached:
        reached |= more
    return sorted(reached)


def render(page: str) -> str:
    """
    Return the page with diagram and table of each side brought up to date.

    Raises:
        ValueError: A mark is missing.
    """
    parts = [f"{_diagram(side)}\n{_table(side)}" for side in _SIDES]
    return put_between_marks(page, source=SOURCE, made="\n".join(parts))


def _diagram(side: str) -> str:
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state.name}" for state in _SIDES[side]]
    arrows: dict[tuple[CallState, CallState], list[CallInput]] = {}
    for state in states(side):
        for act in CallInput:
            to = TRANSITIONS.get((state, act))
            # What changes nothing stands in the table only.
            if to is not None and to is not state:
                arrows.setdefault((state, to), []).append(act)
    lines += [
        f"    {at.name} --> {'[*]' if to is CallState.ENDED else to.name}: {_words(acts)}"
        for (at, to), acts in arrows.items()
    ]
    return "\n".join([*lines, "```", ""])


def _table(side: str) -> str:
    rows = [state for state in states(side) if state is not CallState.ENDED]
    acts = [act for act in CallInput if any((state, act) in TRANSITIONS for state in rows)]
    cells = [[side, *map(_word, acts)], ["---"] * (len(acts) + 1)]
    for state in rows:
        found = [TRANSITIONS.get((state, act)) for act in acts]
        cells.append([state.name, *("–" if to is None else to.name for to in found)])
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _words(acts: Iterable[CallInput]) -> str:
    return ", ".join(map(_word, acts))


def _word(act: CallInput) -> str:
    return act.name.lower().replace("_", " ")
