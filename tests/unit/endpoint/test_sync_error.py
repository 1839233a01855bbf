"""
Goal: a failed blocking call raises what gRPC users catch: an error that is the call and its future,
with the relay's facts, the same after pickling.

Method: outcomes in, exceptions and their exact texts out.
"""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest

from relayrpc.endpoint.metadata import Metadatum
from relayrpc.endpoint.sync_error import DeadlineExceededError, RpcError, make_sync_rpc_error
from relayrpc.link.call import CallOutcome


UNAVAILABLE = CallOutcome(14, "no host listens at 'a'", (), "hub", False)
NOT_FOUND = CallOutcome(5, "no such thing", (("k", b"v"), ("d-bin", b"\x01")), "host", True)
DEADLINE = CallOutcome(4, "Deadline Exceeded", (), "caller", True)
INITIAL = (Metadatum("i", "1"),)


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
            DEADLINE,
            "<DeadlineExceededError of RPC that terminated with:\n"
            '\tstatus = StatusCode.DEADLINE_EXCEEDED\n\tdetails = "Deadline Exceeded"\n'
            '\tdebug_error_string = "origin=caller, may_have_executed=True"\n>',
        ),
    ],
)
def test_error_text(outcome: CallOutcome, text: str) -> None:
    error = make_sync_rpc_error(outcome, ())
    assert str(error) == text
    assert repr(error) == text


def test_error_is_a_call_and_a_future_that_are_over() -> None:
    error: Any = make_sync_rpc_error(NOT_FOUND, INITIAL)
    for kind in (grpc.RpcError, grpc.Call, grpc.Future):
        assert isinstance(error, kind)
    assert not isinstance(error, TimeoutError)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert error.initial_metadata() == INITIAL
    # A host's own end is told as it is.
    assert error.trailing_metadata() == (("k", "v"), ("d-bin", b"\x01"))
    assert (error.is_active(), error.running(), error.done()) == (False, False, True)
    assert (error.cancel(), error.cancelled()) == (False, False)
    assert error.time_remaining() is None
    assert not error.add_callback(lambda: None)
    assert error.exception(timeout=1) is error
    assert error.traceback(timeout=1) is not None
    with pytest.raises(RpcError) as caught:
        error.result(timeout=1)
    assert caught.value is error
    told: list[Any] = []
    error.add_done_callback(told.append)
    assert told == [error]


def test_end_that_the_relay_made_says_so_in_its_trailers() -> None:
    assert make_sync_rpc_error(UNAVAILABLE, ()).trailing_metadata() == (
        ("relay-origin", "hub"),
        ("relay-may-have-executed", "false"),
    )


@pytest.mark.parametrize("outcome", [UNAVAILABLE, NOT_FOUND, DEADLINE])
def test_error_survives_pickling(outcome: CallOutcome) -> None:
    error = make_sync_rpc_error(outcome, INITIAL)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.origin == error.origin
    assert copy.may_have_executed is error.may_have_executed
    assert copy.initial_metadata() == error.initial_metadata()
    assert copy.trailing_metadata() == error.trailing_metadata()


def test_deadline_is_a_timeout_error_too() -> None:
    error = make_sync_rpc_error(DEADLINE, ())
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, RpcError)
