"""What a desk and all that hangs on it show in a cell, and offer to the tab key: in a real IPython."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import polars as pl
import pytest
import v6kit
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from sync_helpers import FAST, eventually, legs_of
from v6kit.desk import TABLES, TableName
from v6kit.desk.desk import PanelName
from v6kit.errors import StorageError
from v6kit.gateway import SimulatedGateway
from v6kit.panels import PANELS
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry

if TYPE_CHECKING:
    from v6kit.desk import Desk

ACCOUNTS = ["DU1", "DU2"]
# Each with how its text begins, and whether there is HTML too.
SHOWN = {
    "desk": ("Desk\n  lake ", True),
    "desk.registry": ("StrategyRegistry\n  table ", True),
    "desk.registry['condor']": ("Strategy condor\n  kind ", True),
    "desk.registry['condor'][0]": (r"ActiveContract\(conid=", False),
    "desk.queue": ("PositionQueue\n  table ", True),
    "desk.queue.stats()": ("QueueStats\n  oldest ", True),
    "desk.queue[request]": ("Request ", True),
    "desk.positions": ("PositionBook\n  table ", True),
    "desk.positions.rows()[0]": (r"\w+.*\n  account ", True),
    "desk.worker": (r"QueueWorker\(50 at a time, by hand", False),
    "desk.streamer": (r"PositionStreamer\(4 streaming", False),
    "desk.broker": ("<Broker live at simulated gateway", False),
    "desk.gateway": (r"<SimulatedGateway \(simulated, no real account\)", True),
    "desk.options": ("<Options of the gateway at 127", False),
    "desk.lines": (r"\d+ of 90 lines in use", True),
    "desk.accounts": ("Accounts\naccount ", True),
    "desk.accounts['DU2']": ("Account DU2\n  positions ", True),
    "desk.freshness()": ("Freshness of 32 positions at", True),
    "desk.targets": (r"Targets\(active=15.0, other=60.0\)", False),
    "desk.clock": (r"Clock\(\)", False),
    "report": ("Cycle 1: 24 claimed, 24 refreshed", True),
    "differences": (r"shape: \(28, 11\)", True),
    "desk.history('position_queue')": ("TableHistory\n  table ", True),
    "desk.history('position_queue').diff(1, 2)": (r"shape: \(", True),
    "desk.panel('queue')": ("Queue panel: ", True),
    "desk.dashboard()": ("Dashboard panel: Strategies, Queue", True),
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with two accounts and one condor."""
    gateway = SimulatedGateway((20, 12), accounts=ACCOUNTS, snapshot_hold=0.02, tick_interval=0.02, **FAST)
    waits = {"interval": 30.0, "connect_timeout": 60.0}
    async with await v6kit.open(tmp_path / "<b>", "simulated", gateway=gateway, **waits) as opened:
        await opened.registry.add_strategy("condor", legs_of(*gateway.account.iron_condors[0]), kind="IRON_CONDOR")
        await opened.sync()
        await eventually(lambda: len(opened.broker.streaming) == 4)
        yield opened


def displayed(shell: InteractiveShell, thing: object) -> dict[str, Any]:
    """Return the forms that a cell's last line is shown in; of a panel, which shows two outputs, those of the first."""
    with capture_output() as published:
        data, _ = shell.display_formatter.format(thing)
    return data or published.outputs[0].data


async def test_everything_public_is_good_as_the_last_line_of_a_cell(desk: Desk, shell: InteractiveShell):
    """A text that says what it is, names no address, and begins alike each time; HTML where a table is worth it."""
    report = await desk.run_cycle()
    space: dict[str, Any] = {
        "desk": desk,
        "report": report,
        "differences": await desk.reconcile(),
        "request": desk.queue.current()[0, "request_id"],
    }
    for code, (begins, has_html) in SHOWN.items():
        data = displayed(shell, eval(code, space))  # noqa: S307 - as a cell does
        assert re.match(begins, data["text/plain"]), f"{code}: {data['text/plain'][:80]!r}"
        assert ("text/html" in data) is has_html, code
        assert " at 0x" not in "".join(data[kind] for kind in data if kind.startswith("text/")), code
        assert "<b>/" not in data.get("text/html", ""), f"{code} puts the name of a folder in as markup"


async def test_tab_offers_what_there_is_by_name(desk: Desk, complete: Callable[..., list[str]]):
    """Strategies, accounts, positions and requests as keys; attributes as names, and none that is private."""
    assert complete("desk.registry[", desk=desk) == ["'condor'"]
    # a property, which IPython does not run for a completion
    assert set(complete("accounts[", accounts=desk.accounts)) == {"'DU1'", "'DU2'"}
    assert {"'DU1'", "'DU2'"} <= set(complete("desk.positions["))
    assert len(set(complete("desk.queue["))) == desk.queue.current().height > 0
    offered = set(complete("desk."))
    assert {".registry", ".queue", ".positions", ".panel", ".history", ".dashboard", ".close"} <= offered
    assert not [name for name in offered if name.startswith("._")]
    known = set(complete("panel.", panel=desk.panel("history")))
    assert {".frame", ".selected", ".version", ".as_of", ".mode", ".click"} <= known


def test_editors_know_the_names_that_may_be_given():
    """The types of the arguments list them, so that they are completed and checked while one types."""
    assert list(get_args(PanelName)) == list(PANELS)
    specs = (StrategyRegistry.SPEC, PositionQueue.SPEC, PositionBook.SPEC)
    assert set(get_args(TableName)) == set(TABLES) == {spec.name for spec in specs}


async def test_a_closed_desk_and_its_parts_are_still_shown(desk: Desk, shell: InteractiveShell):
    """A look never raises: a card says that it is closed."""
    await desk.close()
    for thing in (desk, desk.registry, desk.queue, desk.positions):
        assert "closed" in shell.display_formatter.format(thing)[0]["text/plain"]
    for thing in (desk.worker, desk.streamer, desk.broker, desk.options, desk.gateway):
        assert shell.display_formatter.format(thing)[0]["text/plain"]
    for look in (lambda: desk.lines, lambda: desk.accounts, desk.freshness):
        with pytest.raises(StorageError, match="is closed; open it again with"):
            look()
    assert isinstance(desk.history("position_queue").versions(), pl.DataFrame)
