"""
Which hosts are asked for: by address, contract and label. Pure.

Owns: whether one is meant. Does not own: who asks, and what is told of it (management.py).
Source: protos/relayrpc/v1/hub.proto, ListRequest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayrpc.contract.address import address_of
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.v1 import link_pb2


__all__ = ["Selection"]


class Selection:
    """
    What all hosts that are meant have in common.

    Attributes:
        is_all: Every host is meant.
    """

    __slots__ = ("_address", "_fingerprint", "_labels", "_service", "is_all")

    def __init__(self, wanted: pb.ListRequest) -> None:
        """
        Args:
            wanted: What somebody asked for.
        """
        self._address = wanted.address
        self._service = wanted.service
        self._fingerprint = wanted.fingerprint
        self._labels = dict(wanted.labels)
        self.is_all = not wanted.ListFields()

    def takes(self, host: link_pb2.Announce | pb.HostInfo) -> bool:
        """Say whether a host is meant."""
        if self.is_all:
            return True
        has = host.labels
        # Asked first: reading what a map lacks would put it there.
        if not all(name in has and has[name] == value for name, value in self._labels.items()):
            return False
        return any(
            self._takes_service(service) and self._is_there(address_of(host.address, service))
            for service in host.services
        )

    def _takes_service(self, service: link_pb2.ServiceDescription) -> bool:
        is_named = self._service in ("", service.name)
        return is_named and service.fingerprint.startswith(self._fingerprint)

    def _is_there(self, place: str) -> bool:
        address = self._address
        return not address or place == address or place.startswith(f"{address}/")
