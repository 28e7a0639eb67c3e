"""Panels on a real desk: what they show, do and cost, without a browser."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import v6kit
from broker_helpers import DEADLINE
from IPython.core.interactiveshell import InteractiveShell
from sync_helpers import FAST, STILL, UNHURRIED, eventually, legs_of, streamed
from v6kit.contracts import label
from v6kit.errors import InvalidTransitionError, V6KitError
from v6kit.gateway import SimulatedGateway
from v6kit.panels import PANELS, Panel, QueuePanel, frames
from v6kit.panels.parts import Part

if TYPE_CHECKING:
    from v6kit.desk import Desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with 20 positions, four of them an iron condor that streams."""
    gateway = SimulatedGateway(20, snapshot_hold=0.02, **STILL, **FAST)
    opened = await v6kit.open(tmp_path / "lake", "simulated", gateway=gateway, **UNHURRIED)
    legs = legs_of(*gateway.account.iron_condors[0])
    await opened.registry.add_strategy(1, legs, kind="IRON_CONDOR")
    await streamed(opened)
    yield opened
    await opened.close()


def say(panel: Panel, what: str, number: int = 0, **more: object) -> None:
    """Let a page send a message, the way a comm delivers it."""
    content = {"do": what, "view": "a-view", "number": number, **more}
    panel._on_screen()._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


class Sent:
    """Counts what a panel sends to pages."""

    def __init__(self, panel: Panel) -> None:
        self.regions: list[str] = []
        self.one = threading.Event()
        panel._on_screen().observe(self._note)

    def _note(self, change: dict[str, Any]) -> None:
        self.regions.append(change["name"])
        self.one.set()


@pytest.mark.parametrize("name", sorted(PANELS))
async def test_every_panel_shows_what_its_code_gives(desk: Desk, name: str):
    """What is copied, run where `desk` is the desk, returns what is seen."""
    await desk.run_cycle()
    panel = desk.panel(name)
    if name == "worker":
        assert panel.frame["settled"].to_list() == [16]
        assert panel.code == "report = await desk.run_cycle()"
        return
    panel.words = "spy"
    panel.sort(panel._grid.columns[1].name, descending=True)
    shown = panel.frame
    assert shown.height > 0
    *imports, expression = panel.code.splitlines()
    space: dict[str, Any] = {"desk": desk}
    exec("\n".join(imports), space)  # noqa: S102 - that is what users do with it
    assert eval(expression, space).equals(shown)  # noqa: S307


@pytest.mark.parametrize("name", sorted(PANELS))
async def test_every_panel_has_a_picture_and_one_stable_line(desk: Desk, tmp_path: Path, name: str):
    """For where there is no widget; the line names no address and no time."""
    panel = desk.panel(name)
    data, _ = panel._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert data["text/plain"] == repr(panel)
    assert "\n" not in repr(panel)
    assert "0x" not in repr(panel)
    assert panel.title in data["text/html"]
    panel.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<table>" in page


async def test_a_cell_shows_a_picture_and_below_it_the_widget(
    desk: Desk, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
):
    """Two outputs, so that a page which trusts the notebook and has no kernel for the widget still has the picture."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, **_more: shown.append(data))
    assert shell.display_formatter.format(desk.panel("queue")) == ({}, {})
    assert shell.display_formatter.format(desk.dashboard()) == ({}, {})
    assert [set(data) for data in shown] == 2 * [
        {"text/html", "text/plain"},
        {"application/vnd.jupyter.widget-view+json", "text/plain"},
    ]
    assert "<div class='v6-static'><p><b>Queue</b>" in shown[0]["text/html"]
    assert shown[1]["text/plain"] == ""
    assert shown[2]["text/html"].count("class='v6-static'") == 2


async def test_a_terminal_shows_one_line(desk: Desk, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch):
    """IPython without a page has no use for a widget, and would print its empty text."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, **_more: shown.append(data))
    monkeypatch.setattr(shell.display_formatter, "active_types", ["text/plain"])  # as a terminal's shell does
    shell.display_formatter.format(desk.panel("queue"))
    assert [data["text/plain"] for data in shown] == ["Queue panel: 16 PENDING, 4 CANCELLED"]


async def test_what_was_asked_for_wrongly_is_said_until_something_else_is_asked_for(desk: Desk):
    """A view's own sign of life does not take it away."""
    panel = desk.panel("queue")
    say(panel, "sort", column="nope")
    await eventually(lambda: panel.last_error is not None)
    say(panel, "see", 1)
    await eventually(lambda: panel._heard == {"a-view": 1})
    assert "column must be one of" in str(panel.last_error)
    say(panel, "filter", 2, text="spy")
    await eventually(lambda: panel.last_error is None)


async def test_a_name_that_is_no_panel_is_answered_with_those_that_are(desk: Desk):
    """The error carries the next step."""
    with pytest.raises(ValueError, match="must be one of strategies, queue, book, worker, lines, history, got 'quue'"):
        desk.panel("quue")


async def test_a_panel_that_nobody_sees_sends_nothing(desk: Desk):
    """And one that is seen shows at once what it has missed."""
    panel = desk.panel("queue")
    panel._repr_mimebundle_()
    sent = Sent(panel)
    looks = []
    vars(panel._stage)["rest"] = lambda: looks.append(1) or 0.0  # asked at each pulse, seen or not
    await desk.run_cycle()
    await eventually(lambda: len(looks) > 4)
    assert sent.regions == []
    say(panel, "see")
    await eventually(lambda: "grid" in sent.regions and "SUCCESS" in str(panel._surface.grid))
    say(panel, "leave")
    await eventually(lambda: not panel.audience.is_there)


async def test_what_one_panel_takes_of_the_processor_lets_all_of_them_rest(desk: Desk):
    """They share one small part of a core, so many panels cost no more than few."""
    stage = desk.panel("queue")._stage
    assert desk.panel("book")._stage is stage

    def take_a_second() -> None:
        end = time.thread_time() + 1
        while time.thread_time() < end:
            sum(range(1_000))

    async def take() -> None:
        with stage.counted():
            await asyncio.to_thread(take_a_second)
        assert stage.rest() > 1

    await asyncio.wrap_future(stage.submit(take()))


async def test_a_blocked_loop_does_not_stop_the_display(desk: Desk):
    """While the kernel's loop is blocked, as by a cell that computes, new data reaches the page."""
    panel = desk.panel("queue")
    say(panel, "see")
    await eventually(lambda: panel.audience.is_there)
    sent = Sent(panel)
    desk.start()
    for _ in range(3):  # the loop of this test stands still meanwhile
        assert sent.one.wait(DEADLINE)
        sent.one.clear()
    await desk.stop()


async def test_the_page_is_obeyed_from_any_thread(desk: Desk):
    """A kernel delivers messages on its main thread or on a subshell's, which has another loop."""
    panel = desk.panel("queue")
    first = panel.frame[0, "request_id"]

    def subshell() -> None:
        async def deliver() -> None:
            say(panel, "pick", key=first, how="one", number=1)
            say(panel, "click", action="prioritise", number=2)

        asyncio.run(deliver())

    await asyncio.to_thread(subshell)
    await panel.settled()
    assert panel.selected == [first]
    assert desk.queue.current().filter(pl.col("priority") == 1)["request_id"].to_list() == [first]
    assert panel._surface.heard == {"a-view": 2}


async def test_what_a_button_does_can_be_awaited_and_what_fails_is_raised(desk: Desk):
    """A click in a notebook or a test: press, settle; an error is kept, shown in the strip and raised."""
    panel = desk.panel("queue")
    request = panel.frame[0, "request_id"]
    panel.selected = request
    panel.click("cancel")
    await panel.settled()
    assert desk.queue.current()[0, "status"] == "PENDING"
    assert panel._buttons.draw(closed=False)[2]["label"] == "Cancel 1? Click again"
    await desk.queue.mark_success(await desk.queue.get_batch())  # somebody else is faster than the second click
    panel.click("cancel")
    with pytest.raises(InvalidTransitionError):
        await panel.settled()
    assert isinstance(panel.last_error, InvalidTransitionError)
    assert "Traceback" in panel._trouble()["trace"]


async def test_a_storage_that_fails_shows_until_it_works_again(desk: Desk):
    """The strip stays while the lake is out of reach, and goes by itself."""
    panel = desk.panel("queue")
    say(panel, "see")
    table = Path(desk.queue.uri)
    away = table.with_name("away")
    await asyncio.to_thread(table.rename, away)
    await eventually(lambda: panel.last_error is not None)
    looks = []
    vars(panel._stage)["rest"] = lambda: looks.append(1) or 0.0
    await eventually(lambda: len(looks) > 6)
    assert panel.last_error is not None
    await asyncio.to_thread(away.rename, table)
    await eventually(lambda: panel.last_error is None)


class FragilePanel(QueuePanel):
    """A panel with a fault of its own, for as long as it is told to have one."""

    name = "fragile"
    is_broken = False

    def parts(self) -> list[Part]:
        """Return no parts, or fail."""
        if self.is_broken:
            raise ZeroDivisionError("a fault in a panel")
        return []


async def test_a_fault_in_a_panel_is_shown_and_does_not_end_it(desk: Desk):
    """Whatever fails while it draws, it says so, tries again, and goes on when it can."""
    panel = FragilePanel(desk)
    say(panel, "see")
    panel.is_broken = True
    await eventually(lambda: panel._surface.trouble.get("line") == "ZeroDivisionError: a fault in a panel")
    panel.is_broken = False
    await desk.run_cycle()
    await eventually(lambda: panel._surface.trouble == {} and "SUCCESS" in str(panel._surface.grid))


async def test_a_message_that_makes_no_sense_is_shown_and_changes_nothing(desk: Desk):
    """It must neither pass in silence nor end the display."""
    panel = desk.panel("queue")
    say(panel, "sort", column="no such column", number=1)
    await eventually(lambda: isinstance(panel.last_error, ValueError))
    say(panel, "filter", text="spy", number=2)
    await eventually(lambda: panel.words == "spy")
    await eventually(lambda: panel.last_error is None)


async def test_a_paused_panel_rests_until_it_is_live_again(desk: Desk):
    """The dot is a button."""
    panel = desk.panel("queue")
    say(panel, "see")
    say(panel, "live", on=False)
    await eventually(lambda: panel._surface.head["state"] == "paused")
    await desk.run_cycle()
    sent = Sent(panel)
    looks = []
    vars(panel._stage)["rest"] = lambda: looks.append(1) or 0.0
    await eventually(lambda: len(looks) > 4)
    assert sent.regions == []
    panel.is_live = True
    await eventually(lambda: "grid" in sent.regions)


async def test_python_gets_of_a_paused_panel_what_its_page_shows(desk: Desk):
    """Whoever pauses it looks into something; it does not change under his hands, and the past is read nevertheless."""
    panel = desk.panel("queue")
    before, at, told = panel.frame, desk.clock.now(), panel._repr_mimebundle_()[0]["text/html"]
    panel.is_live = False
    (added,) = await desk.queue.insert_many([{"conid": 999_999_999, "symbol": "NEW"}])
    assert panel.frame.equals(before)
    assert "NEW" not in panel._repr_mimebundle_()[0]["text/html"]
    with pytest.raises(ValueError, match="no row has the request_id"):
        panel.selected = added
    panel.as_of = at
    assert added not in panel.frame["request_id"]
    panel.as_of = None
    assert added in panel.frame["request_id"], "back from the past it shows what is now"
    panel.is_live = True
    panel.selected = added
    assert panel.selected == [added]
    assert panel._repr_mimebundle_()[0]["text/html"] != told


async def test_the_same_panel_again_replaces_the_first(desk: Desk):
    """No timer runs twice; the first says that it is closed."""
    first = desk.panel("queue")
    first._repr_mimebundle_()
    second = desk.panel("queue")
    assert (first.is_live, second.is_live) == (False, True)
    await eventually(lambda: first._surface.head["state"] == "closed")
    await eventually(first._pulse.done)
    with pytest.raises(V6KitError, match=r"make it again with desk\.panel\('queue'\)"):
        first.click("redrive")
    first.close()
    second.close()


async def test_after_the_last_panel_the_thread_ends_and_the_next_one_starts_another(desk: Desk):
    """No panel, no thread; what a button has started is let come to its end before."""
    panel = desk.panel("worker").click("run")
    thread = next(each for each in threading.enumerate() if each.name == "v6kit-panels")
    panel.close()
    await asyncio.to_thread(thread.join, DEADLINE)
    assert not thread.is_alive()
    assert desk.worker.last_report.settled == 16
    await panel.settled()
    panel.words = "spy"  # nobody draws it any more, and nothing breaks
    assert desk.panel("worker").frame.height == 1


async def test_a_panel_that_nobody_saw_close_still_has_its_last_picture(desk: Desk):
    """Scrolled out of sight, or not drawn yet while all cells run: who looks later must not find an empty output."""
    hidden, unseen = desk.panel("queue"), desk.panel("worker")
    say(hidden, "see")
    say(hidden, "leave")
    unseen._repr_mimebundle_()
    await eventually(lambda: "a-view" in hidden._surface.heard)
    await desk.close()
    for panel in (hidden, unseen):
        await eventually(lambda panel=panel: panel._surface.head["state"] == "closed")
        assert panel._surface.comm is not None
        assert panel._surface.parts != []


async def test_a_closed_panel_goes_with_its_last_view(desk: Desk):
    """When its cell runs again, the page drops the old view, and nothing of it is kept in the kernel."""
    first = desk.panel("queue")
    say(first, "see")
    await eventually(lambda: first.audience.is_there)
    second = desk.panel("queue")
    await eventually(lambda: first._surface.head["state"] == "closed")
    assert first._surface.comm is not None
    say(first, "gone")
    await eventually(lambda: first._surface.comm is None)
    second.close()


async def test_a_panel_outlives_its_desk_as_a_picture(desk: Desk):
    """What was seen last stays; nothing can be pressed, and reading raises nothing."""
    panel = desk.panel("worker").click("run")
    await panel.settled()
    say(panel, "see")
    await desk.close()
    await eventually(lambda: panel._surface.head["state"] == "closed")
    assert all(button["off"] for button in panel._surface.buttons)
    assert panel.frame["settled"].to_list() == [16]
    assert "16" in panel._repr_mimebundle_()[0]["text/html"]


async def test_the_picture_of_a_closed_desk_can_be_filtered_and_goes_with_its_last_view(desk: Desk):
    """A long one can be scrolled, too; after it, the kernel keeps nothing of the desk."""
    panel = desk.panel("queue")
    say(panel, "see")
    await desk.close()
    assert panel._surface.grid["total"] == 20
    shown = panel._surface.parts
    say(panel, "filter", 1, text="no such row")
    assert (panel._surface.grid["total"], panel._surface.heard) == (0, {"a-view": 1})
    assert panel._surface.parts == shown != []
    say(panel, "click", 2, action="cancel")
    assert "is closed" in panel._surface.trouble["line"]
    say(panel, "gone", 3)
    assert panel._surface.comm is None


async def test_the_worker_is_started_and_stopped_by_its_buttons(desk: Desk):
    """While it runs by itself, no cycle can be run by hand."""
    panel = desk.panel("worker")
    await panel.click("start").settled()
    assert desk.worker.is_running
    assert [button["off"] for button in panel._buttons.draw(closed=False)] == [True, True, False, True]
    await panel.click("stop").settled()
    assert not desk.worker.is_running


async def test_the_worker_shows_every_cycle_however_quick(desk: Desk):
    """Also those that begin and end between two looks of the panel, or before it was opened; newest first."""
    await desk.run_cycle()
    panel = desk.panel("worker")
    begun, go_on = threading.Event(), threading.Event()
    panel._stage.call(lambda: (begun.set(), go_on.wait(DEADLINE)))  # what looks, looks away
    assert await asyncio.to_thread(begun.wait, DEADLINE)
    made = [desk.worker.last_report] + [await desk.run_cycle() for _ in range(3)]
    go_on.set()
    assert panel.frame["cycle"].to_list() == [4, 3, 2, 1]
    assert panel.frame["settled"].to_list() == [each.settled for each in reversed(made)]
    panel.as_of = made[1].started_at
    assert panel.frame["cycle"].to_list() == [2, 1]


async def test_a_cycle_shows_what_it_changed(desk: Desk):
    """Of the cycle that is selected, below the grid, and nothing of it once another one is."""
    await desk.run_cycle()
    await desk.run_cycle()
    panel = desk.panel("worker")
    panel.selected = "1"
    await panel.click("diff").settled()
    [part] = panel.below()
    before, after = desk.worker.reports[0].versions
    assert part["text"] == f"cycle 1 · queue v{before} → v{after} · 16 changes"
    assert {(row["cells"][0], *row["cells"][2:], row["tone"]) for row in part["rows"]} == {
        ("~", "PENDING → SUCCESS", "0 → 1", "", "good")
    }
    assert sorted(row["cells"][1] for row in part["rows"]) == sorted(
        desk.history("position_queue").diff(before, after)["symbol"]
    )
    assert "PENDING → SUCCESS" in panel._repr_mimebundle_()[0]["text/html"]
    panel.selected = "2"
    assert panel.below() == []
    await panel.click("diff").settled()
    assert panel.below()[0]["rows"] == []
    assert panel.below()[0]["text"].endswith("0 changes")


async def test_a_request_shows_every_state_that_it_was_in(desk: Desk):
    """Why it is as it is now: who changed it, when, and how long each state lasted."""
    [item, *others] = await desk.queue.get_batch(3, lease=timedelta(seconds=60))
    await desk.queue.mark_failed(item, "354 not subscribed")
    await desk.queue.release(others)
    panel = desk.panel("queue")
    panel.selected = item.request_id
    await panel.click("timeline").settled()
    [part] = panel.below()
    assert part["text"] == f"{item.symbol} · 3 states"
    assert [(row["cells"][2], row["tone"]) for row in part["rows"]] == [
        ("PENDING", "quiet"),
        ("PROCESSING", "busy"),
        ("FAILED", "bad"),
    ]
    assert part["rows"][-1]["cells"][6] == "354 not subscribed"
    assert part["rows"][-1]["cells"][4] == ""
    panel.selected = []
    assert panel.below() == []


async def test_the_book_comes_in_order_of_need(desk: Desk):
    """What is not good comes before what is, and among equals the older quote."""
    await desk.run_cycle()
    await desk.positions.mark_stale([desk.positions.rows()[-1].conid])
    book = frames.book(desk)
    assert book["known"].to_list()[0] == "stale"
    assert book.filter(pl.col("known") == "ok")["received_at"].is_sorted()
    panel = desk.panel("book").chip("stale")
    assert panel.frame.height == 1
    assert panel.chip("stale").frame.height == 20
    with pytest.raises(ValueError, match="must be one of error, never, stale, partial, ok"):
        panel.chip("good")


async def test_the_book_queues_what_is_selected_before_all_others(desk: Desk):
    """The button of the book is an insert at priority 1, under the contract's name like any other."""
    await desk.queue.cancel(desk.queue.current()["request_id"].to_list())
    panel = desk.panel("book")
    chosen = panel.frame.head(2)
    panel.selected = chosen["key"].to_list()
    await panel.click("refresh").settled()
    assert desk.queue.stats().by_priority[1] == 2
    queued = desk.queue.current().filter(pl.col("status") == "PENDING")
    assert set(queued.select("conid", "symbol").rows()) == set(chosen.select("conid", "contract").rows())


async def test_the_lines_name_contracts_and_strategies(desk: Desk):
    """Each holder with whom it is for."""
    panel = desk.panel("lines")
    assert panel.frame["strategies"].unique().to_list() == ["1 IRON_CONDOR"]
    assert all(why.startswith("strategy 1, priority 2, ") for why in panel.frame["why"])
    assert sorted(panel.frame["contract"]) == sorted(leg.label() for leg in desk.registry.active_legs())
    assert panel.parts()[0]["text"].startswith("4 / 90 used · 4 streams")


async def test_the_names_of_contracts_are_those_of_the_rest_of_the_house(desk: Desk):
    """One expression for a whole column says what `label` says for one."""
    book = frames.book(desk)
    wanted = [label(*row) for row in book.select("symbol", "expiry", "right", "strike").rows()]
    assert book["contract"].to_list() == wanted
    assert any(" " not in name for name in wanted)


async def test_what_failed_is_redriven_and_chips_filter_by_status(desk: Desk):
    """From FAILED to PENDING by a click, through the same call that everybody has."""
    [item, *others] = await desk.queue.get_batch(3, lease=timedelta(seconds=60))
    await desk.queue.mark_failed(item, "354 not subscribed")
    await desk.queue.release(others)
    panel = desk.panel("queue").chip("FAILED")
    assert panel.frame["error_message"].to_list() == ["354 not subscribed"]
    panel.selected = [item.request_id]
    await panel.click("redrive").settled()
    assert desk.queue.stats().by_status["FAILED"] == 0
    assert panel.frame.height == 0
