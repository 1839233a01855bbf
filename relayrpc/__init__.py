"""
Typed remote procedure calls through a hub: hosts and callers both dial out. Re-exports only, loaded
when first used.

Source: docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from relayrpc import aio as aio
    from relayrpc import errors as errors
    from relayrpc._sync import CallbackSet as CallbackSet
    from relayrpc._sync import Caller as Caller
    from relayrpc._sync import Channel as Channel
    from relayrpc._sync import DeadlineExceededError as DeadlineExceededError
    from relayrpc._sync import HostSession as HostSession
    from relayrpc._sync import RpcError as RpcError
    from relayrpc._sync import Server as Server
    from relayrpc._sync import Session as Session
    from relayrpc._sync import SessionState as SessionState
    from relayrpc._sync import TLSOptions as TLSOptions
    from relayrpc._sync import channel as channel
    from relayrpc._sync import server as server
    from relayrpc.endpoint.call_credentials import call_credentials as call_credentials
    from relayrpc.endpoint.faults import Fault as Fault
    from relayrpc.endpoint.inspection import InspectedCall as InspectedCall
    from relayrpc.endpoint.inspection import MessageInspector as MessageInspector
    from relayrpc.endpoint.inspection import inspect_channel as inspect_channel
    from relayrpc.endpoint.instances import service as service
    from relayrpc.endpoint.instances import servicer as servicer
    from relayrpc.endpoint.throttle import Throttle as Throttle
    from relayrpc.limits import DEFAULT_LIMITS as DEFAULT_LIMITS
    from relayrpc.limits import Limits as Limits


__all__ = [
    "DEFAULT_LIMITS",
    "CallbackSet",
    "Caller",
    "Channel",
    "DeadlineExceededError",
    "Fault",
    "HostSession",
    "InspectedCall",
    "Limits",
    "MessageInspector",
    "RpcError",
    "Server",
    "Session",
    "SessionState",
    "TLSOptions",
    "Throttle",
    "__version__",
    "aio",
    "call_credentials",
    "channel",
    "errors",
    "inspect_channel",
    "server",
    "service",
    "servicer",
]

__version__ = "0.1.0"

_ENDPOINT = {
    "Fault": "faults",
    "InspectedCall": "inspection",
    "MessageInspector": "inspection",
    "Throttle": "throttle",
    "call_credentials": "call_credentials",
    "inspect_channel": "inspection",
    "service": "instances",
    "servicer": "instances",
}

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "relayrpc needs the GIL: grpcio does not support free-threaded Python; set PYTHON_GIL=1"
    )


def __getattr__(name: str) -> object:
    if name in {"aio", "errors"}:
        return importlib.import_module(f"relayrpc.{name}")
    if name in {"DEFAULT_LIMITS", "Limits"}:
        return getattr(importlib.import_module("relayrpc.limits"), name)
    if name in _ENDPOINT:
        return getattr(importlib.import_module(f"relayrpc.endpoint.{_ENDPOINT[name]}"), name)
    if name in __all__:
        return getattr(importlib.import_module("relayrpc._sync"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
