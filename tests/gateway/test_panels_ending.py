"""What is left of panels when they, their desk or the kernel have ended: nothing that runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import v6kit
from broker_helpers import DEADLINE
from sync_helpers import FAST
from v6kit.errors import StorageError
from v6kit.gateway import SimulatedGateway
from v6kit.panels import HistoryPanel, QueuePanel

if TYPE_CHECKING:
    from v6kit.desk import Desk


async def opened(lake: Path) -> Desk:
    """Return a desk with 4 positions, which all answer at once."""
    return await v6kit.open(lake, "simulated", gateway=SimulatedGateway(4, snapshot_hold=0.02, **FAST))


def threads() -> list[threading.Thread]:
    """Return the panels' threads that run."""
    return [each for each in threading.enumerate() if each.name.startswith("v6kit-panels")]


async def test_a_desk_that_has_closed_has_left_no_thread(tmp_path: Path):
    """Whoever forgets to close a panel: its thread has ended, and it has drawn so, before `close` returns."""
    desk = await opened(tmp_path)
    panel, dashboard = desk.panel("queue"), desk.dashboard()
    surface = panel._on_screen()
    assert len(threads()) == 1
    await desk.close()
    assert threads() == []
    assert surface.head["state"] == "closed"
    assert not dashboard.is_live
    assert panel.frame.height == 4


async def test_a_closed_desk_takes_no_panel_on(tmp_path: Path):
    """Nor does the attempt leave a thread behind."""
    desk = await opened(tmp_path)
    await desk.close()
    for make in (lambda: desk.panel("queue"), desk.dashboard, lambda: QueuePanel(desk)):
        with pytest.raises(StorageError, match="is closed; open it again"):
            make()
    assert threads() == []


async def test_what_a_button_does_while_its_desk_closes_comes_to_an_end(tmp_path: Path):
    """The cycle ends with what it has, or with an error that is kept; `close` waits for neither for long."""
    desk = await opened(tmp_path)
    panel = desk.panel("worker").click("run")
    await desk.close()
    assert threads() == []
    assert not panel._work


async def test_the_same_cell_again_leaves_one_panel_of_a_table(tmp_path: Path):
    """Although it makes the history anew each time; in a place of its own, another one may stand beside it."""
    desk = await opened(tmp_path)
    tables = [v6kit.TableHistory(desk.queue.uri) for _ in range(3)]
    first, second = HistoryPanel(tables[0]), HistoryPanel(tables[1])
    assert (first.is_live, second.is_live) == (False, True)
    beside = HistoryPanel(tables[2], place="beside it")
    assert second.is_live
    assert len(threads()) == 1
    [thread] = threads()
    second.close()
    beside.close()
    await asyncio.to_thread(thread.join, DEADLINE)
    assert not thread.is_alive()
    await desk.close()


def test_a_kernel_that_ends_leaves_nothing_running(tmp_path: Path):
    """Nobody closes anything: the desk runs, panels follow, and the process ends by itself and in silence."""
    code = (
        "import asyncio, v6kit\n"
        "async def cell():\n"
        f"    desk = await v6kit.open({str(tmp_path)!r}, 'simulated', gateway=v6kit.SimulatedGateway(4))\n"
        "    desk.dashboard()._repr_mimebundle_()\n"
        "    desk.start()\n"
        "    v6kit.run_sync(desk.queue.refresh())\n"
        "    print('looked', flush=True)\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(cell())\n"
        "loop.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "looked\n", "")
