"""One flow per panel, through clicks and keys, in a real JupyterLab."""

from __future__ import annotations

import re

import pytest
from lab import CONDOR, DESK
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]


async def test_a_cycle_is_run_by_a_click_and_the_counts_move(open_notebook, picture):
    """The worker's button runs a cycle; worker and queue show what came of it, and both close with the desk."""
    notebook = await open_notebook(DESK, "desk.panel('worker')", "desk.panel('queue')", "await desk.close()")
    await notebook.run_all(0, 1, 2)
    worker, queue = notebook.panel("worker"), notebook.panel("queue")
    await expect(queue.get_by_role("button", name="PENDING")).to_contain_text("60")

    await worker.get_by_role("button", name="Run one cycle").click()
    await expect(worker.get_by_role("row")).to_have_count(2)
    await expect(worker.get_by_role("row").last).to_contain_text("20")
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("20")
    await expect(queue.get_by_role("button", name="PENDING")).to_contain_text("40")

    await worker.get_by_role("button", name="Every 60 s").click()
    await expect(worker.get_by_role("button", name="Stop")).to_be_enabled()
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("60")
    await picture(notebook, "worker", "worker")
    await worker.get_by_role("button", name="Stop").click()
    await worker.locator("tr[data-key='1']").click()
    await worker.get_by_role("button", name="What it changed").click()
    changes = worker.locator(".v6-below tbody tr")
    await expect(changes).to_have_count(20)
    await expect(changes.first).to_contain_text("PENDING → SUCCESS")
    await queue.locator("tbody tr[aria-selected]").first.click()
    await queue.get_by_role("button", name="Timeline").click()
    await expect(queue.locator(".v6-below tbody tr")).to_have_count(3)
    await expect(worker.get_by_role("button", name="Run one cycle")).to_be_enabled()

    await notebook.run(3)
    await expect(queue).to_have_attribute("data-state", "closed")
    await expect(worker.get_by_role("button", name="Run one cycle")).to_be_disabled()
    assert "is closed; open it again" in await notebook.run(1)


async def test_requests_are_filtered_selected_and_cancelled_with_a_second_click(open_notebook, page: Page, picture):
    """Keys: `/` filters, arrows select, Esc clears. Buttons: cancel shows the count and asks once more."""
    notebook = await open_notebook(DESK, "queue = desk.panel('queue')\nqueue", "queue.frame['status'].to_list()")
    await notebook.run_all(0, 1)
    queue = notebook.panel("queue")
    grid, rows = queue.get_by_role("grid"), queue.locator("tbody tr[aria-selected]")
    await expect(rows).to_have_count(60)

    await rows.first.click()
    await page.keyboard.press("/")
    await page.keyboard.type("spy 261218")
    assert await notebook.until("queue.words", "'spy 261218'")  # and not what was typed by the way
    shown = int(await notebook.ask("queue.frame.height"))
    assert 2 < shown < 60
    await expect(grid).to_have_attribute("aria-rowcount", str(shown + 1))
    await expect(rows).to_have_count(shown)
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Shift+ArrowDown")
    await expect(queue.locator("tr[aria-selected=true]")).to_have_count(2)

    cancel = queue.get_by_role("button", name="Cancel…")
    await expect(cancel).to_have_text("Cancel… 2")
    await cancel.dblclick()  # is one click: it must not confirm itself
    sure = queue.get_by_role("button", name="Cancel 2?")
    await expect(sure).to_be_visible()
    await picture(notebook, "queue", "cancel")
    await expect(queue.get_by_role("button", name="CANCELLED")).to_contain_text("0")
    await sure.click()
    await expect(queue.get_by_role("button", name="CANCELLED")).to_contain_text("2")
    await queue.get_by_role("button", name="CANCELLED").click()
    await expect(grid).to_have_attribute("aria-rowcount", "3")
    assert await notebook.run(2) == "['CANCELLED', 'CANCELLED']"


async def test_keys_mean_the_same_wherever_in_the_panel_one_is(open_notebook, page: Page):
    """`/` and Esc from a chip; a key that is held down never confirms what its button asks; Esc takes that back."""
    notebook = await open_notebook(DESK, "queue = desk.panel('queue')\nqueue")
    await notebook.run_all(0, 1)
    queue = notebook.panel("queue")
    chip, chosen = queue.get_by_role("button", name="PENDING"), queue.locator("tr[aria-selected=true]")
    await chip.focus()
    await page.keyboard.press("/")
    await expect(queue.get_by_label("filter rows")).to_be_focused()
    await page.keyboard.type("spy")
    assert await notebook.until("queue.words", "'spy'")
    await page.keyboard.press("Enter")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Shift+ArrowDown")
    await expect(chosen).to_have_count(2)

    await queue.get_by_role("button", name="Cancel…").focus()
    await page.keyboard.down("Enter")
    await expect(queue.get_by_role("button", name="Cancel 2?")).to_be_focused()
    for _ in range(3):
        await page.keyboard.down("Enter")  # the same key, still down: it repeats
    assert await notebook.ask("v6kit.run_sync(queue.settled())") == "None"
    assert await notebook.ask("desk.queue.stats().by_status['CANCELLED']") == "0"
    await expect(queue.get_by_role("button", name="Cancel 2?")).to_be_visible()
    await page.keyboard.up("Enter")
    await page.keyboard.press("Escape")
    await expect(queue.get_by_role("button", name="Cancel…")).to_have_text("Cancel… 2")
    await chip.focus()
    await page.keyboard.press("Escape")
    await expect(chosen).to_have_count(0)
    await page.keyboard.press("Escape")
    assert await notebook.until("queue.words", "''")
    await expect(queue.get_by_label("filter rows")).to_have_value("")


async def test_the_queue_shows_leases_and_reasons_and_redrives_what_failed(open_notebook, picture):
    """What is under way counts its lease down; what failed says why, and is queued again by a click."""
    faults = """\
waiting = desk.queue.current()["conid"].to_list()
gateway.faults.error_by_conid.update(dict.fromkeys(waiting[3:6], 200))
gateway.faults.hold_by_conid.update(dict.fromkeys(waiting[6:10], 600.0))
desk.start()
"""
    short = DESK.replace('"interval": 60', '"interval": 2')  # and so are the leases
    notebook = await open_notebook(short, "desk.panel('queue')", faults, "await desk.stop()")
    await notebook.run_all(0, 1, 2)
    queue = notebook.panel("queue")
    await expect(queue.get_by_role("button", name="FAILED")).to_contain_text("3")
    lease = queue.get_by_role("row", name="PROCESSING").first.get_by_role("gridcell").nth(4)
    await expect(lease).to_have_text(re.compile(r"^00:\d\d$"))
    await expect(queue.get_by_role("row", name="FAILED").first).to_contain_text("200")
    await notebook.run(3)
    await queue.get_by_role("button", name="FAILED").click()
    await expect(queue.locator("tbody tr[aria-selected]")).to_have_count(3)
    await queue.locator("tbody tr[aria-selected]").first.click()
    await notebook.page.keyboard.press("Control+a")
    redrive = queue.get_by_role("button", name="Redrive 3")
    await expect(redrive).to_be_enabled()
    await picture(notebook, "queue", "queue")
    await redrive.click()
    await expect(queue.get_by_role("button", name="FAILED")).to_contain_text("0")


async def test_a_failing_gateway_shows_in_the_strip_and_recovers(open_notebook, picture):
    """What holds the worker up is said in one line while it lasts."""
    drop = "gateway.faults.refuse_connections = True\ngateway.drop_clients()"
    notebook = await open_notebook(DESK, "desk.panel('worker')", drop, "gateway.faults.clear()")
    await notebook.run_all(0, 1)
    strip = notebook.panel("worker").get_by_role("alert")
    await expect(strip).to_be_hidden()
    await notebook.run(2)
    await expect(strip).to_contain_text("nothing new is claimed: the gateway is")
    await picture(notebook, "worker", "strip")
    await notebook.run(3)
    await expect(strip).to_be_hidden()


async def test_a_lake_that_disappears_shows_in_the_strips_and_recovers(open_notebook):
    """The strip folds the traceback; `last_error` has the error; both go when the lake is there again."""
    away, back = "import os\nos.rename(lake, lake + '-away')", "os.rename(lake + '-away', lake)"
    shown = "queue = desk.panel('queue')\nqueue", "desk.panel('history')"
    notebook = await open_notebook(DESK, *shown, away, "queue.last_error", back)
    await notebook.run_all(0, 1, 2, 3)
    panels = [notebook.panel(name) for name in ("queue", "history")]
    for panel in panels:
        await panel.scroll_into_view_if_needed()  # what nobody sees looks at nothing
        strip = panel.get_by_role("alert")
        await expect(strip.locator("summary")).to_contain_text("is gone")
        await expect(strip.locator("pre")).to_be_hidden()
        await strip.locator("summary").click()
        await expect(strip.locator("pre")).to_contain_text("Traceback")
    assert "Error" in await notebook.run(4)
    await notebook.run(5)
    for panel in panels:
        await panel.scroll_into_view_if_needed()
        await expect(panel.get_by_role("alert")).to_be_hidden()
    assert await notebook.run(4) == ""


async def test_a_position_is_refreshed_from_the_book(open_notebook, picture):
    """The book's chips filter by quality, and its button queues what is selected before all others."""
    first = "desk.queue.current()['priority'].value_counts().sort('priority').rows()"
    notebook = await open_notebook(DESK, CONDOR, "await desk.run_cycle()", "desk.panel('book')", first)
    await notebook.run_all(0, 1, 2, 3)
    book = notebook.panel("book")
    await expect(book.get_by_role("button", name="ok")).to_contain_text("24")
    await picture(notebook, "book", "book")
    await book.get_by_role("button", name="partial").click()
    rows = book.locator("tbody tr[aria-selected]")
    await expect(rows).to_have_count(36)
    await rows.nth(0).click()
    await rows.nth(2).click(modifiers=["Shift"])
    await book.get_by_role("button", name="Refresh 3").click()
    await expect(book.get_by_role("button", name="Refresh 3")).to_be_enabled()
    assert (await notebook.run(4)).startswith("[(1, 3)")


async def test_the_lines_are_shown_with_who_holds_them(open_notebook, picture):
    """Strategies that are registered later appear by themselves."""
    hold = "gateway.faults.hold_by_conid.update(dict.fromkeys(desk.queue.current()['conid'], 600.0))\n"
    notebook = await open_notebook(DESK, "desk.panel('lines')", CONDOR, hold + "desk.start()")
    await notebook.run_all(0, 1)
    lines = notebook.panel("lines")
    await expect(lines).to_contain_text("0 / 90 used")
    await notebook.run(2)
    await expect(lines).to_contain_text("4 / 90 used")
    await expect(lines.get_by_role("row", name="SPY 261218 P 580")).to_contain_text("strategy 1, priority 2")
    await notebook.run(3)
    await expect(lines.get_by_role("row", name="snapshot").first).to_be_visible()
    await picture(notebook, "lines", "lines")
