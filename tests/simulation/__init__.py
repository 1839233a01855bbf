"""
The relay in simulated worlds: one seed decides schedule, faults and sizes, and replays exactly.

Source: docs/adr/0005-simulation.md; docs/explanation/simulation.md.
"""

from __future__ import annotations
