"""Panels and what goes wrong: nonsense, names with markup, a lake that is away, two at once, closed desks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import v6kit
from sync_helpers import FAST, STILL, UNHURRIED, eventually, legs_of, streamed
from v6kit.errors import StorageError, V6KitError
from v6kit.gateway import SimulatedGateway
from v6kit.panels import PANELS, HistoryPanel, Panel, QueuePanel

if TYPE_CHECKING:
    from v6kit.desk import Desk

ATTACK = "O'Neil\"><img src=x onerror=alert(1)></script>\\"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk after one cycle, with a condor that streams."""
    gateway = SimulatedGateway(12, snapshot_hold=0.02, **STILL, **FAST)
    opened = await v6kit.open(tmp_path / "lake", "simulated", gateway=gateway, **UNHURRIED)
    await opened.registry.add_strategy("condor", legs_of(*gateway.account.iron_condors[0]), kind="IRON_CONDOR")
    await streamed(opened)
    await opened.run_cycle()
    yield opened
    await opened.close()


def see(panel: Panel) -> None:
    """Let a page say that it shows a panel."""
    content = {"do": "see", "view": "a-view", "number": 0}
    panel._on_screen()._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


class Tags(HTMLParser):
    """The tags of a page and the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        """Note it."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting", "value", "says"),
    [
        ("queue", "sort", "nope", r"sort is called, not set: panel\.sort\(…\); got 'nope'"),
        ("queue", "fliter", "spy", "there is no setting 'fliter'; got 'spy', settings are as_of, is_live,"),
        ("queue", "select", "x", "there is no setting 'select', did you mean 'selected'"),
        ("queue", "frame", None, "frame tells something and cannot be set; got None"),
        ("queue", "words", 5, "words must be a str, got 5"),
        ("queue", "selected", "r9", "no row has the request_id 'r9'"),
        ("book", "selected", ["x", "y"], "no row has the key 'x'"),
        ("queue", "as_of", "tomorrow", r"as_of must be ISO text such as 2026-11-22T14:32:05\+00:00, got 'tomorrow'"),
        ("queue", "as_of", "2026-11-20 14:00", r"as_of must say how far it is from UTC, as 2026-11-20T14:00:00\+00:00"),
        ("queue", "as_of", 5, "as_of must be a datetime, got 5"),
        ("history", "table", "position_queu", "got 'position_queu'; did you mean 'position_queue'"),
        ("history", "mode", "dif", r"mode must be one of as of, diff, item, got 'dif'; did you mean 'diff'"),
        ("history", "version", 10_000, "version 10000"),
        ("history", "version", "newest", "newest"),
        ("history", "compared_with", -1, "-1"),
        ("history", "shown", ["stauts"], r"column must be one of .*, got 'stauts'; did you mean 'status'"),
        ("worker", "running", True, "there is no setting 'running'"),
    ],
)  # fmt: skip
async def test_nonsense_in_a_setting_is_refused_and_nothing_changes(
    desk: Desk, name: str, setting: str, value: object, says: str
):
    """The sentence names the value and what may be meant; the panel shows what it did."""
    panel = desk.panel(name)
    before, state = panel.frame, panel._head()
    with pytest.raises((AttributeError, ValueError, TypeError, V6KitError), match=says):
        setattr(panel, setting, value)
    assert panel.frame.equals(before)
    assert panel._head()["code"] == state["code"]
    assert panel.last_error is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda desk: desk.panel("queues"), r"name must be one of .*, got 'queues'; did you mean 'queue'\?"),
        (lambda desk: desk.history("queue"), r"table must be one of .*, got 'queue'"),
        (lambda desk: desk.dashboard().open("boook"), r"got 'boook'; did you mean 'book'\?"),
        (lambda desk: desk.panel("queue").sort("stauts"), r"got 'stauts'; did you mean 'status'\?"),
        (lambda desk: desk.panel("queue").chip("FAILD"), r"got 'FAILD'; did you mean 'FAILED'\?"),
        (lambda desk: desk.panel("book").chip("good"), "error, never, stale, partial, ok, got 'good'"),
        (lambda desk: desk.panel("strategies").chip("actve"), r"did you mean 'active'\?"),
        (lambda desk: desk.panel("history").chip("?"), r"name must be one of \+, ~, -, got '\?'"),
        (lambda desk: desk.panel("queue").click("cancle"), r"got 'cancle'; did you mean 'cancel'\?"),
        (lambda desk: desk.panel("worker").chip("x"), "worker panel has no chip 'x'"),
    ],
)  # fmt: skip
async def test_a_wrong_name_is_answered_with_the_right_ones(desk: Desk, call: Any, says: str):
    """Wherever a name is given."""
    with pytest.raises(ValueError, match=says):
        call(desk)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PANELS))
async def test_no_name_is_markup_and_every_name_is_a_key(desk: Desk, tmp_path: Path, name: str):
    """Quotes and HTML in a strategy, an account, a symbol, an error: text in the picture, a value in the code."""
    legs = [{"conid": 5, "symbol": ATTACK, "right": "C", "strike": 1, "expiry": "20271217"}]
    await desk.registry.add_strategy(ATTACK, legs, kind=ATTACK, account=ATTACK)
    request = await desk.queue.insert(6, ATTACK, priority=1)  # not the strategy's, whose stream would cancel it
    batch = await desk.queue.get_batch(100)  # what the desk has queued meanwhile may come first
    await desk.queue.mark_failed(next(item for item in batch if item.request_id == request), ATTACK)
    panel = desk.panel(name)
    panel.words = "o'neil"
    panel.to_html(tmp_path / "page.html")
    for page in (panel._repr_mimebundle_()[0]["text/html"], (tmp_path / "page.html").read_text(encoding="utf-8")):
        seen = Tags(page)
        assert not seen.tags & {"img", "script", "a", "iframe"}
        assert not [each for each in seen.attributes if each.startswith("on")]
    if name in ("strategies", "queue"):
        panel.selected = {"strategies": f"{ATTACK}@{ATTACK}", "queue": request}[name]
        assert panel.frame.height == 1
        space: dict[str, Any] = {"desk": desk}
        *imports, expression = panel.code.splitlines()
        exec("\n".join(imports), space)  # noqa: S102 - that is what users do with it
        await eventually(lambda: eval(expression, space).equals(panel.frame))  # noqa: S307 - likewise
        await panel.click({"strategies": "remove", "queue": "redrive"}[name]).settled()
        if name == "strategies":
            await panel.click("remove").settled()
            assert ATTACK not in desk.registry
        else:
            assert desk.queue[request].status == "PENDING"


# --- a lake that is away --------------------------------------------------------------------------------------------


async def test_a_lake_that_disappears_is_said_by_every_panel_until_it_is_back(desk: Desk):
    """What was seen stays; `last_error` and the strip have the reason; then all go on by themselves."""
    panels = {name: desk.panel(name) for name in PANELS}
    for panel in panels.values():
        see(panel)
    await eventually(lambda: all(panel.audience.is_there for panel in panels.values()))
    lake = Path(desk.lake)
    await asyncio.to_thread(lake.rename, lake.with_name("away"))
    await eventually(lambda: all(isinstance(each.last_error, StorageError) for each in panels.values()))
    for panel in panels.values():
        await eventually(lambda panel=panel: type(panel.last_error).__name__ in panel._surface.trouble.get("line", ""))
        assert panel.frame.height > 0
    await asyncio.to_thread(lake.with_name("away").rename, lake)
    await eventually(lambda: all(each.last_error is None for each in panels.values()))
    await eventually(lambda: not any(each._surface.trouble for each in panels.values()))
    await desk.queue.insert(99, "BACK")
    await eventually(lambda: "BACK" in str(panels["queue"]._surface.grid))


# --- two at once ----------------------------------------------------------------------------------------------------


async def test_two_panels_on_one_table_each_look_for_themselves(desk: Desk):
    """Each has its own filter, selection and place; what one does the other shows, and closing one closes no other."""
    one, other = QueuePanel(desk, place="left"), QueuePanel(desk, place="right")
    see(one)
    see(other)
    one.chip("PENDING")
    height = other.frame.height
    request = await desk.queue.insert(99, "X")
    one.selected = request
    assert (other.selected, one.frame.height, other.frame.height) == ([], 1, height + 1)
    await one.click("prioritise").settled()
    await eventually(lambda: any(row["key"] == request for row in other._surface.grid["rows"]))
    one.close()
    assert other.is_live
    await desk.queue.cancel([request])
    await eventually(lambda: "CANCELLED" in str(other._surface.grid))


# --- a closed desk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PANELS))
async def test_every_panel_of_a_closed_desk_is_a_picture(desk: Desk, tmp_path: Path, name: str):
    """It can be looked at, filtered and saved; what acts says that it is closed."""
    panel = desk.panel(name)
    shown = panel.frame
    await desk.close()
    assert not panel.is_live
    assert panel.frame.equals(shown)
    assert "closed" in repr(panel)
    panel.words = "spy"
    panel.is_live = True
    assert not panel.is_live
    assert panel._repr_mimebundle_()[0]["text/plain"] == repr(panel)
    panel.to_html(tmp_path / "page.html")
    with pytest.raises(V6KitError, match="closed"):
        panel.click("whatever")
    await panel.settled()
    panel.close()


async def test_a_dashboard_of_a_closed_desk_is_a_picture(desk: Desk):
    """So is its open tab; another one cannot be opened any more, and the picture stays."""
    dashboard = desk.dashboard()
    await desk.close()
    assert "Dashboard" in dashboard._repr_mimebundle_()[0]["text/html"]
    with pytest.raises(StorageError, match="is closed; open it again"):
        dashboard.open("book")
    assert "Strategies" in dashboard._repr_mimebundle_()[0]["text/html"]


async def test_the_past_of_a_closed_desk_is_still_there(desk: Desk):
    """A table needs no desk to be looked at."""
    uri = desk.queue.uri
    await desk.close()
    panel = HistoryPanel(v6kit.TableHistory(uri))
    assert panel.frame.height > 0
    with pytest.raises(V6KitError, match="belongs to no desk"):
        _ = panel.desk
    panel.close()
