"""
Goal: a failed call raises what gRPC users catch, with the relay's facts, the same after pickling.

Method: outcomes in, exceptions and their exact texts out.
"""

from __future__ import annotations

import pickle

import grpc
import grpc.aio
import pytest

from relayrpc.endpoint.rpc_error import DeadlineExceededError, RpcError, make_rpc_error
from relayrpc.link.call import CallOutcome


UNAVAILABLE = CallOutcome(14, "no host listens at 'a'", (), "hub", False)
NOT_FOUND = CallOutcome(5, "no such thing", (("k", b"v"), ("d-bin", b"\x01")), "host", True)
DEADLINE = CallOutcome(4, "Deadline Exceeded", (), "caller", True)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (
            UNAVAILABLE,
            "<RpcError of RPC that terminated with:\n\tstatus = StatusCode.UNAVAILABLE\n"
            "\tdetails = \"no host listens at 'a'\"\n"
            '\tdebug_error_string = "origin=hub, may_have_executed=False"\n>',
        ),
        (
            NOT_FOUND,
            "<RpcError of RPC that terminated with:\n\tstatus = StatusCode.NOT_FOUND\n"
            '\tdetails = "no such thing"\n'
            '\tdebug_error_string = "origin=host, may_have_executed=True"\n>',
        ),
        (
            DEADLINE,
            "<DeadlineExceededError of RPC that terminated with:\n"
            '\tstatus = StatusCode.DEADLINE_EXCEEDED\n\tdetails = "Deadline Exceeded"\n'
            '\tdebug_error_string = "origin=caller, may_have_executed=True"\n>',
        ),
    ],
)
def test_error_text(outcome: CallOutcome, text: str) -> None:
    error = make_rpc_error(outcome, grpc.aio.Metadata())
    assert str(error) == text
    assert repr(error) == text


def test_error_is_what_grpc_users_catch() -> None:
    error = make_rpc_error(NOT_FOUND, grpc.aio.Metadata(("i", "1")))
    assert isinstance(error, grpc.aio.AioRpcError)
    assert isinstance(error, grpc.RpcError)
    assert not isinstance(error, TimeoutError)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such thing"
    assert error.initial_metadata() == (("i", "1"),)


def test_host_end_keeps_its_metadata_as_it_was() -> None:
    error = make_rpc_error(NOT_FOUND, grpc.aio.Metadata())
    assert error.trailing_metadata() == (("k", "v"), ("d-bin", b"\x01"))


def test_end_made_by_the_relay_carries_its_trailers() -> None:
    error = make_rpc_error(UNAVAILABLE, grpc.aio.Metadata())
    assert error.trailing_metadata() == (
        ("relay-origin", "hub"),
        ("relay-may-have-executed", "false"),
    )


def test_deadline_is_a_timeout_error() -> None:
    error = make_rpc_error(DEADLINE, grpc.aio.Metadata())
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, RpcError)


@pytest.mark.parametrize("outcome", [UNAVAILABLE, NOT_FOUND, DEADLINE])
def test_error_survives_pickling(outcome: CallOutcome) -> None:
    error = make_rpc_error(outcome, grpc.aio.Metadata(("i", "1")))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert (copy.origin, copy.may_have_executed) == (outcome.origin, outcome.may_have_executed)
    assert copy.initial_metadata() == error.initial_metadata()
    assert copy.trailing_metadata() == error.trailing_metadata()
