"""
What a host says of its contracts. Goal: fingerprints only where descriptors are of what is
served. Method: descriptions beside pools made by hand.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.endpoint.contracts import HostContracts
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import link_pb2 as pb
from tests.support.contracts import make_file, make_pool, make_set


FILE = make_file(methods=["Do", "Too"])
POOL = make_pool(FILE)
FINGERPRINT = fingerprint_of(make_set(FILE))


def described(*methods: tuple[str, int], name: str = "t.Service") -> pb.ServiceDescription:
    made = [pb.Method(name=method, shape=shape) for method, shape in methods]
    return pb.ServiceDescription(name=name, methods=made)


def test_service_gets_the_fingerprint_of_its_contract() -> None:
    service = described(("Do", pb.SHAPE_UNARY_UNARY))
    HostContracts().add_to([service], POOL, DEFAULT_LIMITS)
    assert service.fingerprint == FINGERPRINT
    assert [method.name for method in service.methods] == ["Do"]


def test_service_without_known_methods_gets_those_of_its_contract() -> None:
    service = described()
    HostContracts().add_to([service], POOL, DEFAULT_LIMITS)
    assert service == pb.ServiceDescription(
        name="t.Service",
        methods=described(("Do", pb.SHAPE_UNARY_UNARY), ("Too", pb.SHAPE_UNARY_UNARY)).methods,
        fingerprint=FINGERPRINT,
    )


def test_service_that_no_descriptor_has_is_left_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = described(name="t.Other")
    HostContracts().add_to([service], POOL, DEFAULT_LIMITS)
    assert service == described(name="t.Other")
    assert not caplog.records


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (described(("Other", pb.SHAPE_UNARY_UNARY)), "t.proto has no method 'Other'"),
        (described(("Do", pb.SHAPE_UNARY_STREAM)), "t.proto has another shape for 'Do'"),
    ],
)
def test_descriptors_that_contradict_the_handlers_are_not_announced(
    service: pb.ServiceDescription, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        HostContracts().add_to([service], POOL, DEFAULT_LIMITS)
    assert not service.fingerprint
    assert caplog.messages == [f"t.Service is announced without its contract: {says}"]


def test_descriptors_over_the_limit_are_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    size = len(make_set(FILE))
    service = described()
    HostContracts().add_to([service], POOL, replace(DEFAULT_LIMITS, contract_bytes_max=size - 1))
    assert not service.fingerprint
    assert f"{size} bytes, over {size - 1}" in caplog.messages[0]
    HostContracts().add_to([service], POOL, replace(DEFAULT_LIMITS, contract_bytes_max=size))
    assert service.fingerprint == FINGERPRINT
