"""
Contract options as they stand in protos. Goal: what a user writes is what is read. Method: compile
the protos in `options/`.
"""

from __future__ import annotations

from pathlib import Path

from relayrpc.v1 import contract_pb2 as pb
from tests.support.protoc import compile_set


FOLDER = Path(__file__).resolve().parent / "options"


def test_options_mean_what_a_user_writes() -> None:
    file = compile_set(FOLDER, "orders.proto").file[-1]
    services = {service.name: service for service in file.service}
    options = {
        method.name: method.options.Extensions[pb.operation]
        for service in file.service
        for method in service.method
    }
    assert services["Orders"].options.Extensions[pb.contract] == pb.Contract(
        address="contoso/orders",
        session=pb.Contract.REQUIRED,
        callback="samples.OrderEvents",
    )
    assert options["Place"] == pb.Operation(faults=["samples.OutOfStock"])
    assert options["Note"] == pb.Operation(one_way=True)
    assert options["Close"] == pb.Operation(terminating=True)
    assert options["Open"] == pb.Operation()
