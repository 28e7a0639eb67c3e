"""The history panel on a real desk: what it shows is what the table held, and the newest where nothing was chosen."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import v6kit
from sync_helpers import FAST, UNHURRIED, eventually, legs_of
from tests.patience import DEADLINE
from v6kit.display import utc
from v6kit.errors import StorageError, V6KitError, VersionUnavailableError
from v6kit.gateway import SimulatedGateway
from v6kit.ledger import When
from v6kit.panels import HistoryPanel
from v6kit.panels.as_of import AsOf
from v6kit.registry import StrategyRegistry

if TYPE_CHECKING:
    from v6kit.desk import Desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk after two cycles, with a strategy that was removed again."""
    gateway, lake = SimulatedGateway(20, snapshot_hold=0.02, **FAST), tmp_path / "lake"
    async with await v6kit.open(lake, "simulated", gateway=gateway):
        pass
    async with StrategyRegistry(lake / "active_strategies") as registry:  # so that none of it ever streams
        await registry.add_strategy(1, legs_of(*gateway.account.iron_condors[0]), kind="IRON_CONDOR")
        await registry.remove_strategy(1)
    opened = await v6kit.open(lake, "simulated", gateway=gateway, batch_size=8, **UNHURRIED)
    await opened.run_cycle()
    await opened.run_cycle()
    yield opened
    await opened.close()


@pytest.fixture
def panel(desk: Desk) -> HistoryPanel:
    """Its panel."""
    made = desk.panel("history")
    assert isinstance(made, HistoryPanel)
    return made


def say(panel: HistoryPanel, what: str, **more: object) -> None:
    """Let a page that looks send a message, the way a comm delivers it."""
    for number, content in enumerate(({"do": "see"}, {"do": what, **more}), 1):
        data = {"method": "custom", "content": {"view": "a-view", "number": number, **content}}
        panel._on_screen()._handle_msg({"content": {"data": data}, "buffers": []})


def run_code(panel: HistoryPanel, desk: Desk) -> pl.DataFrame:
    """Run what is copied."""
    *imports, expression = panel.code.splitlines()
    space: dict[str, Any] = {"desk": desk}
    exec("\n".join(imports), space)  # noqa: S102 - that is what users do with it
    shown: pl.DataFrame = eval(expression, space)  # noqa: S307 - likewise
    return shown


async def test_every_way_of_looking_shows_what_its_code_gives(desk: Desk, panel: HistoryPanel):
    """As of, diff and item; filtered, sorted and by sign."""
    panel.version = 2
    assert panel.frame.equals(desk.history("position_queue").diff(1, 2))
    panel.chip("~").words = "spy"
    panel.sort("symbol", descending=True)
    assert 0 < panel.frame.height < 8
    assert run_code(panel, desk).equals(panel.frame)
    panel.mode = "as of"
    assert run_code(panel, desk).equals(panel.frame)
    panel.selected = [panel.frame["request_id"][0]]
    panel.mode = "item"
    panel.words = ""
    assert panel.frame["status"].to_list()[:1] == ["PENDING"]
    assert run_code(panel, desk).equals(panel.frame)
    await panel.settled()


async def test_it_follows_the_newest_version_until_one_is_chosen(desk: Desk, panel: HistoryPanel):
    """A commit moves it on; one who looks at the past stays, and `None` leads back."""
    newest = panel.version
    await desk.queue.insert(1, "X")
    assert panel.frame["diff"].to_list() == ["+"]
    assert (panel.version, panel.as_of) == (newest + 1, None)
    panel.version = 2
    await desk.queue.insert(2, "Y")
    assert panel.frame["version"].unique().to_list() == [2]
    panel.as_of = None
    assert panel.frame["symbol"].to_list() == ["Y"]


async def test_tables_share_the_instant_that_is_looked_at(desk: Desk, panel: HistoryPanel):
    """Another table shows the version that was its newest at that instant."""
    shared = AsOf()
    both = HistoryPanel(desk, "position_updates", place="a tab", as_of=shared)
    panel.table = "active_strategies"
    panel.version = 1
    at = panel.as_of
    assert at is not None
    shared.at = at
    both._turn()
    updates = desk.history("position_updates").versions().filter(pl.col("updated_at") <= at)["version"]
    assert both.version == updates[-1]
    both.as_of = None
    assert shared.at is None
    both.close()


async def test_what_was_never_there_is_refused_and_the_view_stays(panel: HistoryPanel):
    """Before the first change, in the future, after the newest version, not aware, no instant at all."""
    panel.version = 2
    future = datetime.now(UTC) + timedelta(days=1)
    for when in (datetime(1999, 1, 1, tzinfo=UTC), future, 99):
        with pytest.raises(VersionUnavailableError):
            panel.as_of = when
    for naive in ("2026-11-22 10:00", "yesterday", datetime(2026, 11, 22, 10)):  # noqa: DTZ001 - that is refused
        with pytest.raises(ValueError, match=r"when must (be|say)"):
            panel.as_of = naive
    with pytest.raises(TypeError, match=r"when must be a version, a datetime or ISO text, got 2\.5"):
        panel.as_of = 2.5
    assert panel.version == 2


async def test_an_instant_of_another_zone_is_shown_in_utc(desk: Desk, panel: HistoryPanel):
    """The field beside it says UTC, so what it says must be."""
    now = desk.clock.now()
    panel.as_of = now.astimezone(timezone(timedelta(hours=5)))
    assert panel.as_of == now
    assert panel.parts()[0]["at"] == utc(now)


async def test_a_restore_needs_two_clicks_and_the_registry_has_it(desk: Desk, panel: HistoryPanel):
    """The first click counts; what changes meanwhile disarms it; the second restores."""
    panel.table = "active_strategies"
    panel.version = 1
    panel.click("restore")
    assert panel._buttons.draw(closed=False)[0]["label"] == "Restore this version? 4 rows change. Click again"
    assert desk.registry.active_legs() == []
    panel.version = 2
    panel.version = 1
    await panel.click("restore").settled()
    assert len(desk.registry.active_legs()) == 4
    assert panel.as_of is None
    assert panel.frame["diff"].to_list() == ["~"] * 4


async def test_a_restore_that_could_not_be_counted_can_be_asked_for_again(desk: Desk, panel: HistoryPanel):
    """A store that does not answer for a moment must not switch the button off for good."""
    panel.table = "active_strategies"
    panel.version = 1
    place = Path(desk.registry.uri)
    shutil.move(place, place.with_name("away"))
    panel.click("restore")
    assert isinstance(panel.last_error, StorageError)
    assert panel._buttons.draw(closed=False)[0]["label"] == "Restore…"
    shutil.move(place.with_name("away"), place)
    panel.click("restore")
    assert panel._buttons.draw(closed=False)[0]["label"] == "Restore this version? 4 rows change. Click again"
    assert panel.last_error is None
    await panel.click("restore").settled()
    assert len(desk.registry.active_legs()) == 4


async def test_what_is_restored_is_what_was_asked_about(desk: Desk, panel: HistoryPanel):
    """Although one goes on to another version before the panels' thread has come to the second click."""
    panel.table = "active_strategies"
    panel.version = 1
    panel.click("restore")
    go_on = threading.Event()
    panel._stage.call(go_on.wait, DEADLINE)
    panel.click("restore")
    panel.version = 2
    go_on.set()
    await panel.settled()
    assert len(desk.registry.active_legs()) == 4


async def test_a_restore_that_is_asked_about_another_version_meanwhile_changes_nothing(desk: Desk, panel: HistoryPanel):
    """Nobody can tell any more which of the two is meant."""
    panel.table = "active_strategies"
    panel.version = 1
    panel.click("restore")
    go_on, before = threading.Event(), desk.registry.ledger.version
    panel._stage.call(go_on.wait, DEADLINE)
    panel.click("restore")
    panel.version = 0
    panel.click("restore")
    go_on.set()
    with pytest.raises(V6KitError, match="press Restore again"):
        await panel.settled()
    assert desk.registry.ledger.version == before


@pytest.mark.parametrize("table", ["position_queue", "position_updates"])
async def test_what_is_not_to_be_restored_says_why_at_the_first_click(panel: HistoryPanel, table: str):
    """The sentence is the table's own, in the strip and as the error."""
    panel.table = table
    panel.version = 1
    with pytest.raises(StorageError, match=f"{table} is not restored"):
        await panel.click("restore").settled()
    assert "is not restored" in panel._trouble()["line"]


async def test_a_page_that_asks_for_nonsense_gets_a_sentence(panel: HistoryPanel):
    """No traceback, and the next wish clears it."""
    say(panel, "as_of", text="<b>never</b>")
    await eventually(lambda: "when must be ISO text" in panel._on_screen().trouble.get("line", ""))
    say(panel, "step", by=-1, old=False)
    await eventually(lambda: not panel._on_screen().trouble)
    assert panel.last_error is None


async def test_play_shows_one_version_after_the_other_and_ends_at_the_newest(panel: HistoryPanel):
    """From the newest it begins at the first."""
    seen: list[str] = []
    panel._on_screen().observe(lambda change: seen.append(change["new"]["source"].split(" · ")[0]), "head")
    newest = panel.version
    panel.play(pace=1000)
    await eventually(lambda: panel.version == newest and not panel.is_playing and len(seen) > newest)
    passed = [text for text in dict.fromkeys(seen) if f"v{newest} " not in text]
    assert passed == [f"position_queue v{n} of 0–{newest}" for n in range(newest)]


class Noting(v6kit.TableHistory):
    """A history that notes which differences it was asked for."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.asked: list[tuple[When, When]] = []

    def diff(self, old: When, new: When) -> pl.DataFrame:
        """Note it, and look."""
        self.asked.append((old, new))
        return super().diff(old, new)


async def test_play_reads_each_version_once(desk: Desk):
    """However far away the lake is, it is not asked for the same twice."""
    history = Noting(desk.queue.uri)
    with closing(HistoryPanel(history)) as panel:
        newest = panel.version
        history.asked.clear()
        panel.play(pace=1000)
        await eventually(lambda: len(history.asked) > newest and not panel.is_playing)
        await panel.settled()
    assert history.asked == [(max(0, n - 1), n) for n in range(newest + 1)]


async def test_an_empty_table_says_that_nothing_was_written(tmp_path: Path):
    """No bars, no rows, no trouble."""
    other = await v6kit.open(tmp_path / "empty", "simulated", gateway=SimulatedGateway(0, **FAST))
    empty = HistoryPanel(other, "active_strategies")
    assert empty.frame.is_empty()
    assert empty.parts()[-1]["text"] == "nothing was ever written to this table"
    assert empty._trouble() == {}
    assert "nothing was ever written" in empty._repr_mimebundle_()[0]["text/html"]
    await other.close()


async def test_a_closed_desk_leaves_the_last_picture(desk: Desk, panel: HistoryPanel):
    """It can be looked at, and refuses to move."""
    shown = panel.frame
    await desk.close()
    await eventually(lambda: not panel.is_live)
    assert panel.frame.equals(shown)
    with pytest.raises(V6KitError, match="closed"):
        panel.version = 1
    with pytest.raises(V6KitError, match="closed"):
        panel.table = "active_strategies"


async def test_a_lake_that_disappears_is_reported_and_the_picture_stays(desk: Desk, panel: HistoryPanel):
    """Until it is there again."""
    lake = Path(desk.queue.uri)
    shown = panel.frame
    say(panel, "see")
    shutil.move(lake, lake.with_name("away"))
    await eventually(lambda: bool(panel._on_screen().trouble))
    assert panel.frame.equals(shown)
    assert isinstance(panel.last_error, StorageError)
    shutil.move(lake.with_name("away"), lake)
    await eventually(lambda: not panel._on_screen().trouble)


async def test_columns_are_hidden_on_the_screen_and_stay_in_the_frame(panel: HistoryPanel):
    """The menu lists all; the frame has all."""
    width = panel.frame.width
    panel.shown = ["status", "conid"]
    assert [column.name for column in panel._grid.columns] == ["diff", "status", "conid"]
    assert panel.frame.width == width
    with pytest.raises(ValueError, match="column must be one of"):
        panel.shown = ["stauts"]


async def test_two_panels_look_at_one_table_while_it_is_written(desk: Desk, panel: HistoryPanel):
    """Each at its own version; neither holds up the worker."""
    other = HistoryPanel(desk.history("position_queue"))
    panel.version, other.version = 1, 2
    report, *_ = await asyncio.gather(desk.run_cycle(), panel.settled(), other.settled())
    assert report.settled > 0
    assert panel.frame["version"].unique().to_list() == [1]
    assert other.frame["version"].unique().to_list() == [2]
    assert other.code.splitlines()[-1].startswith("TableHistory(")
    other.close()
