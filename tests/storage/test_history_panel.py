"""The history panel alone on Delta tables that others made: vacuumed, of changing schema, with hostile values."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from tests.patience import DEADLINE
from v6kit.errors import StorageError, TableMissingError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.panels import HistoryPanel, pastgrid
from v6kit.registry import StrategyRegistry

EVIL = 'O\'Neil "<img src=x onerror=alert(1)>" ; --'


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of three versions; its schema grows, and a column becomes text."""
    place = tmp_path / "any"
    pl.DataFrame({"id": [EVIL, "b"], "x": [1, 2], "raw": [b"\x00\xff", None]}).write_delta(place)
    wider = pl.DataFrame({"id": [EVIL, "b", "c"], "x": [1, 5, 7], "more": [[1], [2, 3], None]})
    wider.write_delta(place, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    texts = pl.DataFrame({"id": [EVIL, "c"], "x": ["one", "7"]})
    texts.write_delta(place, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    return place


@pytest.fixture
def panel(table: Path) -> Iterator[HistoryPanel]:
    """Its panel."""
    opened = HistoryPanel(TableHistory(table, "id"))
    yield opened
    opened.close()


def cells(panel: HistoryPanel) -> list[list[str]]:
    """Return what the page would draw of what is wanted now."""
    panel._update()
    return [row["cells"] for row in panel._grid.window(panel._read_at)["rows"]]


def say(panel: HistoryPanel, what: str, **more: object) -> None:
    """Let a page send a message, the way a comm delivers it."""
    message = {"method": "custom", "content": {"do": what, "view": "a-view", "number": 1, **more}}
    panel._on_screen()._handle_msg({"content": {"data": message}, "buffers": []})


async def drawn(panel: HistoryPanel, region: str, text: str) -> None:
    """Wait until a region of the page has a text; `{}`: nothing."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()

    def look(_change: object = None) -> None:
        shown = str(getattr(panel._on_screen(), region))
        if shown == "{}" if text == "{}" else text in shown:
            loop.call_soon_threadsafe(there.set)

    panel._on_screen().observe(look, region)
    look()
    async with asyncio.timeout(DEADLINE):
        await there.wait()
    panel._on_screen().unobserve(look, region)


def test_a_schema_that_changed_on_the_way_is_shown_version_by_version(panel: HistoryPanel):
    """Columns come and go, types change; every version and every difference has cells."""
    for version in range(3):
        for mode in pastgrid.MODES[:2]:
            panel.version, panel.mode = version, mode
            assert panel.frame.equals(
                panel.history.as_of(version) if mode == "as of" else panel.history.diff(max(0, version - 1), version)
            )
            assert len(cells(panel)) == panel.frame.height
    panel.version, panel.mode = 1, "diff"
    assert ["~", "b", "2 → 5", "– → [2,3]", "–"] in cells(panel)


async def test_a_schema_that_changes_while_the_panel_is_open_is_taken_in(table: Path, panel: HistoryPanel):
    """Filter, sorting and chosen columns of what is gone disturb nothing; the newest version is shown as it is."""
    panel.mode = "as of"
    panel.words = "d"
    panel.sort("x", descending=True)
    panel.shown = ["x", "id"]
    other = pl.DataFrame({"id": [EVIL, "c", "d"], "y": [1.5, 2.5, None], "when": [None, date(2026, 12, 18), None]})
    other.write_delta(table, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    panel.as_of = None
    assert panel.frame.columns == ["id", "y", "when"]
    assert panel.frame["id"].to_list() == ["d"]
    assert [cell for row in cells(panel) for cell in row] == ["d"]
    panel.shown = ["y", "when"]
    panel.words = ""
    assert len(cells(panel)) == 3
    panel.mode = "diff"
    assert panel.frame.equals(panel.history.diff(2, 3))
    assert "<img" not in panel._repr_mimebundle_()[0]["text/html"]


async def test_what_others_write_is_seen_while_somebody_looks(table: Path, panel: HistoryPanel):
    """A table that belongs to no desk is followed, too: bars and rows, until an instant is chosen."""
    say(panel, "see")
    for version in (3, 4, 5):
        pl.DataFrame({"id": [f"new {version}"], "x": ["9"]}).write_delta(table, mode="append")
        await drawn(panel, "head", f"v{version} of 0–{version}")
        await drawn(panel, "grid", f"new {version}")
    panel.version = 1
    pl.DataFrame({"id": ["newer"], "x": ["9"]}).write_delta(table, mode="append")
    await drawn(panel, "head", "v1 of 0–6")


def test_a_key_with_quotes_and_markup_opens_its_timeline(panel: HistoryPanel):
    """It is a value like any other; in what is static, it is text."""
    panel.mode = "as of"
    panel.selected = [EVIL]
    panel.mode = "item"
    assert panel.item == (EVIL,)
    assert panel.frame["diff"].to_list() == ["+", "~", "~"]
    html = panel._repr_mimebundle_()[0]["text/html"]
    assert "<img" not in html
    assert "&lt;img" in html


def test_a_vacuumed_version_says_so_and_shows_no_rows(table: Path, panel: HistoryPanel):
    """Its bar is marked, the strip has the sentence, and `frame` raises it; the newest can still be looked at."""
    DeltaTable(table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    panel.mode, panel.version = "as of", 0
    with pytest.raises(VersionUnavailableError, match="cannot be read any more"):
        _ = panel.frame
    assert "cannot be read any more" in panel._trouble()["line"]
    assert cells(panel) == []
    bars = next(part for part in panel.parts() if part["kind"] == "versions")
    assert [bar[5] for bar in bars["bars"]] == [1, 1, 0, 0, 0]  # vacuum notes its begin and its end
    panel.as_of = None
    assert panel.frame.height == 2
    assert panel._trouble() == {}


async def test_what_could_not_be_read_for_a_while_is_looked_at_again(table: Path, panel: HistoryPanel):
    """By the page as from Python: an old version, too, at which nothing else would make it look anew."""
    say(panel, "see")
    away = await asyncio.to_thread(table.rename, table.with_name("away"))
    say(panel, "go", version=1, compare=False)
    await drawn(panel, "trouble", "no Delta table")
    await drawn(panel, "grid", "{}")
    await asyncio.to_thread(away.rename, table)
    await drawn(panel, "trouble", "{}")
    await drawn(panel, "grid", "2 → 5")
    assert panel.frame.height == 3


def test_an_error_that_has_passed_is_no_error_any_more(table: Path, panel: HistoryPanel):
    """Where nobody looks at the page, what Python asks for next finds it out."""
    panel.version = 1
    away = table.rename(table.with_name("away"))
    with pytest.raises(TableMissingError):
        _ = panel.frame
    away.rename(table)
    assert panel.frame.height == 3
    assert panel.last_error is None


async def test_a_table_is_restored_with_a_second_click(table: Path, panel: HistoryPanel):
    """As Delta does it, as a new version."""
    panel.version = 1
    panel.click("restore")
    assert DeltaTable(table).version() == 2
    await panel.click("restore").settled()
    assert DeltaTable(table).version() == 3
    panel.mode = "as of"
    assert panel.frame.equals(panel.history.as_of(1))


def test_a_table_without_a_key_is_compared_by_rows_and_has_no_items(table: Path):
    """The reason names what to give, and the columns that there are."""
    panel = HistoryPanel(TableHistory(table))
    assert panel.frame.columns[:2] == ["diff", "count"]
    with pytest.raises(ValueError, match=r"key=\[…\]"):
        panel.mode = "item"
    panel.close()


def test_where_there_is_no_table_the_panel_says_so(tmp_path: Path):
    """At once, not in the background."""
    with pytest.raises(TableMissingError):
        HistoryPanel(TableHistory(tmp_path / "nothing"))


async def test_a_ledger_that_is_looked_at_from_outside_is_not_restored(tmp_path: Path):
    """The desk's own object is needed, and the sentence says how."""
    async with StrategyRegistry(tmp_path / "strategies") as registry:
        await registry.add_active(2, "SPY", "C", 595.0, "20261218", 1)
        await registry.remove_strategy(1)
        panel = HistoryPanel(TableHistory(registry.uri))
        panel.version = 1
        with pytest.raises(StorageError, match="through its open object"):
            await panel.click("restore").settled()
        panel.close()
        assert TableHistory(registry.uri, table=registry).not_restored == ""


def test_long_values_are_cut_and_durations_read_well():
    """A document in a cell does not travel to the page."""
    assert len(pastgrid.text_of("x" * 10_000)) == 201
    assert [pastgrid.length(timedelta(seconds=s)) for s in (0.0404, 2.04, 41.9, 700)] == ["40ms", "2.0s", "41s", "11m"]


async def test_what_nobody_foresaw_while_reading_is_on_the_screen(tmp_path: Path):
    """Nobody waits for the reading, so the strip is where it can be seen; here Polars takes a name for a pattern."""
    place = tmp_path / "any"
    pl.DataFrame({"id": ["a"], "^x.*$": [1], "xy": [2]}).write_delta(place)
    for number in (3, 4):
        plain = pl.DataFrame({"id": ["a"], "y": [number]})
        plain.write_delta(place, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    with closing(HistoryPanel(TableHistory(place, "id"))) as panel:
        assert panel.frame["y"].to_list() == [4]
        panel.item = "a"
        await drawn(panel, "trouble", "DuplicateError")
        panel.mode = "diff"
        await drawn(panel, "trouble", "{}")
