"""
What tests of programs on the relay need: carriers in memory, carriers that break, and the suite
every carrier passes.

Re-exports only.
Source: docs/reference/testing.md.
"""

from __future__ import annotations

from relayrpc.carrier.faulty import FaultyCarrier
from relayrpc.carrier.memory import memory_pair
from relayrpc.testing.carrier_suite import CARRIER_CHECKS, check_carrier


__all__ = ["CARRIER_CHECKS", "FaultyCarrier", "check_carrier", "memory_pair"]
