"""
`relayrpc codegen`: all code for some .proto files, by one command.

Owns: flags, and writing the files. Does not own: what is generated (relayrpc_codegen).
Source: docs/reference/codegen.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from relayrpc_codegen.compiling import Generated


__all__ = ["codegen", "write_code"]


def codegen(
    protos: Annotated[list[str], typer.Argument(metavar="PROTO...", help="The .proto files.")],
    *,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Where the code goes; made where it is not there.")
    ],
    include: Annotated[
        list[str] | None,
        typer.Option(
            "-I",
            "--include",
            metavar="DIR",
            help="Where imports begin; repeatable. Without it, it is found out.",
        ),
    ] = None,
) -> None:
    """
    Generate messages, plain stubs, and typed callers and servicers, also of the files that are
    imported. Prints each file that it writes.

    \b
    Example:
      relayrpc codegen protos/orders.proto --out gen

    \b
    Exit codes: 0 written; 1 the code cannot be written; 2 a flag or a .proto file cannot be used,
    nothing was written.
    """
    from relayrpc_codegen.compiling import compile_protos, generate_code
    from relayrpc_codegen.includes import Includes

    includes = Includes(protos, include or ())
    files = compile_protos(includes)
    wanted = [file.name for file in files.file if includes.is_own(file.name)]
    try:
        code = generate_code(files, wanted)
    except ConfigError as error:
        raise ConfigError(includes.with_paths(str(error))) from error
    write_code(code, Path(out))


def write_code(code: Iterable[Generated], folder: Path) -> None:
    """
    Write generated files, and say which.

    Raises:
        OSError: One cannot be written.
    """
    for each in code:
        if not each.is_python:
            why = "a name in it is a keyword of Python, and protoc writes it all the same"
            typer.echo(f"relayrpc: {folder / each.path} is left out: {why}", err=True)
            continue
        target = folder / each.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(each.data)
        typer.echo(target)
