"""
All backends of one process: begins to expose them, follows changes of which there are, and ends in
order.

Owns: which exposures run. Does not own: one of them (exposure.py), signals and files
(cli/expose.py).
Source: docs/howto/expose-an-existing-server.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from relayrpc.agent.exposure import Exposure, Report
from relayrpc.errors import ConfigError, RelayError


if TYPE_CHECKING:
    from relayrpc.agent.backend import Backend
    from relayrpc.limits import Limits


__all__ = ["Agent"]


class Agent:
    """Exposes any number of backends. Everything runs on one loop."""

    def __init__(self, *, limits: Limits, report: Report, must_be_there: bool = False) -> None:
        """
        Args:
            limits: Of this process.
            report: Is told how each backend fares.
            must_be_there: A backend or hub that cannot be reached at once is given up.
        """
        self._limits = limits
        self._report = report
        self._must_be_there = must_be_there
        # By what backends and the files they name say.
        self._running: dict[bytes, tuple[Exposure, asyncio.Task[None]]] = {}
        self._retiring: dict[asyncio.Task[None], Exposure] = {}
        # Why the last one ended by itself.
        self._error: RelayError | None = None
        self._nothing_left = asyncio.Event()

    def apply(self, backends: Iterable[Backend]) -> None:
        """
        Expose these and no others. Those that are exposed already go on untouched; one in the
        place of another at its address is in routing before that one leaves.

        Raises:
            ConfigError: One of them cannot be used; nothing has changed.
        """
        wanted: dict[bytes, Exposure | None] = {}
        for backend in backends:
            backend.check()
            key = backend.fingerprint()
            if key in wanted:
                raise ConfigError(f"{backend} is exposed at {backend.where} twice")
            wanted[key] = None if key in self._running else self._make(backend)
        gone = [self._running.pop(key) for key in [*self._running] if key not in wanted]
        self._error = None
        for key, exposure in wanted.items():
            if exposure is not None:
                task = asyncio.get_running_loop().create_task(self._run(key, exposure))
                self._running[key] = exposure, task
        for exposure, task in gone:
            urls = exposure.backend.urls
            successors = [each for each, _ in self._running.values() if each.backend.urls == urls]
            self._retire(exposure, task, successors)

    async def finished(self) -> RelayError:
        """Wait until no backend is left; returns why the last one ended."""
        await self._nothing_left.wait()
        assert self._error is not None
        return self._error

    async def stop(self, grace: float | None) -> None:
        """
        Take all backends out of routing, let running calls finish for `grace` seconds, end the
        rest. Idempotent; may be called again with a smaller grace.
        """
        for _, task in self._running.values():
            task.cancel()
        exposures = [exposure for exposure, _ in self._running.values()]
        await asyncio.gather(
            *(exposure.stop(grace) for exposure in (*exposures, *self._retiring.values())),
            *(task for _, task in self._running.values()),
            return_exceptions=True,
        )
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def _make(self, backend: Backend) -> Exposure:
        return Exposure(
            backend,
            limits=self._limits,
            report=self._report,
            must_be_there=self._must_be_there,
        )

    async def _run(self, key: bytes, exposure: Exposure) -> None:
        try:
            await exposure.run()
        except RelayError as error:
            await exposure.stop(None)
            self._running.pop(key, None)
            if self._running:
                self._report(str(error), is_trouble=True)
            else:
                self._error = error
                self._nothing_left.set()

    def _retire(
        self, exposure: Exposure, running: asyncio.Task[None], successors: list[Exposure]
    ) -> None:
        async def retire() -> None:
            try:
                for successor in successors:
                    await successor.settled.wait()
            finally:
                running.cancel()
            await exposure.stop(self._limits.drain_timeout_s)
            self._report(f"{exposure.backend} is no longer at {exposure.backend.where}")

        task = asyncio.get_running_loop().create_task(retire())
        self._retiring[task] = exposure
        task.add_done_callback(self._retiring.pop)
