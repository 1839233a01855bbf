"""
Goal: a fault is its message, its status and its text; the error of a call is one, where its class
is known, and no peer's details break it.

Method: faults and outcomes in, exceptions and statuses out.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, QuotaFailure, ResourceInfo

import relayrpc
from relayrpc.endpoint import faults
from relayrpc.endpoint.rpc_error import DeadlineExceededError, RpcError, make_rpc_error
from relayrpc.endpoint.sync_error import RpcError as SyncRpcError
from relayrpc.endpoint.sync_error import make_sync_rpc_error
from relayrpc.link.call import DETAILS_KEY, CallOutcome
from tests.support.fault_contract import OutOfStockFault, QuotaFault


BOOK = ResourceInfo(resource_type="book", resource_name="A7")


class OtherOutOfStockFault(relayrpc.Fault[ResourceInfo]):
    """As another module's generated code has it, whose contracts declare the same message."""


def ended(fault: relayrpc.Fault[Any], **changes: Any) -> CallOutcome:
    """How a call ends whose handler raised a fault."""
    status = fault.to_status()
    trailing = (("k", b"v"), *status.trailing_metadata)
    outcome = CallOutcome(status.code.value[0], status.details, trailing, "host", True)
    return outcome._replace(**changes) if changes else outcome


def with_details(data: bytes, *, status: int = 9) -> CallOutcome:
    return CallOutcome(status, "why", ((DETAILS_KEY, data),), "host", True)


def rich(*details: any_pb2.Any) -> bytes:
    data: bytes = status_pb2.Status(code=9, message="why", details=details).SerializeToString()
    return data


def packed(message: Any) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(message)
    return made


# --- raised ---


def test_fault_is_made_of_its_message_or_of_its_fields() -> None:
    for fault in (
        OutOfStockFault(BOOK),
        OutOfStockFault({"resource_type": "book", "resource_name": "A7", "owner": None}),
        OutOfStockFault.from_detail(BOOK),
    ):
        assert fault.detail == BOOK
        assert fault.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert fault.details() == str(fault) == "resource info"
        assert (fault.origin, fault.may_have_executed) == ("host", True)


def test_fault_has_the_status_and_text_that_it_is_given() -> None:
    fault = OutOfStockFault(BOOK, code=grpc.StatusCode.NOT_FOUND, reason="no book A7: ä")
    assert fault.code() is grpc.StatusCode.NOT_FOUND
    assert fault.details() == str(fault) == "no book A7: ä"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OutOfStock", "out of stock"),
        ("HTTPError2", "http error2"),
        ("Out_of__Stock", "out of stock"),
        ("x", "x"),
    ],
)
def test_reason_is_made_of_the_name(name: str, words: str) -> None:
    assert faults._words(name) == words


def test_mistakes_are_told() -> None:
    with pytest.raises(TypeError, match=r"takes a google.rpc.ResourceInfo, not QuotaFailure"):
        OutOfStockFault(QuotaFailure())
    with pytest.raises(ValueError, match='no "sku" field'):
        OutOfStockFault({"sku": "A7"})
    for code in (grpc.StatusCode.OK, 5):
        with pytest.raises(ValueError, match=r"is none; give it a grpc\.StatusCode"):
            OutOfStockFault(BOOK, code=code)
    with pytest.raises(TypeError, match=r"derive it from relayrpc.Fault\[TheMessage\]"):
        relayrpc.Fault(BOOK)


def test_status_is_what_grpcs_servers_take() -> None:
    status = OutOfStockFault(BOOK, reason="gone").to_status()
    assert isinstance(status, grpc.Status)
    ((key, data),) = status.trailing_metadata
    assert key == "grpc-status-details-bin"
    rich_status = status_pb2.Status.FromString(data)
    assert (rich_status.code, rich_status.message) == (9, "gone") == (9, status.details)
    (detail,) = rich_status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.ResourceInfo"
    assert ResourceInfo.FromString(detail.value) == BOOK


def test_fault_is_the_same_after_pickling_and_copying() -> None:
    fault = OutOfStockFault(BOOK, code=grpc.StatusCode.NOT_FOUND, reason="gone")
    for again in (pickle.loads(pickle.dumps(fault)), copy.copy(fault)):
        assert type(again) is OutOfStockFault
        assert again.detail == BOOK
        assert (again.code(), again.details()) == (grpc.StatusCode.NOT_FOUND, "gone")


# --- received ---


def test_error_of_a_call_is_the_fault_and_what_grpc_users_catch() -> None:
    outcome = ended(OutOfStockFault(BOOK, reason="gone"))
    error = make_rpc_error(outcome, grpc.aio.Metadata(("i", "1")))
    assert isinstance(error, OutOfStockFault)
    assert isinstance(error, RpcError)
    assert isinstance(error, grpc.aio.AioRpcError)
    assert not isinstance(error, QuotaFault)
    assert error.detail == BOOK
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "gone"
    assert error.initial_metadata() == (("i", "1"),)
    assert error.trailing_metadata()["k"] == "v"
    assert (error.origin, error.may_have_executed) == ("host", True)
    assert str(error).startswith("<OutOfStockFault of RPC that terminated with:")
    assert type(error).__module__ == OutOfStockFault.__module__


def test_error_of_a_blocking_call_is_the_fault_and_what_grpc_users_catch() -> None:
    error = make_sync_rpc_error(ended(OutOfStockFault(BOOK, reason="gone")), ())
    assert isinstance(error, OutOfStockFault)
    assert isinstance(error, SyncRpcError)
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert error.detail == BOOK
    assert error.details() == "gone"
    assert dict(error.trailing_metadata())["k"] == "v"
    assert error.exception() is error
    with pytest.raises(OutOfStockFault):
        error.result()


def test_error_is_every_class_that_is_known_for_the_message() -> None:
    error = make_rpc_error(ended(OutOfStockFault(BOOK)), grpc.aio.Metadata())
    assert isinstance(error, OtherOutOfStockFault)


def test_classes_of_errors_are_made_once() -> None:
    first, second = (
        make_rpc_error(ended(OutOfStockFault(BOOK)), grpc.aio.Metadata()) for _ in range(2)
    )
    assert type(first) is type(second)


def test_deadline_stays_a_timeout() -> None:
    fault = OutOfStockFault(BOOK, code=grpc.StatusCode.DEADLINE_EXCEEDED)
    error = make_rpc_error(ended(fault), grpc.aio.Metadata())
    assert isinstance(error, OutOfStockFault)
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, TimeoutError)


@pytest.mark.parametrize("make", [make_rpc_error, make_sync_rpc_error])
def test_error_is_the_same_after_pickling_and_copying(make: Any) -> None:
    error = make(ended(OutOfStockFault(BOOK, reason="gone")), grpc.aio.Metadata(("i", "1")))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert again.detail == BOOK
        assert str(again) == str(error)
        assert again.initial_metadata() == error.initial_metadata()
        assert again.trailing_metadata() == error.trailing_metadata()
        assert (again.origin, again.may_have_executed) == ("host", True)


def test_first_detail_that_is_known_counts() -> None:
    details = (packed(BadRequest()), packed(QuotaFailure()), packed(BOOK))
    error = make_rpc_error(with_details(rich(*details)), grpc.aio.Metadata())
    assert isinstance(error, QuotaFault)
    assert not isinstance(error, OutOfStockFault)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff",
        rich(),
        rich(packed(BadRequest())),
        rich(any_pb2.Any(type_url="", value=b"")),
        rich(any_pb2.Any(type_url="/", value=b"")),
        rich(any_pb2.Any(type_url="x/google.rpc.ResourceInfo", value=b"\xff\xff")),
        # Its field is text, and this is none.
        rich(any_pb2.Any(type_url="x/google.rpc.ResourceInfo", value=b"\x0a\x01\xff")),
    ],
)
def test_error_with_details_that_are_no_known_fault_is_plain(data: bytes) -> None:
    error = make_rpc_error(with_details(data), grpc.aio.Metadata())
    assert type(error) is RpcError
    assert error.trailing_metadata()[DETAILS_KEY] == data
    assert relayrpc.Fault.from_error(error) is None


def test_fault_that_is_broken_does_not_hide_the_next() -> None:
    broken = any_pb2.Any(type_url="x/google.rpc.ResourceInfo", value=b"\xff\xff")
    error = make_rpc_error(with_details(rich(broken, packed(QuotaFailure()))), grpc.aio.Metadata())
    assert isinstance(error, QuotaFault)


def test_module_that_is_loaded_again_takes_the_place_of_its_class() -> None:
    def load() -> Any:
        class ReloadedFault(relayrpc.Fault[BadRequest]):
            pass

        return ReloadedFault

    old, new = load(), load()
    error = make_rpc_error(ended(new(BadRequest())), grpc.aio.Metadata())
    assert isinstance(error, new)
    assert not isinstance(error, old)
    faults._classes.pop("google.rpc.BadRequest")


# --- of other channels ---


def plain_error(fault: relayrpc.Fault[Any]) -> grpc.aio.AioRpcError:
    status = fault.to_status()
    trailing = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)


def test_fault_is_found_in_any_grpc_error() -> None:
    error = plain_error(OutOfStockFault(BOOK, code=grpc.StatusCode.ABORTED, reason="gone"))
    found = OutOfStockFault.from_error(error)
    assert type(found) is OutOfStockFault
    assert found.detail == BOOK
    assert (found.code(), found.details()) == (grpc.StatusCode.ABORTED, "gone")
    assert isinstance(relayrpc.Fault.from_error(error), OutOfStockFault)
    assert QuotaFault.from_error(error) is None


def test_fault_is_found_as_the_class_that_asks() -> None:
    class Sold(OutOfStockFault):
        pass

    assert type(Sold.from_error(plain_error(OutOfStockFault(BOOK)))) is Sold


def test_error_that_is_the_fault_is_found_as_it_is() -> None:
    error = make_rpc_error(ended(OutOfStockFault(BOOK)), grpc.aio.Metadata())
    assert OutOfStockFault.from_error(error) is error
    assert relayrpc.Fault.from_error(error) is error
    assert QuotaFault.from_error(error) is None


def test_there_is_no_fault_in_what_is_no_error_of_a_call() -> None:
    assert relayrpc.Fault.from_error(ValueError()) is None
    assert relayrpc.Fault.from_error(grpc.RpcError()) is None
    error = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED)
    assert relayrpc.Fault.from_error(error) is None
