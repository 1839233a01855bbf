"""
`relayrpc contracts`: what a hub knows of its hosts' contracts, and code made from them.

Owns: the commands, and how versions are shown. Does not own: asking the hub (contract_versions.py),
writing files (contract_files.py), what breaks callers (contract/compatibility.py).
Source: docs/reference/cli.md; docs/reference/contracts.md.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from relayrpc.cli.connection import DEFAULT_URL, CAFile, run_at_hub
from relayrpc.cli.flags import IncludeFolders
from relayrpc.cli.table import as_text, print_table


if TYPE_CHECKING:
    from relayrpc.v1 import hub_pb2 as pb


__all__ = ["contracts"]

_LS: Final = ("ADDRESS", "SERVICE", "VERSION", "HOSTS", "VERSIONS", "REFUSED", "LAST SEEN")
_HISTORY: Final = (
    "VERSION", "VERDICT", "LEVEL", "HOSTS", "FIRST SEEN", "LAST SEEN", "INSTANCE", "BYTES",
    "REASON",
)  # fmt: skip
_EXIT_DIFFERENT: Final = 3

contracts = typer.Typer(
    help="Show contracts at a hub, and make code of them.", no_args_is_help=True
)

URL: TypeAlias = Annotated[
    str, typer.Argument(metavar="URL", help="The hub, and the address of the service.")
]
Service: TypeAlias = Annotated[
    str, typer.Argument(metavar="SERVICE", help="Its full name: package.Service.")
]
AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Version: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="HEX", help="A version, by the first digits of its fingerprint; else the newest."
    ),
]


@contracts.command(name="ls")
def ls(
    url: Annotated[
        str, typer.Argument(metavar="[URL]", help="The hub, and an address to look below.")
    ] = DEFAULT_URL,
    *,
    as_json: AsJSON = False,
    tls_ca: CAFile = None,
) -> None:
    """
    List the contracts that hosts have brought, by address and service: the newest version, and how
    many hosts serve the service with a contract now.

    \b
    Example:
      relayrpc contracts ls relay://127.0.0.1:7350/contoso

    \b
    Exit codes:
      0  listed
      1  the hub cannot be reached, or said no
      2  a flag or the URL cannot be used
    """
    from relayrpc.cli.contract_versions import list_contracts

    found = run_at_hub(url, list_contracts, tls_ca=tls_ca)
    if as_json:
        _print_json(found)
    else:
        print_table(_LS, [_summary(history) for history in found.contracts])


@contracts.command()
def history(
    url: URL, service: Service, *, as_json: AsJSON = False, tls_ca: CAFile = None
) -> None:
    """
    List the versions of a contract, the newest last, and what became of each.

    \b
    Example:
      relayrpc contracts history relay://127.0.0.1:7350/contoso/orders contoso.Orders

    \b
    Exit codes:
      0  listed
      1  the hub cannot be reached, or knows no such contract
      2  a flag or the URL cannot be used
    """
    from relayrpc.cli.contract_versions import find_history

    found = run_at_hub(url, functools.partial(find_history, service), tls_ca=tls_ca)
    if as_json:
        _print_json(found)
    else:
        print_table(_HISTORY, map(_row, found.versions))


@contracts.command()
def show(
    url: URL, service: Service, *, version: Version = "", tls_ca: CAFile = None
) -> None:
    """
    Print a contract as the .proto file that defines the service.

    \b
    Example:
      relayrpc contracts show relay://127.0.0.1:7350/contoso/orders contoso.Orders

    \b
    Exit codes:
      0  printed
      1  the hub cannot be reached, or knows no such contract or version
      2  a flag or the URL cannot be used
    """
    from relayrpc.cli.contract_files import proto_texts
    from relayrpc.cli.contract_versions import Versions

    found = Versions.run(url, service, lambda at: at.get_picked(version), tls_ca=tls_ca)
    name, *imported = reversed(proto_texts(found).items())
    typer.echo(f"// {as_text(name[0])}")
    if imported:
        typer.echo(f"// with {as_text(', '.join(sorted(each for each, _ in imported)))}")
    typer.echo("\n".join(as_text(line) for line in name[1].splitlines()))


@contracts.command()
def diff(
    url: URL,
    service: Service,
    *,
    old: Annotated[
        str,
        typer.Option(
            "--from", metavar="HEX", help="The version that callers hold; else each that they may."
        ),
    ] = "",
    new: Annotated[
        str, typer.Option("--to", metavar="HEX", help="The version after it; else the newest.")
    ] = "",
    proto: Annotated[
        list[str] | None,
        typer.Option(
            "--proto", metavar="FILE", help="Instead of --to: a .proto file with the next version."
        ),
    ] = None,
    include: IncludeFolders = None,
    descriptor_set: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="... or as protoc's --descriptor_set_out made it."),
    ] = None,
    tls_ca: CAFile = None,
) -> None:
    """
    Print in what a version of a contract breaks those who hold another one, and what to do instead.
    With --proto before it is deployed, as the hub will see it.

    \b
    Example:
      relayrpc contracts diff relay://127.0.0.1:7350/contoso/orders contoso.Orders \\
        --proto protos/orders.proto

    \b
    Exit codes:
      0  nothing breaks
      1  the hub cannot be reached, or knows no such contract or version
      2  a flag, the URL or a file cannot be used
      3  callers would break
    """
    from relayrpc.cli.contract_diff import differences
    from relayrpc.cli.contract_files import read_contract
    from relayrpc.cli.contract_versions import Versions

    given = read_contract(service, new, proto or (), include or (), descriptor_set)
    found = Versions.run(
        url, service, lambda at: differences(at, old, new, given), tls_ca=tls_ca
    )
    for line in found:
        typer.echo(as_text(line))
    if found:
        raise typer.Exit(_EXIT_DIFFERENT)


@contracts.command()
def pull(
    url: URL,
    service: Service,
    *,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Where files go; made where it is not there.")
    ],
    version: Version = "",
    protos_only: Annotated[
        bool, typer.Option("--protos-only", help="Write the .proto files, and no code.")
    ] = False,
    tls_ca: CAFile = None,
) -> None:
    """
    Write a contract's .proto files, and the code of them: messages, plain stubs, typed callers and
    servicers. Prints each file that it writes.

    \b
    Example:
      relayrpc contracts pull relay://127.0.0.1:7350/contoso/orders contoso.Orders --out gen

    \b
    Exit codes:
      0  written
      1  the hub cannot be reached, knows no such contract or version, or a file cannot be written
      2  a flag or the URL cannot be used, or the extra [codegen] is missing; the .proto files are
         written all the same then
    """
    from relayrpc.cli.contract_files import write_contract
    from relayrpc.cli.contract_versions import Versions

    found = Versions.run(url, service, lambda at: at.get_picked(version), tls_ca=tls_ca)
    write_contract(found, out, has_code=not protos_only)


def _summary(history: pb.ContractHistory) -> tuple[str, ...]:
    from relayrpc.cli.contract_versions import accepted

    versions = accepted(history)
    newest = versions[-1] if versions else None
    last_ms = max(version.last_seen_unix_ms for version in history.versions)
    return (
        history.address,
        history.service,
        "" if newest is None else _name(newest),
        f"{sum(version.hosts_count for version in versions)}",
        f"{len(versions)}",
        f"{len(history.versions) - len(versions)}",
        _time(last_ms),
    )


def _row(version: pb.ContractVersion) -> tuple[str, ...]:
    from relayrpc.v1 import hub_pb2 as pb

    verdict = pb.ContractVerdict.Name(version.verdict).removeprefix("CONTRACT_VERDICT_")
    return (
        _name(version),
        verdict.lower().replace("_", "-"),
        version.level,
        f"{version.hosts_count}",
        _time(version.first_seen_unix_ms),
        _time(version.last_seen_unix_ms),
        version.instance,
        f"{version.descriptor_set_bytes}",
        version.details,
    )


def _name(version: pb.ContractVersion) -> str:
    return version.fingerprint.hex()[:12]


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_json(message: pb.ContractHistory | pb.ListContractsResponse) -> None:
    from relayrpc.contract.json import write_json

    typer.echo(write_json(message, has_defaults=True))
