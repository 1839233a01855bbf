"""A certificate authority for one measurement, in a folder that goes away with it."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trustme


if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["Certificates", "made_certificates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files."""

    ca_file: str
    chain_file: str
    key_file: str


@contextmanager
def made_certificates() -> Iterator[Certificates]:
    """Certificates for 127.0.0.1, deleted on exit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        issued.private_key_pem.write_to_path(folder / "key.pem")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(folder / "chain.pem", append=True)
        yield Certificates(
            ca_file=str(folder / "ca.pem"),
            chain_file=str(folder / "chain.pem"),
            key_file=str(folder / "key.pem"),
        )
