"""
Callers whose contract is compared with the hub's. Goal: a stub that would misread what hosts serve
fails before anything reaches a host, with what differs; any other one calls as ever, after one
question for each address and service.

Method: real hubs and hosts in this process; the callers' stubs are of the sample's contract, and
hosts serve changed versions of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

import relayrpc
import relayrpc.aio
from relayrpc.contract.compatibility import Comparison
from relayrpc.contract.descriptors import DescriptorSet, collect
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.hub import contract_checks
from relayrpc.hub.addresses import AddressEntry, Compatibility
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import hub_pb2 as pb
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.support.contract_hosts import Liar, serving_contract
from tests.support.contracts import make_set
from tests.support.log_records import hub_records
from tests.support.relay import running_hub
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration

SERVICE = "samples.greeter.v1.Greeter"
CHECK = "relayrpc.v1.Hub/CheckContract"
HELLO = greeter_pb2.HelloRequest(name="Ada")
ANSWER = pb.CheckContractResponse


def at(hub: Hub, address: str = "a") -> str:
    return f"ws://127.0.0.1:{hub.http_port}/{address}"


def version(change: Callable[[FileDescriptorProto], object] | None = None) -> FileDescriptorProto:
    """The sample's file, or a changed one."""
    file = FileDescriptorProto.FromString(greeter_pb2.DESCRIPTOR.serialized_pb)
    if change is not None:
        change(file)
    return file


class Questions(HubObserver):
    """The hub's own calls of CheckContract, and calls of the sample's."""

    def __init__(self, hub: Hub) -> None:
        self.asked: list[str] = []
        self.calls_count = 0
        hub.sessions.observers.add(self)

    def call_opened(self, call: Any, opening: Any) -> None:
        if call.method == CHECK:
            self.asked.append(call.address)
        elif call.method.startswith(SERVICE):
            self.calls_count += 1


@contextlib.asynccontextmanager
async def greeting(hub: Hub, address: str = "a", **options: Any) -> AsyncIterator[None]:
    """Serve the sample as it is."""
    server = relayrpc.aio.server(at(hub, address), **options)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def calling(hub: Hub, address: str = "a", **options: Any) -> AsyncIterator[Any]:
    async with relayrpc.aio.channel(at(hub, address), **options) as channel:
        yield greeter_pb2_grpc.GreeterStub(channel)


async def refused(call: Any) -> relayrpc.aio.RpcError:
    with pytest.raises(relayrpc.aio.RpcError) as error:
        await call
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (error.value.origin, error.value.may_have_executed) == ("caller", False)
    return error.value


async def ask(hub: Hub, **fields: Any) -> pb.CheckContractResponse:
    """Ask as a channel does."""
    async with relayrpc.aio.channel(at(hub, "$hub")) as channel:
        call = channel.unary_unary(
            f"/{CHECK}", pb.CheckContractRequest.SerializeToString, ANSWER.FromString
        )
        answer: pb.CheckContractResponse = await call(pb.CheckContractRequest(**fields))
        return answer


# --- stubs that fit ---


async def test_hub_is_asked_once_for_each_address_and_service() -> None:
    async with running_hub() as hub, greeting(hub, "a"), greeting(hub, "b"):
        questions = Questions(hub)
        async with calling(hub) as greeter:
            for _ in range(3):
                assert (await greeter.SayHello(HELLO)).message
            async for _ in greeter.ListGreetings(HELLO):
                pass
            elsewhere = (("relay-address", "b"),)
            for _ in range(2):
                assert (await greeter.SayHello(HELLO, metadata=elsewhere, timeout=30)).message
    assert questions.asked == ["$hub", "$hub"]
    assert questions.calls_count == 6


async def test_calls_made_at_once_wait_for_one_answer_in_their_order() -> None:
    served: list[str] = []

    class Noting(Greeter):
        async def SayHello(self, request: Any, context: Any) -> Any:
            served.append(request.name)
            return await super().SayHello(request, context)

    async with running_hub() as hub:
        server = relayrpc.aio.server(at(hub))
        greeter_pb2_grpc.add_GreeterServicer_to_server(Noting(), server)
        await server.start()
        questions = Questions(hub)
        async with calling(hub) as greeter:
            names = [f"{number}" for number in range(50)]
            calls = [greeter.SayHello(greeter_pb2.HelloRequest(name=name)) for name in names]
            await asyncio.gather(*calls)
        await server.stop(None)
    assert len(questions.asked) == 1
    assert served == names


async def test_compatible_version_is_called_although_the_hub_has_never_seen_the_callers() -> None:
    """The hub asks for the caller's descriptors, once for all callers."""

    def grow(file: FileDescriptorProto) -> None:
        file.message_type[0].field.add(name="z", number=99, type=5, label=1)

    newer = version(grow)
    async with running_hub() as hub, serving_contract(at(hub), newer):
        questions = Questions(hub)
        for _ in range(2):
            async with calling(hub) as greeter:
                assert await greeter.SayHello(HELLO) is not None
    assert len(questions.asked) == 3


async def test_older_host_of_a_rollout_is_called_by_the_newer_stub() -> None:
    """Both versions were accepted: they serve side by side."""
    older = version(lambda file: file.service[0].method.pop())
    async with running_hub() as hub:
        async with serving_contract(at(hub), older), greeting(hub):
            pass
        async with serving_contract(at(hub), older), calling(hub) as greeter:
            assert await greeter.SayHello(HELLO) is not None


async def test_streams_and_sessions_wait_too() -> None:
    async with running_hub() as hub, greeting(hub), calling(hub) as greeter:
        call = greeter.Chat()
        await call.write(HELLO)
        await call.done_writing()
        assert await call.read()
    async with running_hub() as hub, greeting(hub):
        questions = Questions(hub)
        async with relayrpc.aio.channel(at(hub)) as channel, channel.session() as session:
            stub = greeter_pb2_grpc.GreeterStub(session)
            assert (await stub.SayHello(HELLO)).message
            assert (await stub.SayHello(HELLO)).message
    assert len(questions.asked) == 1


@pytest.mark.parametrize("is_checked", [True, False])
def test_blocking_channels_are_checked_too(is_checked: bool) -> None:
    with _in_thread() as hub, relayrpc.channel(at(hub), check_contract=is_checked) as channel:
        stub = greeter_pb2_grpc.GreeterStub(channel)
        if is_checked:
            with pytest.raises(relayrpc.RpcError) as error:
                stub.SayHello(HELLO, timeout=60)
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            with pytest.raises(relayrpc.RpcError, match="FAILED_PRECONDITION"):
                stub.CollectNames(iter([HELLO]), timeout=60)
        else:
            assert stub.SayHello(HELLO, timeout=60) is not None


@contextlib.contextmanager
def _in_thread() -> Iterator[Hub]:
    """Run a hub and a host of another contract on a loop of their own."""
    ready = threading.Event()
    holder: dict[str, Any] = {}

    async def main() -> None:
        holder["stop"] = stop = asyncio.Event()
        holder["loop"] = asyncio.get_running_loop()
        async with running_hub() as hub, serving_contract(at(hub), version(_retype)):
            holder["hub"] = hub
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait()
    try:
        yield holder["hub"]
    finally:
        holder["loop"].call_soon_threadsafe(holder["stop"].set)
        thread.join()


# --- stubs that do not ---


def _retype(file: FileDescriptorProto) -> None:
    file.message_type[0].field[0].type = FieldDescriptorProto.TYPE_INT32


def _renumber(file: FileDescriptorProto) -> None:
    file.message_type[0].field[0].number = 17


def _relabel(file: FileDescriptorProto) -> None:
    file.message_type[0].field[0].label = FieldDescriptorProto.LABEL_REPEATED


def _reshape(file: FileDescriptorProto) -> None:
    file.service[0].method[0].server_streaming = True


def _rename(file: FileDescriptorProto) -> None:
    file.service[0].method[0].name = "Greet"


BREAKING = {
    "type": (_retype, "FIELD_WIRE_JSON_COMPATIBLE_TYPE"),
    "number": (_renumber, "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED"),
    "label": (_relabel, "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY"),
    "shape": (_reshape, "RPC_SAME_SERVER_STREAMING"),
    "method": (_rename, "RPC_NO_DELETE"),
}


@pytest.mark.parametrize("name", BREAKING)
async def test_stub_that_does_not_fit_fails_before_anything_reaches_the_host(name: str) -> None:
    change, rule = BREAKING[name]
    async with running_hub() as hub, serving_contract(at(hub), version(change)):
        questions = Questions(hub)
        async with calling(hub) as greeter:
            error = await refused(greeter.SayHello(HELLO))
            await refused(greeter.SayHello(HELLO, timeout=30))
            with pytest.raises(relayrpc.aio.RpcError, match="FAILED_PRECONDITION"):
                async for _ in greeter.ListGreetings(HELLO):
                    pass
    assert rule in (error.details() or "")
    held = fingerprint_of(collect(greeter_pb2.DESCRIPTOR)).hex()[:12]
    served = fingerprint_of(make_set(version(change))).hex()[:12]
    assert (error.details() or "").startswith(
        f"this caller was built with version {held} of {SERVICE!r}, and hosts at 'a' serve "
        f"version {served}, which breaks it: "
    )
    assert questions.calls_count == 0


async def test_stub_fits_once_hosts_do() -> None:
    """A caller that was deployed before them; what does not fit is asked about at each call."""
    older = version(lambda file: file.service[0].method.pop())
    async with running_hub() as hub, calling(hub) as greeter, serving_contract(at(hub), older):
        error = await refused(greeter.SayHello(HELLO))
        assert "Greeter.Chat: is gone [RPC_NO_DELETE]" in (error.details() or "")
        async with greeting(hub):
            assert (await greeter.SayHello(HELLO)).message


_NOT_COMPARED = {"any": AddressEntry(compatibility=Compatibility.NONE)}


async def test_check_can_be_turned_off() -> None:
    async with running_hub() as hub, serving_contract(at(hub), version(_retype)):
        questions = Questions(hub)
        async with calling(hub, check_contract=False) as greeter:
            assert await greeter.SayHello(HELLO) is not None
    assert not questions.asked


async def test_where_versions_are_not_compared_callers_are_not_either() -> None:
    async with (
        running_hub(addresses=_NOT_COMPARED) as hub,
        serving_contract(at(hub, "any"), version(_retype)),
        calling(hub, "any") as greeter,
    ):
        assert await greeter.SayHello(HELLO) is not None


async def test_refused_call_is_not_made_again_and_interceptors_see_it() -> None:
    seen: list[Any] = []

    class Watching(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # no types
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            seen.append(await call.code())
            return call

    async with (
        running_hub() as hub,
        serving_contract(at(hub), version(_retype)),
        calling(hub, interceptors=[Watching()]) as greeter,
    ):
        await refused(greeter.SayHello(HELLO))
    assert seen == [grpc.StatusCode.FAILED_PRECONDITION]


# --- hubs that cannot say ---


async def test_no_host_is_told_by_the_call_and_asked_about_again() -> None:
    async with running_hub() as hub, calling(hub) as greeter:
        questions = Questions(hub)
        for _ in range(2):
            with pytest.raises(relayrpc.aio.RpcError, match="UNAVAILABLE"):
                await greeter.SayHello(HELLO, timeout=60)
        async with greeting(hub):
            assert (await greeter.SayHello(HELLO)).message
            assert (await greeter.SayHello(HELLO)).message
        assert len(questions.asked) >= 3


async def test_host_without_a_contract_is_called_and_asked_about_after_a_while() -> None:
    limits = replace(DEFAULT_LIMITS, contract_recheck_s=0.05)
    async with running_hub() as hub, greeting(hub, "other"):
        unknown = Liar(b"", lambda *_: None)
        async with (
            serving_contract(at(hub), version(_retype), contracts=unknown),
            calling(hub, limits=limits) as greeter,
        ):
            questions = Questions(hub)
            assert await greeter.SayHello(HELLO) is not None

            async def asked_again() -> bool:
                await greeter.SayHello(HELLO)
                return len(questions.asked) > 1

            await until(asked_again)


async def test_channel_remembers_so_many_services() -> None:
    """The one that was compared first is forgotten first, and asked about again."""
    limits = replace(DEFAULT_LIMITS, checked_services_max=2)
    async with running_hub() as hub, greeting(hub, "a"), greeting(hub, "b"), greeting(hub, "c"):
        questions = Questions(hub)
        async with calling(hub, limits=limits) as greeter:

            async def asked_count(*addresses: str) -> int:
                before = len(questions.asked)
                for address in addresses:
                    await greeter.SayHello(HELLO, metadata=(("relay-address", address),))
                return len(questions.asked) - before

            assert await asked_count("a", "b", "a", "b") == 2
            assert await asked_count("c", "b") == 1
            assert await asked_count("a") == 1
            assert await asked_count("c", "a") == 0


async def test_hub_that_is_too_old_is_called_as_ever() -> None:
    async with running_hub() as hub, greeting(hub), calling(hub) as greeter:
        handlers = hub._inside._management._server._table
        with pytest.MonkeyPatch.context() as patched:
            found = handlers.find
            patched.setattr(
                handlers, "find", lambda method: None if method == CHECK else found(method)
            )
            assert (await greeter.SayHello(HELLO)).message


async def test_deadline_of_the_call_is_the_checks() -> None:
    async with running_hub() as hub, TCPProxy(hub.http_port) as proxy, greeting(hub):
        url = f"ws://127.0.0.1:{proxy.port}/a"
        async with relayrpc.aio.channel(url) as channel:
            await channel.channel_ready()
            proxy.stall()
            stub = greeter_pb2_grpc.GreeterStub(channel)
            with pytest.raises(relayrpc.aio.RpcError) as late:
                await stub.SayHello(HELLO, timeout=0.1)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not late.value.may_have_executed
            # Whoever waited for the same answer asks itself.
            proxy.resume()
            assert (await stub.SayHello(HELLO, timeout=60)).message


async def test_cancelled_call_leaves_the_question_to_the_next() -> None:
    async with (
        running_hub() as hub,
        TCPProxy(hub.http_port) as proxy,
        greeting(hub),
        relayrpc.aio.channel(f"ws://127.0.0.1:{proxy.port}/a") as channel,
    ):
        await channel.channel_ready()
        proxy.stall()
        stub = greeter_pb2_grpc.GreeterStub(channel)
        first, second = stub.SayHello(HELLO), stub.SayHello(HELLO)
        answering = asyncio.ensure_future(_message(second))
        await asyncio.sleep(0)
        first.cancel()
        proxy.resume()
        assert await answering


async def _message(call: Any) -> str:
    message: str = (await call).message
    return message


async def test_channel_closes_while_the_hub_is_asked() -> None:
    async with running_hub() as hub, TCPProxy(hub.http_port) as proxy, greeting(hub):
        channel = relayrpc.aio.channel(f"ws://127.0.0.1:{proxy.port}/a")
        await channel.channel_ready()
        proxy.stall()
        call = greeter_pb2_grpc.GreeterStub(channel).SayHello(HELLO)
        waiting = asyncio.ensure_future(call.code())
        await asyncio.sleep(0)
        await channel.close()
        assert await waiting is grpc.StatusCode.CANCELLED


# --- what the hub answers ---


async def test_hub_answers_what_it_knows() -> None:
    data = collect(greeter_pb2.DESCRIPTOR)
    name = fingerprint_of(data)
    where = {"address": "a", "service": SERVICE}
    async with running_hub() as hub:
        assert (await ask(hub, fingerprint=name, **where)).answer == ANSWER.ANSWER_NO_HOST
        async with serving_contract(at(hub), version(_retype)):
            unknown = await ask(hub, fingerprint=name, **where)
            told = await ask(hub, fingerprint=name, descriptor_set=data, **where)
            known = await ask(hub, fingerprint=name, **where)
        async with greeting(hub, "b"):
            same = await ask(hub, address="b", service=SERVICE, fingerprint=name)
    assert unknown.answer == ANSWER.ANSWER_SEND_DESCRIPTORS
    assert told.answer == ANSWER.ANSWER_INCOMPATIBLE
    assert told.differences[0].element == f"{SERVICE.rpartition('.')[0]}.HelloRequest.name"
    assert known == told
    assert same.answer == ANSWER.ANSWER_SAME


@pytest.mark.parametrize(
    ("fingerprint", "data", "said"),
    [
        (b"short", b"", "a fingerprint has 32 bytes"),
        (bytes(32), b"lie", "the descriptors have the fingerprint"),
        (fingerprint_of(b"broken"), b"broken", "the bytes are no descriptor set"),
        (
            fingerprint_of(make_set(version(lambda file: file.service.pop()))),
            make_set(version(lambda file: file.service.pop())),
            "the descriptors do not define",
        ),
    ],
)
async def test_descriptors_of_callers_that_cannot_be_used_are_refused(
    fingerprint: bytes, data: bytes, said: str
) -> None:
    async with running_hub() as hub, serving_contract(at(hub), version(_retype)):
        with pytest.raises(relayrpc.aio.RpcError) as error:
            await ask(
                hub, address="a", service=SERVICE, fingerprint=fingerprint, descriptor_set=data
            )
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (error.value.details() or "")


async def test_hub_compares_so_many_at_a_time() -> None:
    limits = replace(DEFAULT_LIMITS, contract_checks_max=0)
    data = collect(greeter_pb2.DESCRIPTOR)
    async with running_hub(limits=limits) as hub, serving_contract(at(hub), version(_retype)):
        with pytest.raises(relayrpc.aio.RpcError) as error:
            await ask(
                hub,
                address="a",
                service=SERVICE,
                fingerprint=fingerprint_of(data),
                descriptor_set=data,
            )
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # A caller is not kept from calling by that.
        async with calling(hub) as greeter:
            assert await greeter.SayHello(HELLO) is not None


async def test_hub_remembers_so_many_comparisons() -> None:
    """Of one that it has forgotten it needs the descriptors again."""
    limits = replace(DEFAULT_LIMITS, contract_verdicts_max=1)
    versions = [
        make_set(version(lambda file, name=name: file.message_type.add(name=name)))
        for name in ("First", "Second")
    ]
    async with running_hub(limits=limits) as hub, serving_contract(at(hub), version(_retype)):

        async def answer(number: int, *, is_told: bool = False) -> int:
            data = versions[number]
            told = await ask(
                hub,
                address="a",
                service=SERVICE,
                fingerprint=fingerprint_of(data),
                descriptor_set=data if is_told else b"",
            )
            return told.answer

        assert await answer(0, is_told=True) == ANSWER.ANSWER_INCOMPATIBLE
        assert await answer(0) == ANSWER.ANSWER_INCOMPATIBLE
        assert await answer(1, is_told=True) == ANSWER.ANSWER_INCOMPATIBLE
        assert await answer(1) == ANSWER.ANSWER_INCOMPATIBLE
        assert await answer(0) == ANSWER.ANSWER_SEND_DESCRIPTORS


async def test_callers_that_ask_at_once_have_one_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []

    class Noting(Comparison):
        def __init__(self, old: DescriptorSet, new: DescriptorSet, service: str, **kwargs: Any):
            compared.append(service)
            super().__init__(old, new, service, **kwargs)

    data = collect(greeter_pb2.DESCRIPTOR)
    question = {"service": SERVICE, "fingerprint": fingerprint_of(data), "descriptor_set": data}
    async with running_hub() as hub, serving_contract(at(hub), version(_retype)):
        monkeypatch.setattr(contract_checks, "Comparison", Noting)
        questions = Questions(hub)
        async with hub._inside.contracts.checking:
            asking = [asyncio.ensure_future(ask(hub, address="a", **question)) for _ in range(4)]
            await until(lambda: len(questions.asked) == len(asking))
            # Each waits for its turn to compare.
            for _ in range(20):
                await asyncio.sleep(0)
        first, *others = await asyncio.gather(*asking)
    assert first.answer == ANSWER.ANSWER_INCOMPATIBLE
    assert others == [first] * 3
    assert compared == [SERVICE]


async def test_questions_are_no_failures_in_the_log() -> None:
    async with running_hub() as hub:
        with hub_records() as events:
            async with calling(hub) as greeter:
                with pytest.raises(relayrpc.aio.RpcError, match="UNAVAILABLE"):
                    await greeter.SayHello(HELLO, timeout=60)
    failed = [event.fields["method"] for event in events if event.message.startswith("call ")]
    assert CHECK not in failed
