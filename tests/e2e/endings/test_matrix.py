"""
Goal: whoever fails, and however, the survivors are told the truth, and the host's own record agrees
with it.

Method: real processes at hubs from the command line, and in each of 45 scenes a call in every
state; scenes run side by side, and each cell is one test. What must be told stands in cells.py. Run
one: `pytest tests/e2e/endings -k host-kill-native-running`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.endings.cells import (
    CELLS,
    OK,
    Cell,
    Door,
    Fate,
    Fault,
    SceneKey,
    State,
    Victim,
    expected,
)
from tests.e2e.endings.host import MESSAGES
from tests.e2e.endings.scene import Bystander, Played, bystander, play
from tests.integration.watched_hub import watched_hub


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# Long enough for a machine that is busy, short enough to wait for.
_RESUME_WINDOW_S: Final = 2.0
_KEEPALIVE_S: Final = 1.0
# Only where silence must be found: a process that was not given its turn is silent, too.
_PATIENT_KEEPALIVE_S: Final = 10.0
_SCENES_AT_ONCE: Final = 8
# Of calls that do not answer with their name: how many messages there were.
_RESULTS: Final = {State.REQUESTS: str(MESSAGES), State.RESPONSES: MESSAGES}
_TEST: Final = "test_survivors_are_told_what_the_host_has_done"
# Run by `make test`; `make test-all` runs them all.
_SUBSET: Final = frozenset(
    {
        SceneKey(Victim.CALLER, Fault.KILL, Door.WEBSOCKET),
        SceneKey(Victim.CALLER, Fault.CUT, Door.NATIVE),
        SceneKey(Victim.HUB, Fault.KILL, Door.GRPC),
        SceneKey(Victim.HUB, Fault.TERM, Door.NATIVE),
        SceneKey(Victim.HUB, Fault.CUT, Door.WEBSOCKET),
        SceneKey(Victim.HOST, Fault.KILL, Door.NATIVE),
        SceneKey(Victim.HOST, Fault.TERM, Door.GRPC),
        SceneKey(Victim.HOST, Fault.STOP, Door.WEBSOCKET),
    }
)


def _parameter(cell: Cell) -> object:
    marks = () if cell.scene in _SUBSET else (pytest.mark.slow,)
    return pytest.param(cell, id=str(cell), marks=marks)


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[SceneKey, Played | str]:
    """Play the scenes of all tests that were asked for; text: why one could not be played."""
    cells = [
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == _TEST
    ]
    folder = tmp_path_factory.mktemp("endings")
    return asyncio.run(_play_all(list(dict.fromkeys(cell.scene for cell in cells)), folder))


async def _play_all(scenes: list[SceneKey], folder: Path) -> Mapping[SceneKey, Played | str]:
    has_room = asyncio.Semaphore(_SCENES_AT_ONCE)
    async with (
        _hub(folder / "patient", _PATIENT_KEEPALIVE_S) as patient,
        _hub(folder / "attentive", _KEEPALIVE_S) as attentive,
    ):

        async def play_one(scene: SceneKey) -> Played | str:
            is_silent = scene.fault in (Fault.STOP, Fault.SILENCE)
            hub, keepalive_s = (
                (attentive, _KEEPALIVE_S) if is_silent else (patient, _PATIENT_KEEPALIVE_S)
            )
            async with has_room:
                try:
                    if scene.victim is not Victim.HUB:
                        return await play(scene, hub, keepalive_s=keepalive_s)
                    async with _hub(folder / str(scene), keepalive_s) as own:
                        return await play(scene, own, keepalive_s=keepalive_s)
                except Exception:
                    return traceback.format_exc()

        return dict(zip(scenes, await asyncio.gather(*map(play_one, scenes)), strict=True))


@asynccontextmanager
async def _hub(folder: Path, keepalive_s: float) -> AsyncIterator[Bystander]:
    """Run a hub; it is started and stopped beside the loop, on which others are served."""
    await asyncio.to_thread(folder.mkdir)
    running = watched_hub(
        folder, f"--keepalive={keepalive_s}", f"--resume-window={_RESUME_WINDOW_S}"
    )
    hub = await asyncio.to_thread(running.__enter__)
    try:
        async with bystander(hub) as at_hub:
            yield at_hub
        hub.check_log()
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


@pytest.mark.parametrize("cell", [_parameter(cell) for cell in CELLS])
def test_survivors_are_told_what_the_host_has_done(
    cell: Cell, played: Mapping[SceneKey, Played | str]
) -> None:
    scene = played[cell.scene]
    if isinstance(scene, str):
        pytest.fail(scene, pytrace=False)
    _check_agreement(cell.state, scene)
    _check_expected(cell, scene)


def _check_agreement(state: State, scene: Played) -> None:
    """Assert what holds in every cell, whatever the table says."""
    fate = scene.fates[state]
    assert scene.starts[state] <= 1, "the host ran the call twice"
    told = scene.told.get(state)
    if told is None:
        return
    if told.ending == OK:
        assert fate is Fate.FINISHED
    if told.ending.may_have_executed is False:
        assert fate is Fate.NEVER


def _check_expected(cell: Cell, scene: Played) -> None:
    """Assert what the table says of this cell."""
    what = expected(cell)
    told = scene.told.get(cell.state)
    if told is None:
        assert not what.told, what.reason
    else:
        assert told.ending in what.told, f"{what.reason}; told {told}"
        if told.ending == OK:
            assert told.result == _RESULTS.get(cell.state, cell.state), "messages are missing"
        is_pushed_back = cell.scene.door is Door.NATIVE and told.ending.may_have_executed
        assert told.pushback == ("-1" if is_pushed_back else None)
    assert scene.fates[cell.state] in what.fates, what.reason
