"""
Shows results, in the terminal and in docs/performance.md: `python -m benchmarks.report [JSON]`.

Owns: words and layout. The figures come from figures.py, recomputed from the measurements in the
file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.figures import FIGURES, cells
from benchmarks.sides import SIDE_NAMES


if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Cell, Figure, Measurement
    from benchmarks.side import SideName


__all__ = ["LATEST", "Results", "facts_lines", "failures", "main", "table", "write_document"]

FOLDER: Final = Path(__file__).resolve().parent
LATEST: Final = FOLDER / "results" / "latest.json"
DOCUMENT: Final = FOLDER.parent / "docs" / "performance.md"
BEGIN: Final = "<!-- figures: begin, written by python -m benchmarks.report -->"
END: Final = "<!-- figures: end -->"
HEADINGS: Final[dict[SideName, str]] = {
    "direct": "direct grpc.aio",
    "nats": "nats-py",
    "websocket": "relay, WebSocket",
    "grpc": "relay, gRPC stream",
    "native": "gRPC client through the hub",
}
CORE_HEADING: Final = "the hub's router chooses a host; no call is made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What one run of the benchmark found."""

    machine: dict[str, str | int | float]
    command: str
    started_at: str
    measurements: list[Measurement]

    def as_json(self) -> dict[str, Any]:
        """What goes into the file: measurements, and figures for readers that recompute nothing."""
        return {
            "command": self.command,
            "started_at": self.started_at,
            "machine": self.machine,
            "figures": [figure_as_json(cell) for cell in cells(self.measurements, SIDE_NAMES)],
            "measurements": self.measurements,
        }

    @classmethod
    def read(cls, path: Path) -> Results:
        """Take what `as_json` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        names = ("machine", "command", "started_at", "measurements")
        return cls(**{name: saved[name] for name in names})


def figure_as_json(cell: Cell) -> dict[str, Any]:
    """One figure of one side."""
    return {
        "figure": cell.figure.title,
        "scenario": cell.figure.scenario,
        "side": cell.side,
        "median": round(cell.median, 3),
        "unit": cell.figure.unit,
        "ratio": rounded(cell.ratio),
        "ratio_min": rounded(cell.ratio_min),
        "ratio_max": rounded(cell.ratio_max),
        "rounds": cell.rounds_count,
        "goal": cell.figure.goals.get(cell.side),
        "is_met": cell.is_met,
    }


def table(results: Results) -> list[str]:
    """The figures as Markdown tables, columns aligned so that they read in a terminal too."""
    by_place = {(c.figure, c.side): c for c in cells(results.measurements, SIDE_NAMES)}
    rows = [["what", *HEADINGS.values()]]
    for figure in FIGURES:
        row = [by_place.get((figure, side)) for side in HEADINGS]
        if any(row):
            rows.append([figure.title, *(cell_text(figure, cell) for cell in row)])
    lines = aligned(rows) if len(rows) > 1 else []
    alone = [(figure, by_place.get((figure, "core"))) for figure in FIGURES]
    decisions = [[figure.title, cell_text(figure, cell)] for figure, cell in alone if cell]
    if decisions:
        lines += ["", *aligned([[CORE_HEADING, "time"], *decisions])]
    return lines


def cell_text(figure: Figure, cell: Cell | None) -> str:
    """One cell: value, ratio with its spread, goal."""
    if cell is None:
        return "–"
    text = f"{number(cell.median)} {figure.unit}".replace(" /s", "/s")
    is_unity = cell.side == "direct" and figure.over == "direct" and not figure.over_value
    if cell.ratio is not None and not (is_unity and not figure.over_scenario):
        spread = f"{number(cell.ratio_min)}–{number(cell.ratio_max)}"
        text = f"**{number(cell.ratio)}×** ({spread}), {text}"
    goal = figure.goals.get(cell.side)
    if goal is not None:
        sign = "≥" if figure.is_more_better else "≤"
        unit = f" {figure.unit}" if figure.over == "nothing" else "×"
        text += f"; goal {sign} {goal:g}{unit} {'met' if cell.is_met else 'NOT met'}"
    return text


def facts_lines(results: Results) -> list[str]:
    """Machine, versions, commit, command."""
    machine = " · ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in results.machine.items()
    )
    rounds = len({m["round"] for m in results.measurements})
    return [f"`{results.command}`, {rounds} rounds, started {results.started_at}.", "", machine]


def failures(results: Results) -> list[str]:
    """What could not be measured, a line each."""
    return [
        f"- round {m['round'] + 1}, {m['scenario']}, {m['side']}: {m['error'].splitlines()[0]}"
        for m in results.measurements
        if m["error"]
    ]


def write_document(results: Results) -> None:
    """Put the table between the document's markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    failed = failures(results)
    lines = [*facts_lines(results), "", *table(results)]
    if failed:
        lines += ["", "Not measured:", "", *failed]
    DOCUMENT.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with its columns padded to one width each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def rounded(value: float | None) -> float | None:
    """For the file: enough digits to recompute nothing from."""
    return None if value is None else round(value, 4)


def main() -> None:
    """Render a results file into the documentation and onto the terminal."""
    results = Results.read(Path(sys.argv[1]) if len(sys.argv) > 1 else LATEST)
    write_document(results)
    print("\n".join([*facts_lines(results), "", *table(results)]))


if __name__ == "__main__":
    main()
