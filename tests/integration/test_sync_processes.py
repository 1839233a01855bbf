"""
Goal: Ctrl-C, the end of a process and fork() leave nothing behind: remote calls are cancelled,
hosts leave, and a child is told that what it inherited is closed.

Method: real processes, and a host in this one whose handlers say what they see. The hub keeps links
that are not closed for an hour, so that only what is closed in order ends in time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import relayrpc
from relayrpc.limits import Limits
from tests.support.blocking import HubThread, hub_thread, serving


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def patient_hub() -> Iterator[HubThread]:
    with hub_thread(limits=Limits(resume_window_s=3600)) as hub:
        yield hub


class Host:
    """Handlers that say when a call came and when it was over before they were done."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.was_cancelled = threading.Event()

    def hold(self, request: Any, context: Any) -> bytes:
        """Hold a call until it is over."""
        context.add_callback(self.was_cancelled.set)
        self.entered.set()
        self.was_cancelled.wait()
        return b""

    def numbers(self, request: bytes, context: Any) -> Iterator[bytes]:
        """Send one message, then none."""
        context.add_callback(self.was_cancelled.set)
        yield b"1"
        self.was_cancelled.wait()

    def swallow(self, requests: Iterator[bytes], context: Any) -> bytes:
        """Read requests until the call is over."""
        context.add_callback(self.was_cancelled.set)
        for _ in requests:
            self.entered.set()
        return b""

    def behaviors(self) -> dict[str, Callable[..., Any]]:
        return {
            "uu:E": lambda request, context: request,
            "uu:H": self.hold,
            "us:N": self.numbers,
            "su:S": self.swallow,
        }


@contextlib.contextmanager
def child(what: str, hub: HubThread) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "tests.integration.blocking_child", what, hub.url())
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


# --- interrupts ---


@pytest.mark.parametrize("what", ["interrupted_call", "interrupted_requests"])
def test_interrupt_cancels_the_call_and_leaves_the_channel(
    patient_hub: HubThread, what: str
) -> None:
    host = Host()
    with serving("relay", patient_hub, host.behaviors()), child(what, patient_hub) as process:
        host.entered.wait()
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "interrupted"
        host.was_cancelled.wait()
        assert line_of(process) == "still works"
        assert process.wait() == 0


def test_interrupt_of_a_waiting_future_leaves_its_call(patient_hub: HubThread) -> None:
    host = Host()
    with (
        serving("relay", patient_hub, host.behaviors()),
        child("interrupted_future", patient_hub) as process,
    ):
        host.entered.wait()
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "interrupted"
        assert line_of(process) == "running: True"
        host.was_cancelled.wait()
        assert process.wait() == 0


def test_interrupt_of_a_reader_cancels_the_stream_it_drops(patient_hub: HubThread) -> None:
    host = Host()
    with (
        serving("relay", patient_hub, host.behaviors()),
        child("interrupted_stream", patient_hub) as process,
    ):
        assert line_of(process) == "1"
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "interrupted"
        host.was_cancelled.wait()
        assert line_of(process) == "still works"
        assert process.wait() == 0


def test_interrupted_server_leaves_the_hub_when_its_process_ends(patient_hub: HubThread) -> None:
    with (
        child("interrupted_server", patient_hub) as process,
        relayrpc.channel(patient_hub.url()) as channel,
    ):
        assert line_of(process) == "serving"
        stub = channel.unary_unary("/test.Child/C")
        assert stub(b"x") == b"x"
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "interrupted"
        assert process.wait() == 0
        # A host that is only lost is waited for.
        with pytest.raises(relayrpc.RpcError) as caught:
            stub(b"x", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_server_may_be_stopped_by_the_handler_of_a_signal(patient_hub: HubThread) -> None:
    with child("terminated_server", patient_hub) as process:
        assert line_of(process) == "serving"
        process.terminate()
        assert line_of(process) == "timed out: False"
        assert process.wait() == 0


def test_process_that_ends_without_closing_cancels_its_calls(patient_hub: HubThread) -> None:
    host = Host()
    with (
        serving("relay", patient_hub, host.behaviors()),
        child("never_closed", patient_hub) as process,
    ):
        assert line_of(process) == "ending"
        host.entered.wait()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        host.was_cancelled.wait()


# --- fork ---


def in_a_fork(function: Callable[[], str]) -> str:
    """Return what a function returns, or raises, in a child of this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # not in the process that is measured
        try:
            text = function()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_channel_from_before_a_fork_is_closed_in_the_child(patient_hub: HubThread) -> None:
    with serving("relay", patient_hub, Host().behaviors()) as channel:
        stub = channel.unary_unary("/test.Service/E")
        assert stub(b"x") == b"x"
        said = in_a_fork(lambda: stub(b"x").decode())
        assert said.startswith("ValueError: Cannot invoke RPC on closed channel!")
        assert "used before fork()" in said
        said = in_a_fork(lambda: str(channel.close()))
        assert said == "None"
        assert stub(b"parent") == b"parent"


def test_calls_from_before_a_fork_are_over_in_the_child(patient_hub: HubThread) -> None:
    host = Host()
    with serving("relay", patient_hub, host.behaviors()) as channel:
        future: Any = channel.unary_unary("/test.Service/H").future(b"")
        stream: Any = channel.unary_stream("/test.Service/N")(b"")
        assert next(stream) == b"1"
        host.entered.wait()
        assert in_a_fork(lambda: f"{future.code()} {future.cancel()}") == (
            "StatusCode.CANCELLED False"
        )
        assert in_a_fork(future.result).startswith("RpcError")
        assert "used before fork()" in in_a_fork(lambda: next(stream))
        assert future.running()
        assert stream.is_active()
        assert future.cancel()


def test_session_from_before_a_fork_is_over_in_the_child(patient_hub: HubThread) -> None:
    with (
        serving("relay", patient_hub, Host().behaviors()) as channel,
        channel.session() as session,  # type: ignore[attr-defined]  # the relay's
    ):
        stub = session.unary_unary("/test.Service/E")
        assert stub(b"x") == b"x"
        for refused in (lambda: stub(b"x"), channel.session):  # type: ignore[attr-defined]
            assert "used before fork()" in in_a_fork(refused)
        assert in_a_fork(lambda: session.state.name) == "FAULTED"
        assert "used before fork()" in in_a_fork(lambda: session.fault)
        for end in (session.close, session.abort):
            assert in_a_fork(lambda end=end: str(end())) == "None"  # type: ignore[misc]
        assert stub(b"parent") == b"parent"


def test_caller_from_before_a_fork_is_not_called_back_by_the_child(
    patient_hub: HubThread,
) -> None:
    kept: list[Any] = []

    def keep(request: bytes, context: Any) -> bytes:
        kept.append(context.caller())
        return b""

    with serving("relay", patient_hub, {"uu:K": keep}) as channel:
        channel.unary_unary("/test.Service/K")(b"")
        [caller] = kept
        stub = caller.unary_unary("/test.Events/E")
        assert "was started before fork()" in in_a_fork(lambda: stub(b"x"))
        assert in_a_fork(lambda: str(caller.close())) == "None"


def test_child_of_a_fork_may_have_a_channel_of_its_own(patient_hub: HubThread) -> None:
    def call() -> str:
        with relayrpc.channel(patient_hub.url()) as own:
            response: bytes = own.unary_unary("/test.Service/E")(b"own", timeout=60)
            return response.decode()

    with serving("relay", patient_hub, Host().behaviors()) as channel:
        assert channel.unary_unary("/test.Service/E")(b"x") == b"x"
        assert in_a_fork(call) == "own"


def test_channel_that_was_not_used_before_a_fork_may_be_in_the_child(
    patient_hub: HubThread,
) -> None:
    with (
        serving("relay", patient_hub, Host().behaviors()),
        relayrpc.channel(patient_hub.url()) as channel,
    ):
        stub = channel.unary_unary("/test.Service/E")
        assert in_a_fork(lambda: stub(b"first", timeout=60).decode()) == "first"
        assert stub(b"x") == b"x"
        # Else the two would replace each other's link.
        assert in_a_fork(lambda: channel.core.live.instance) == channel.core.live.instance
    with relayrpc.channel(patient_hub.url()) as channel:
        assert in_a_fork(lambda: channel.core.live.instance) != channel.core.live.instance
    with relayrpc.channel(patient_hub.url(), instance="mine") as channel:
        assert in_a_fork(lambda: channel.core.live.instance) == "mine"


def test_channel_of_a_server_from_before_a_fork_is_closed_in_the_child(
    patient_hub: HubThread,
) -> None:
    host = Host()
    server = relayrpc.server(patient_hub.url("forked"))
    handlers = {
        "E": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        "H": grpc.unary_unary_rpc_method_handler(host.hold),
    }
    server.add_registered_method_handlers("test.Service", handlers)
    server.start()
    with server.channel("forked") as channel:
        stub = channel.unary_unary("/test.Service/E")
        assert stub(b"x") == b"x"
        future: Any = channel.unary_unary("/test.Service/H").future(b"")
        host.entered.wait()
        assert "used before fork()" in in_a_fork(lambda: stub(b"x"))
        assert in_a_fork(lambda: str(future.code())) == "StatusCode.CANCELLED"
        assert in_a_fork(lambda: str(channel.close())) == "None"
        assert stub(b"parent") == b"parent"
        assert future.running()
    assert future.code() is grpc.StatusCode.CANCELLED
    server.stop(None)


def test_server_from_before_a_fork_is_over_in_the_child(patient_hub: HubThread) -> None:
    server = relayrpc.server(patient_hub.url("forked"))
    handlers = {"E": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
    server.add_registered_method_handlers("test.Service", handlers)
    server.start()
    assert in_a_fork(lambda: str(server.stop(None).is_set())) == "True"
    assert in_a_fork(lambda: str(server.wait_for_termination())) == "False"
    with relayrpc.channel(patient_hub.url("forked")) as channel:
        assert channel.unary_unary("/test.Service/E")(b"x") == b"x"
    server.stop(None)
