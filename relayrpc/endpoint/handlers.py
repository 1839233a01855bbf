"""
What a server serves: gRPC's method handlers, read once and kept ready for calls.

Owns: finding the handler of a method, and describing the services to the hub. Does not own: running
them (dispatch.py).
Source: grpc.RpcMethodHandler; link.proto, ServiceDescription.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
import grpc.aio

from relayrpc.endpoint.instance_methods import find_function, require_object
from relayrpc.endpoint.instances import find_instance_method
from relayrpc.endpoint.metadata import Metadatum
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.handover import Handover
    from relayrpc.endpoint.instances import Instances
    from relayrpc.endpoint.order import Place


__all__ = [
    "SHAPES",
    "UNRESOLVED",
    "Guard",
    "HandlerCallDetails",
    "HandlerTable",
    "MethodEntry",
    "give_inside",
    "make_entry",
]

SHAPES: Final = {
    (False, False): ("unary_unary", pb.SHAPE_UNARY_UNARY),
    (False, True): ("unary_stream", pb.SHAPE_UNARY_STREAM),
    (True, False): ("stream_unary", pb.SHAPE_STREAM_UNARY),
    (True, True): ("stream_stream", pb.SHAPE_STREAM_STREAM),
}
"""Whether requests and responses are streams -> gRPC's name of the shape, and the link's."""


Guard = Callable[[str, grpc.RpcMethodHandler], grpc.RpcMethodHandler]
"""Given "pkg.Service/Method" and its handler, returns the handler to use."""


class _HandlerCallDetails(NamedTuple):
    method: str
    invocation_metadata: tuple[Metadatum, ...]


class HandlerCallDetails(_HandlerCallDetails, grpc.HandlerCallDetails):
    """What generic handlers and interceptors are told; `method` is "/pkg.Service/Method"."""


def _is_async(behavior: Any) -> bool:
    """Say whether calling it gives a coroutine or an async generator; else it runs in a thread."""
    function = find_function(behavior)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


class MethodEntry:
    """One method, ready to be run."""

    __slots__ = (
        "behavior",
        "deserializer",
        "handler",
        "has_request_stream",
        "has_response_stream",
        "instance_method",
        "is_async",
        "serializer",
        "shape",
    )

    def __init__(self, handler: grpc.RpcMethodHandler) -> None:
        self.handler = handler
        self.has_request_stream = bool(handler.request_streaming)
        self.has_response_stream = bool(handler.response_streaming)
        name, self.shape = SHAPES[self.has_request_stream, self.has_response_stream]
        self.behavior: Callable[[Any, Any], Any] = getattr(handler, name)
        self.deserializer: Callable[[bytes], Any] | None = handler.request_deserializer
        self.serializer: Callable[[Any], bytes] | None = handler.response_serializer
        self.is_async = _is_async(self.behavior)
        # Which method of a service object is called; None: `behavior` is what is called.
        self.instance_method = find_instance_method(self.behavior)
        if self.instance_method is not None:
            # What interceptors wrap has to have an object lent too.
            self.behavior = self.instance_method.stub
            make = getattr(grpc, f"{name}_rpc_method_handler")
            self.handler = make(self.behavior, self.deserializer, self.serializer)


def make_entry(handler: grpc.RpcMethodHandler) -> MethodEntry:
    """
    Read a handler.

    Raises:
        UsageError: It has no behavior for the shape it claims.
    """
    entry = MethodEntry(handler)
    if not callable(entry.behavior):
        raise grpc.aio.UsageError(f"handler {handler!r} has nothing to call for its shape")
    return entry


def _read(name: str, handler: grpc.RpcMethodHandler) -> MethodEntry:
    """As `make_entry()`, of a handler that is added to a server."""
    entry = make_entry(handler)
    require_object(name, entry.behavior)
    return entry


def give_inside(entry: MethodEntry, place: Place, handover: Handover) -> grpc.RpcMethodHandler:
    """
    Return what interceptors are given for a method in a session: wherever they call it, the call
    gives its place on there.
    """
    handler = entry.handler
    behavior = entry.behavior
    stub: Callable[[Any, Any], Any]
    if entry.instance_method is None:
        if not entry.is_async:

            def stub(request: Any, context: Any) -> Any:
                place.give_on_thread(handover)
                return behavior(request, context)

        elif inspect.isasyncgenfunction(find_function(behavior)):

            async def stub(request: Any, context: Any) -> AsyncIterator[Any]:
                place.give()
                async with contextlib.aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response

        else:

            async def stub(request: Any, context: Any) -> Any:
                place.give()
                return await behavior(request, context)

        shape, _ = SHAPES[entry.has_request_stream, entry.has_response_stream]
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        handler = make(stub, entry.deserializer, entry.serializer)
    # Else the object's method gives it on, when it is called.
    place.inner = handler, entry
    return handler


UNRESOLVED: Final = MethodEntry(grpc.unary_unary_rpc_method_handler(None))
"""Stands for a method until the server's interceptors have said what handles it."""


class HandlerTable:
    """The methods of one server."""

    def __init__(self) -> None:
        # "pkg.Service/Method" -> entry; registered handlers win over generic ones.
        self._registered: dict[str, MethodEntry] = {}
        self._generic: dict[str, MethodEntry] = {}
        # Handlers that only say when asked what they serve.
        self._opaque: list[grpc.ServiceRpcHandler] = []
        self._guard: Guard | None = None
        self.entries: Mapping[str, MethodEntry] = self._registered

    def add_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """
        Add generic handlers; those of `grpc.method_handlers_generic_handler` are read now.

        Raises:
            UsageError: One does not say which service it serves, so that no hub could send it
                calls; or a class was added, and no object.
        """
        for handler in handlers:
            # grpc's own kind keeps "/pkg.Service/Method" -> handler here.
            methods = getattr(handler, "_method_handlers", None)
            if isinstance(methods, Mapping):
                for method, method_handler in methods.items():
                    name = method.removeprefix("/")
                    self._generic.setdefault(name, _read(name, method_handler))
            elif isinstance(handler, grpc.ServiceRpcHandler):
                self._opaque.append(handler)
            else:
                raise grpc.aio.UsageError(
                    f"generic handler {handler!r} does not name its service, and a hub routes by "
                    "service; derive it from grpc.ServiceRpcHandler"
                )
        self._merge()

    def add_registered(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """
        Add the methods of a service by name.

        Raises:
            UsageError: A class was added, and no object.
        """
        for method, handler in handlers.items():
            name = f"{service}/{method}"
            self._registered[name] = _read(name, handler)
        self._merge()

    def guard(self, guard: Guard) -> None:
        """Have every handler replaced by what `guard` makes of it."""
        self._guard = guard
        for entries in (self._generic, self._registered):
            for method, entry in entries.items():
                handler = guard(method, entry.handler)
                if handler is not entry.handler:
                    entries[method] = make_entry(handler)
        self._merge()

    def _merge(self) -> None:
        self.entries = {**self._generic, **self._registered}

    def find(
        self, method: str, metadata: Callable[[], tuple[Metadatum, ...]]
    ) -> MethodEntry | None:
        """Find a method by "pkg.Service/Method"; None when it is not served."""
        entry = self.entries.get(method)
        if entry is not None:
            return entry
        service = method.partition("/")[0]
        for handler in self._opaque:
            if handler.service_name() == service:
                found = handler.service(HandlerCallDetails(f"/{method}", metadata()))
                if found is not None:
                    return make_entry(found if self._guard is None else self._guard(method, found))
        return None

    def services(self) -> set[str]:
        """Return the full names of all that is served."""
        names = {name.partition("/")[0] for name in self.entries}
        return names.union(handler.service_name() for handler in self._opaque)

    def instances_of(self, service: str) -> Instances | None:
        """Return what makes the service objects of a service; None: nothing does."""
        for name, entry in self.entries.items():
            if entry.instance_method is not None and name.startswith(f"{service}/"):
                return entry.instance_method.instances
        return None

    def describe(self) -> list[pb.ServiceDescription]:
        """
        Describe every service, in the order in which they were added; no methods where they cannot
        be known.
        """
        services: dict[str, pb.ServiceDescription] = {}
        for name, entry in self.entries.items():
            service, _, method = name.rpartition("/")
            description = services.setdefault(service, pb.ServiceDescription(name=service))
            description.methods.append(pb.Method(name=method, shape=entry.shape))
        for handler in self._opaque:
            service = handler.service_name()
            services[service] = pb.ServiceDescription(name=service)
        return list(services.values())
