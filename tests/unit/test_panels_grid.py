"""The window on a frame: sorting, filtering, selecting, scrolling, and what it says there is to draw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from v6kit.panels import frames
from v6kit.panels.grid import ROWS, Column, Grid

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
COLUMNS = (
    Column(name="symbol", title="symbol"),
    Column(name="bid", title="bid", kind="number", digits=2),
    Column(name="status", title="status", tones={"FAILED": "bad"}),
    Column(name="since", title="age", kind="age"),
)


def numbered(count: int, **changed: object) -> pl.DataFrame:
    """Return rows k0, k1, …; some columns changed for all."""
    rows = {
        "key": [f"k{number}" for number in range(count)],
        "symbol": [("SPY", "QQQ")[number % 2] for number in range(count)],
        "bid": [float(count - number) for number in range(count)],
        "status": ["PENDING"] * count,
        "since": [NOW] * count,
    }
    return pl.DataFrame(rows).with_columns(**{name: pl.lit(value) for name, value in changed.items()})


@pytest.fixture
def grid() -> Grid:
    """A grid of 1,000 rows."""
    made = Grid(COLUMNS, "key")
    made.show(numbered(1000))
    return made


def keys(grid: Grid) -> list[str]:
    """Return the keys of the rows that the page would draw."""
    return [row["key"] for row in grid.window(NOW)["rows"]]


def test_a_column_whose_values_are_all_the_same_is_shown_only_if_that_says_something():
    """One account in every row is no news; with a second one it has a column, and without it the column goes."""
    grid = Grid(
        (Column(name="symbol", title="symbol"), Column(name="account", title="account", if_several=True)), "key"
    )

    def heads(*accounts: str | None) -> list[str]:
        rows = {"key": [str(number) for number in range(len(accounts))], "symbol": "SPY", "account": accounts}
        grid.show(pl.DataFrame(rows, schema_overrides={"account": pl.String}))
        window = grid.window(NOW)
        assert all(len(row["cells"]) == len(window["columns"]) for row in window["rows"])
        return [head["name"] for head in window["columns"]]

    assert heads() == heads("DU1", "DU1") == heads(None, None) == ["symbol"]
    assert heads("DU1", "DU2") == heads(None, "DU1") == ["symbol", "account"]
    assert heads("DU2") == ["symbol"]
    grid.sort_by("account")
    assert heads("DU2", "DU1") == ["symbol", "account"]
    assert keys(grid) == ["1", "0"]


def test_the_page_gets_a_window_and_the_size_of_the_whole(grid: Grid):
    """However large the frame is."""
    window = grid.window(NOW)
    assert (len(window["rows"]), window["total"], window["start"]) == (ROWS, 1000, 0)
    assert window["rows"][0]["cells"] == ["SPY", "1,000.00", "PENDING", "0s"]


@pytest.mark.parametrize("row", [0, 1, 500, 940, 999])
def test_the_window_has_the_row_that_is_scrolled_to(grid: Grid, row: int):
    """And is never empty at the end."""
    grid.scroll_to(row)
    assert f"k{row}" in keys(grid)
    assert len(keys(grid)) == ROWS


def test_a_head_sorts_up_then_down_then_not(grid: Grid):
    """The third click gives the panel's own order back."""
    firsts = []
    for _ in range(3):
        grid.turn_sort("bid")
        firsts.append((keys(grid)[0], grid.window(NOW)["columns"][1]["sort"]))
    assert firsts == [("k999", "ascending"), ("k0", "descending"), ("k0", "none")]


def test_a_filter_wants_every_word_in_any_column_and_takes_no_patterns(grid: Grid):
    """A dot is a dot."""
    grid.filter_by("qqq pend")
    assert grid.view.height == 500
    grid.filter_by("q.q")
    assert grid.view.height == 0
    assert grid.window(NOW)["rows"] == []
    grid.filter_by(" ")
    assert grid.view.height == 1000


def test_kept_values_and_words_filter_together(grid: Grid):
    """A chip and the text box at once."""
    grid.turn_keep("symbol", "SPY")
    grid.filter_by("7")
    assert set(grid.view["symbol"]) == {"SPY"}
    assert 0 < grid.view.height < 500


def test_what_is_selected_stays_selected_while_rows_change_and_go(grid: Grid):
    """Live data must not take a selection away, and a row that is gone cannot be acted on."""
    grid.select(["k5", "k999"])
    grid.show(numbered(600, status="FAILED"))
    assert grid.selected == ["k5"]
    assert grid.chosen()["status"].to_list() == ["FAILED"]


def test_clicks_select_one_add_one_and_span_a_range(grid: Grid):
    """As in every list: plain, with Ctrl, with Shift."""
    grid.pick("k3")
    grid.pick("k5", "toggle")
    assert grid.selected == ["k3", "k5"]
    grid.pick("k3", "toggle")
    assert grid.selected == ["k5"]
    grid.pick("k5")
    grid.pick("k8", "range")
    assert grid.selected == ["k5", "k6", "k7", "k8"]
    grid.pick("k4", "range")
    assert grid.selected == ["k4", "k5"]
    grid.pick("gone")
    assert grid.selected == ["k4", "k5"]


def test_keys_move_the_selection_and_the_window_follows(grid: Grid):
    """Down, up, to the end; with Shift the range grows."""
    grid.move(1)
    grid.move(1)
    assert grid.selected == ["k1"]
    grid.move(1, extend=True)
    grid.move(1, extend=True)
    assert grid.selected == ["k1", "k2", "k3"]
    grid.move(1000)
    assert grid.selected == ["k999"]
    assert keys(grid)[-1] == "k999"
    grid.move(-1000)
    assert keys(grid)[0] == "k0"


def test_a_row_that_is_not_there_cannot_be_selected(grid: Grid):
    """From Python that is an error; from the page it is a click that came late."""
    with pytest.raises(ValueError, match="no row has the key 'k1000'"):
        grid.select(["k1000"])


def test_cells_that_changed_are_marked_with_what_they_were_except_ages(grid: Grid):
    """An age changes by itself, which is no news."""
    grid.window(NOW)
    grid.show(grid.frame.with_columns(bid=pl.when(pl.col("key") == "k1").then(7.0).otherwise("bid")))
    rows = grid.window(NOW + timedelta(seconds=5))["rows"]
    assert [row["was"] for row in rows[:3]] == [{}, {1: "999.00"}, {}]
    assert rows[0]["cells"][3] == "5s"
    assert all(row["was"] == {} for row in grid.window(NOW)["rows"])


def test_tones_come_with_the_values_that_have_one(grid: Grid):
    """By the number of the column."""
    assert grid.window(NOW)["rows"][0]["tones"] == {}
    grid.show(numbered(3, status="FAILED"))
    assert grid.window(NOW)["rows"][0]["tones"] == {2: "bad"}


def test_its_code_gives_its_view(grid: Grid):
    """What is copied is what is seen."""
    grid.turn_keep("symbol", "SPY")
    grid.filter_by('9 "pending')
    assert eval("frame" + grid.code(), {"frame": grid.frame, "pl": pl, "frames": frames}).height == 0  # noqa: S307
    grid.filter_by("9 pending")
    grid.sort_by("bid", descending=True)
    again = eval("frame" + grid.code(), {"frame": grid.frame, "pl": pl, "frames": frames})  # noqa: S307
    assert again.height > 10
    assert again.equals(grid.view)


def test_a_column_never_becomes_narrower(grid: Grid):
    """Or the table would jump while one scrolls."""
    wide = grid.window(NOW)["columns"][1]["width"]
    grid.scroll_to(999)
    assert len(grid.window(NOW)["rows"][-1]["cells"][1]) < wide
    assert grid.window(NOW)["columns"][1]["width"] == wide
