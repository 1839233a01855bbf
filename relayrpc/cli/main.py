"""
The command `relayrpc`: its subcommands, and how a failure becomes a sentence and an exit code.

Never shows a traceback for a mistake of the user or trouble of the network.
Source: docs/reference/cli.md.
"""

from __future__ import annotations

import sys
from typing import Final

import typer

from relayrpc import __version__
from relayrpc.cli import call, codegen, contracts, drain, expose, hub, ls, store
from relayrpc.errors import ConfigError, RelayError, UsageError
from relayrpc.protos import include_folder


__all__ = ["EXIT_FAILURE", "EXIT_INPUT", "EXIT_INTERRUPTED", "app", "main"]

EXIT_FAILURE: Final = 1
"""What was asked could not be done: a port is taken, a peer said no."""
EXIT_INPUT: Final = 2
"""What was asked makes no sense; nothing was started."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C before there was anything to stop in order."""

app = typer.Typer(
    name="relayrpc",
    help="A relay for typed remote procedure calls: hosts and callers both dial out to a hub.",
    no_args_is_help=True,
    # Plain text: it can be searched, piped and quoted, and errors stay one line.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(name="hub")(hub.hub)
app.command(name="ls")(ls.ls)
app.command(name="call")(call.call)
app.command(name="codegen")(codegen.codegen)
app.command(name="drain")(drain.drain)
app.command(name="expose")(expose.expose)
app.add_typer(contracts.contracts, name="contracts")
app.add_typer(store.store, name="store")


@app.command()
def version() -> None:
    """
    Print the version.

    \b
    Example:
      relayrpc version

    \b
    Exit codes: 0.
    """
    typer.echo(f"relayrpc {__version__}")


@app.command()
def protos() -> None:
    """
    Print the folder of relayrpc's own .proto files, for protoc's -I.

    \b
    Example:
      protoc -I protos -I "$(relayrpc protos)" --python_out=gen protos/orders.proto

    \b
    Exit codes: 0 printed; 1 the installation lacks them.
    """
    typer.echo(include_folder())


def main() -> None:
    """Run the command line; ends the process with one of the exit codes above, or 0."""
    try:
        app()
    except (ConfigError, UsageError) as error:
        _fail(error, EXIT_INPUT)
    except (RelayError, OSError) as error:
        _fail(error, EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        typer.echo(f"relayrpc: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
