"""The contract object. Goal: it is what hosts announce of the same descriptors."""

from __future__ import annotations

import pytest

from relayrpc.contract.contract import Contract
from relayrpc.contract.descriptors import checked
from relayrpc.contract.fingerprint import fingerprint_of
from samples.greeter import greeter_pb2
from samples.orders import orders_pb2
from tests.support.contracts import make_file, make_pool, make_set


def test_contract_has_the_descriptors_of_its_service() -> None:
    contract = Contract(greeter_pb2.DESCRIPTOR, "Greeter")
    assert contract.name == "samples.greeter.v1.Greeter"
    assert contract.descriptor is greeter_pb2.DESCRIPTOR.services_by_name["Greeter"]
    assert repr(contract) == "<Contract samples.greeter.v1.Greeter>"


def test_set_is_in_normal_form_and_the_fingerprint_its_hash() -> None:
    files = make_file("a.proto", package="a", service=""), make_file(imports=["a.proto"])
    contract = Contract(make_pool(*files).FindFileByName("t.proto"), "Service")
    assert contract.descriptor_set == make_set(*files)
    assert contract.fingerprint == fingerprint_of(contract.descriptor_set)
    assert checked(contract.descriptor_set).services == ("t.Service",)


def test_options_are_read_with_their_defaults() -> None:
    orders = Contract(orders_pb2.DESCRIPTOR, "Orders")
    assert orders.options.address == "contoso/orders"
    assert orders.options.operations["Close"].terminating
    events = Contract(orders_pb2.DESCRIPTOR, "OrderEvents")
    assert events.options.address == "samples.orders.v1.OrderEvents"


def test_file_without_the_service_has_no_contract() -> None:
    with pytest.raises(KeyError):
        Contract(greeter_pb2.DESCRIPTOR, "Orders")
