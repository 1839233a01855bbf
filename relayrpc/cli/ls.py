"""
`relayrpc ls`: who listens at a hub.

Owns: how a list is shown. Does not own: what is in it (hub/management.py), what changes (watch.py).
Source: docs/reference/cli.md; protos/relayrpc/v1/hub.proto.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relayrpc.cli.connection import DEFAULT_URL, HUB_SERVICE, CAFile, run_at_hub
from relayrpc.cli.table import print_table
from relayrpc.cli.watch import follow
from relayrpc.contract.address import address_of
from relayrpc.contract.labels import parse_labels
from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.v1 import hub_pb2 as pb


__all__ = ["ls"]

_HOSTS: Final = (
    "ADDRESS", "INSTANCE", "STATE", "CALLS", "PRIORITY", "LABELS", "CARRIER", "RTT", "RESUMES",
    "WIRE", "AGENT", "SERVICES",
)  # fmt: skip
_LINKS: Final = (
    "LINK", "INSTANCE", "PEER", "STATE", "CARRIER", "RTT", "RESUMES", "CALLS", "BYTES", "WIRE",
    "AGENT",
)  # fmt: skip
_CONTRACTS: Final = ("ADDRESS", "SERVICE", "METHOD", "SHAPE")
_SHAPES: Final = (
    "unknown",
    "unary -> unary",
    "unary -> stream",
    "stream -> unary",
    "stream -> stream",
)


def ls(
    url: Annotated[
        str, typer.Argument(metavar="[URL]", help="The hub, and an address to look below.")
    ] = DEFAULT_URL,
    *,
    contract: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[@FINGERPRINT]",
            help="Only hosts of this service, or of the version whose fingerprint begins so.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only hosts with this label; repeatable."),
    ] = None,
    links: Annotated[
        bool, typer.Option("--links", help="Show links, callers' too, instead of hosts.")
    ] = False,
    contracts: Annotated[
        bool, typer.Option("--contracts", help="Show services and methods instead of hosts.")
    ] = False,
    parts: Annotated[
        bool, typer.Option("--parts", help="Show parts of the hub itself, too.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on and print who comes and goes, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --watch, one a line.")
    ] = False,
    tls_ca: CAFile = None,
) -> None:
    """
    List the hosts at a hub.

    \b
    Example:
      relayrpc ls relay://127.0.0.1:7350/contoso
      relayrpc ls --contract samples.Greeter --label region=eu

    \b
    Exit codes:
      0    listed
      1    the hub cannot be reached, or said no
      2    a flag or the URL cannot be used
      130  stopped by Ctrl-C
    """
    wanted = _wanted(contract, parse_labels(label or ()))
    if watch:
        if links or contracts or parts:
            raise ConfigError("--watch shows hosts: leave out --links, --contracts and --parts")
        run_at_hub(url, functools.partial(follow, wanted, as_json=as_json), tls_ca=tls_ca)
        return
    listing = run_at_hub(url, functools.partial(_list, wanted), tls_ca=tls_ca)
    if not parts:
        _leave_out_parts(listing)
    if as_json:
        from relayrpc.contract.json import write_json

        typer.echo(write_json(listing, has_defaults=True))
    elif links:
        print_table(_LINKS, _link_rows(listing))
    elif contracts:
        print_table(_CONTRACTS, sorted(_contract_rows(listing)))
    else:
        print_table(_HOSTS, sorted(_host_rows(listing)))


def _wanted(contract: str | None, labels: Mapping[str, str]) -> pb.ListRequest:
    """
    Put together what is asked for.

    Raises:
        ConfigError: The contract is none.
    """
    from relayrpc.v1 import hub_pb2 as pb

    service, sign, digits = (contract or "").partition("@")
    try:
        fingerprint = bytes.fromhex(digits)
    except ValueError:
        fingerprint = b""
    if (contract is not None and not service) or (sign and not fingerprint):
        raise ConfigError(
            f"--contract {contract!r} is none: write package.Service, or package.Service@9f86d081 "
            "with an even number of hexadecimal digits"
        )
    return pb.ListRequest(service=service, fingerprint=fingerprint, labels=labels)


async def _list(wanted: pb.ListRequest, channel: Channel, address: str) -> pb.ListResponse:
    """Ask, and put the parts of the answer together."""
    from relayrpc.v1 import hub_pb2 as pb

    ask = channel.unary_stream(
        f"/{HUB_SERVICE}/List", pb.ListRequest.SerializeToString, pb.ListResponse.FromString
    )
    listing = pb.ListResponse()
    wanted.address = address
    async for part in ask(wanted):
        listing.MergeFrom(part)
    return listing


def _leave_out_parts(listing: pb.ListResponse) -> None:
    links = [link for link in listing.links if not link.is_local]
    hosts = [host for host in listing.hosts if not host.is_local]
    del listing.links[:], listing.hosts[:]
    listing.links.extend(links)
    listing.hosts.extend(hosts)


def _host_rows(listing: pb.ListResponse) -> Iterator[tuple[str, ...]]:
    from relayrpc.v1 import hub_pb2 as pb

    links = {link.link_id: link for link in listing.links}
    for host in listing.hosts:
        link = links.get(host.link_id, pb.LinkInfo())
        slots = f"/{host.slots}" if host.slots else ""
        row = (
            host.instance,
            _state(pb.HostState.Name(host.state)),
            f"{host.calls_open_count}{slots}",
            f"{host.priority}",
            ",".join(f"{name}={value}" for name, value in sorted(host.labels.items())),
            link.carrier,
            _round_trip(link),
            f"{link.resumes_count}",
            f"{link.wire_version}",
            link.agent,
        )
        services: dict[str, list[str]] = {}
        for service in host.services:
            services.setdefault(address_of(host.address, service), []).append(service.name)
        for address, names in services.items():
            yield (address, *row, ", ".join(names))


def _link_rows(listing: pb.ListResponse) -> Iterator[tuple[str, ...]]:
    from relayrpc.v1 import hub_pb2 as pb

    for link in listing.links:
        yield (
            link.link_id,
            link.instance,
            link.peer,
            _state(pb.LinkState.Name(link.state)),
            link.carrier,
            _round_trip(link),
            f"{link.resumes_count}",
            f"{link.calls_open_count}",
            f"{link.held_bytes}",
            f"{link.wire_version}",
            link.agent,
        )


def _contract_rows(listing: pb.ListResponse) -> set[tuple[str, ...]]:
    """Return what is served, once however many hosts serve it."""
    return {
        (address_of(host.address, service), service.name, name, shape)
        for host in listing.hosts
        for service in host.services
        for name, shape in _methods(service)
    }


def _methods(service: Any) -> list[tuple[str, str]]:
    known = [(method.name, _SHAPES[method.shape]) for method in service.methods]
    return known or [("?", _SHAPES[0])]


def _state(name: str) -> str:
    return name.rpartition("_")[2].lower()


def _round_trip(link: pb.LinkInfo) -> str:
    return f"{link.round_trip_us / 1000:.1f}ms" if link.round_trip_us else ""
