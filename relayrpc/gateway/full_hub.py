"""
A hub with every gateway there is: what `relayrpc hub` runs, and tests run too.

Needs the libraries of the extra [hub].
"""

from __future__ import annotations

from relayrpc.gateway.grpc import NativeGateway
from relayrpc.hub.config import HubConfig
from relayrpc.hub.server import Hub


__all__ = ["full_hub"]


def full_hub(config: HubConfig) -> Hub:
    """
    Make a hub; nothing listens yet.

    Raises:
        ConfigError: As Hub's.
    """
    return Hub(config, grpc_gateways=(NativeGateway,))
