"""`python -m tests.simulation`: the same as `python -m tests.simulation.run`."""

from __future__ import annotations

from tests.simulation.run import start


if __name__ == "__main__":
    start("tests.simulation")
