"""
What tests of programs on the relay need: hubs in memory and on loopback, virtual time, carriers in
memory and carriers that break, and the suites that every carrier and every store passes.

Re-exports only.
Source: docs/reference/testing.md.
"""

from __future__ import annotations

from relayrpc.carrier.faulty import FaultyCarrier
from relayrpc.carrier.memory import memory_pair
from relayrpc.testing.carrier_suite import CARRIER_CHECKS, check_carrier
from relayrpc.testing.hubs import LoopbackHub, MemoryHub, ScratchHub, memory_hub, run_hub
from relayrpc.testing.store_suite import STORE_CHECKS, check_store
from relayrpc.testing.virtual_time import (
    ComplaintError,
    DeadlockError,
    LivelockError,
    VirtualLoop,
    run_virtual,
)


__all__ = [
    "CARRIER_CHECKS",
    "STORE_CHECKS",
    "ComplaintError",
    "DeadlockError",
    "FaultyCarrier",
    "LivelockError",
    "LoopbackHub",
    "MemoryHub",
    "ScratchHub",
    "VirtualLoop",
    "check_carrier",
    "check_store",
    "memory_hub",
    "memory_pair",
    "run_hub",
    "run_virtual",
]
