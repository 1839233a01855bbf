"""
Which hosts are asked for. Goal: all that is said has to hold, of one and the same service.

Method: one host, and questions on both sides of each condition.
"""

from __future__ import annotations

from typing import Any

import pytest

from relayrpc.hub.selection import Selection
from relayrpc.v1 import hub_pb2 as pb
from relayrpc.v1 import link_pb2


PRINT = bytes(range(32))
HOST = {
    "address": "contoso/greeter",
    "services": [
        link_pb2.ServiceDescription(name="a.Greeter", fingerprint=PRINT),
        link_pb2.ServiceDescription(name="a.Other"),
    ],
    "labels": {"region": "eu", "tier": ""},
}


def takes(host: dict[str, Any], **wanted: Any) -> bool:
    selection = Selection(pb.ListRequest(**wanted))
    as_announced = selection.takes(link_pb2.Announce(**host))
    assert selection.takes(pb.HostInfo(**host)) == as_announced
    return as_announced


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"address": "contoso"},
        {"address": "contoso/greeter"},
        {"service": "a.Greeter"},
        {"service": "a.Other"},
        {"fingerprint": PRINT},
        {"fingerprint": PRINT[:1]},
        {"service": "a.Greeter", "fingerprint": PRINT[:4]},
        {"labels": {"region": "eu"}},
        {"labels": {"region": "eu", "tier": ""}},
        {"address": "contoso", "service": "a.Other", "labels": {"tier": ""}},
    ],
)
def test_host_is_found(wanted: dict[str, Any]) -> None:
    assert takes(HOST, **wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        {"address": "contoso/greet"},
        {"address": "contoso/greeter/x"},
        {"address": "a.Greeter"},
        {"service": "a.Greet"},
        {"fingerprint": PRINT[1:]},
        {"fingerprint": PRINT + b"\x00"},
        {"service": "a.Other", "fingerprint": PRINT},
        {"labels": {"region": "us"}},
        {"labels": {"region": ""}},
        {"labels": {"zone": ""}},
        {"labels": {"region": "eu", "zone": "1"}},
        {"address": "contoso", "service": "a.Other", "labels": {"tier": "1"}},
    ],
)
def test_host_is_not_found(wanted: dict[str, Any]) -> None:
    assert not takes(HOST, **wanted)


def test_host_without_address_is_at_the_names_of_its_services() -> None:
    host = {**HOST, "address": ""}
    assert takes(host, address="a.Other")
    assert takes(host, address="a.Greeter", service="a.Greeter")
    assert not takes(host, address="a.Other", service="a.Greeter")
    assert not takes(host, address="a")


def test_asking_leaves_labels_as_they_are() -> None:
    """Reading a map of protobuf puts into it what it lacks."""
    announce = link_pb2.Announce(**HOST)
    Selection(pb.ListRequest(labels={"zone": ""})).takes(announce)
    assert dict(announce.labels) == HOST["labels"]
