"""What holds for every panel in a page: size, colours, hostile data, computing cells, reading without a kernel."""

from __future__ import annotations

import pytest
from lab import DESK, enter
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]

BULK = """\
wanted = pl.DataFrame({"conid": range(1, 100_001)}).with_columns(symbol=pl.format("S{}", "conid"))
_ = await desk.queue.insert_many(wanted)
"""


async def test_100_000_rows_are_scrolled_sorted_and_filtered(open_notebook, page: Page):
    """The page holds some sixty rows of them, whatever is done."""
    notebook = await open_notebook(DESK, BULK, "desk.panel('queue')")
    await notebook.run_all(0, 1, 2)
    queue = notebook.panel("queue")
    grid, rows = queue.get_by_role("grid"), queue.locator("tbody tr[aria-selected]")
    await expect(grid).to_have_attribute("aria-rowcount", "100061")

    await rows.first.click()
    await page.keyboard.press("End")
    await expect(rows.last).to_have_attribute("aria-rowindex", "100061")
    await expect(rows.last).to_be_in_viewport()
    await expect(rows.last).to_have_attribute("aria-selected", "true")
    await queue.locator(".v6-scroll").evaluate("node => node.scrollTop = node.scrollHeight / 2")
    await expect(queue.locator("tr[aria-rowindex='50032']")).to_be_in_viewport()

    await queue.get_by_role("columnheader", name="contract").get_by_role("button").click()
    await queue.get_by_role("columnheader", name="contract").get_by_role("button").click()
    await expect(queue.get_by_role("columnheader", name="contract")).to_have_attribute("aria-sort", "descending")
    await expect(rows.first).to_contain_text("TSLA")
    await enter(queue.get_by_role("searchbox"), "s4711")
    await expect(queue.get_by_role("status").last).to_contain_text("11 of 100,060 rows")
    await expect(rows).to_have_count(11)
    await page.keyboard.press("Escape")
    await expect(grid).to_have_attribute("aria-rowcount", "100061")
    await expect(rows).to_have_count(60)


async def test_what_is_in_the_tables_never_becomes_markup(open_notebook, page: Page):
    """A symbol that is a piece of HTML is shown as the text that it is, in the widget and in the static view."""
    evil = '"><img src=x onerror="window.owned = 1"><script>window.owned = 1</script>'
    insert = f"""\
evil = {evil!r}
_ = await desk.queue.insert(1, evil, priority=1)
await desk.registry.add_strategy(evil, [{{"conid": 2, "symbol": evil, "sec_type": "STK", "quantity": 1}}], kind=evil)"""
    static = "from IPython.display import HTML\nHTML(queue._repr_mimebundle_()[0]['text/html'])"
    queue, strategies = "queue = desk.panel('queue')\nqueue", "desk.panel('strategies')"
    notebook = await open_notebook(DESK, insert, queue, strategies, static)
    await notebook.run_all(0, 1, 2, 3, 4)
    panels = [notebook.panel(name) for name in ("queue", "strategies")]
    for panel in panels:
        await panel.locator("tbody tr[aria-selected]").first.click()
        await expect(panel.locator("tr[aria-selected=true]")).to_have_count(1)
    await expect(panels[1].locator(".v6-below")).to_contain_text(f"legs of {evil}")
    for shown in (*panels, page.locator(".v6-static:visible")):
        await expect(shown).to_contain_text(evil)
        assert await shown.locator("img, script").count() == 0
    assert await page.evaluate("() => window.owned") is None


async def test_a_computing_cell_does_not_stop_the_display(open_notebook, page: Page):
    """While a cell keeps the kernel busy, the worker goes on and the page shows it."""
    busy = "while True: sum(range(1000))"
    notebook = await open_notebook(DESK, "desk.panel('queue')", "desk.start()", busy)
    await notebook.run_all(0, 1, 2)
    queue = notebook.panel("queue")
    await notebook.start(3)
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("60")
    assert await page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.status") == "busy"
    await notebook.interrupt()


async def test_a_panel_that_nobody_sees_is_told_so(open_notebook):
    """Scrolled out of sight it has no audience; scrolled back, it has one and shows what happened meanwhile."""
    room = "from IPython.display import HTML\nHTML('<p style=\"height:3000px\">')"
    asked = "queue.audience.is_there"
    cycle = "await desk.run_cycle()"
    notebook = await open_notebook(DESK, "queue = desk.panel('queue')\nqueue", room, cycle)
    await notebook.run_all(0, 1, 2)
    queue = notebook.panel("queue")
    await queue.scroll_into_view_if_needed()
    assert await notebook.until(asked, "True")
    await notebook.page.locator("p[style*='3000px']").evaluate("node => node.scrollIntoView({block: 'end'})")
    assert await notebook.until(asked, "False")
    await notebook.run(3)
    await queue.evaluate("node => node.scrollIntoView()")
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("20")


async def test_running_the_cell_again_replaces_the_panel(open_notebook):
    """The old one closes, so nothing is drawn twice; the new one works."""
    count = "import threading\nsum(each.name == 'v6kit-panels' for each in threading.enumerate())"
    notebook = await open_notebook(DESK, "queue = desk.panel('queue')\nqueue", "first = queue", "first.is_live", count)
    await notebook.run_all(0, 1, 2, 1)
    await expect(notebook.panel("queue")).to_have_count(1)
    await expect(notebook.panel("queue")).to_have_attribute("data-state", "live")
    await notebook.panel("queue").locator("tbody tr[aria-selected]").first.click()
    await expect(notebook.panel("queue").get_by_role("button", name="Cancel…")).to_be_enabled()
    assert await notebook.run(3) == "False"
    assert await notebook.run(4) == "1"


async def test_a_reopened_notebook_shows_pictures_until_its_cells_are_run(open_notebook, lab, page: Page):
    """Trusted or not, without the kernel that had the panel there is a table instead of a broken widget."""
    notebook = await open_notebook(DESK, "desk.panel('book')", "desk.dashboard()")
    await notebook.run_all(0, 1, 2)
    picture, live = page.locator(".v6-picture"), page.locator("section[data-panel]:visible")
    await expect(live).to_have_count(3)
    await expect(picture.first).to_be_hidden()
    await notebook.save()
    await page.goto(f"{lab.url}/doc/tree/{notebook.path.name}?reset")
    await expect(live).to_have_count(3)  # the kernel still has them
    await notebook.panel("book").locator("tbody tr[aria-selected]").first.click()
    await expect(notebook.panel("book").locator("tr[aria-selected=true]")).to_have_count(1)
    await notebook.close()
    sent = notebook.path.read_text(encoding="utf-8").replace("'book'", "'book' ")  # so that nobody has signed it
    (lab.root / "sent-by-mail.ipynb").write_text(sent, encoding="utf-8")
    for name, broken in ((notebook.path.name, 2), ("sent-by-mail.ipynb", 0)):
        await page.goto(f"{lab.url}/doc/tree/{name}?reset")
        failed = page.get_by_text("model not found")
        if broken:  # JupyterLab trusts what it has saved, tries, and says so where nobody has to see it
            await failed.last.wait_for(state="attached")
        await expect(failed).to_have_count(broken)
        await expect(page.locator(".v6-static:visible").first).to_contain_text("the first 20 of 60 rows")
        await expect(picture.first.locator("tbody tr")).to_have_count(20)
        assert [await each.is_visible() for each in await failed.all()] == [False] * broken
        await expect(live).to_have_count(0)
        await notebook.is_ready()  # who closes a notebook whose kernel is still starting leaves the kernel behind


async def test_two_panels_on_one_table_share_its_rows_and_nothing_else(open_notebook):
    """What one of them changes shows in both; what is filtered and selected in one is its own."""
    notebook = await open_notebook(DESK, "queue = desk.panel('queue')\nqueue", "desk.dashboard().open('queue')")
    await notebook.run_all(0, 1, 2)
    first, second = (notebook.panel("queue").nth(number) for number in (0, 1))
    await enter(first.get_by_role("searchbox"), "spy 261218 p")
    rows = first.locator("tbody tr[aria-selected]")
    assert await notebook.until("queue.words", "'spy 261218 p'")  # and not what was typed by the way
    shown = await notebook.ask("queue.frame.height")
    await expect(first.get_by_role("status").last).to_have_text(f"{shown} of 60 rows")
    await expect(second.get_by_role("status").last).to_have_text("60 rows")
    await rows.first.click()
    await first.get_by_role("button", name="Cancel…").click()
    await expect(second.get_by_role("button", name="Cancel…")).to_be_disabled()
    await first.get_by_role("button", name="Cancel 1? Click again").click()
    for panel in (first, second):
        await expect(panel.get_by_role("button", name="CANCELLED")).to_contain_text("1")
    assert await second.locator("tr[aria-selected=true]").count() == 0


async def test_all_cells_run_at_once_leave_panels_that_can_be_read(open_notebook):
    """A desk that closes before the page has drawn its panels leaves what they showed, not an empty output."""
    notebook = await open_notebook(DESK, "desk.panel('queue')", "await desk.close()")
    await notebook.run_at_once()
    queue = notebook.panel("queue")
    await expect(queue).to_have_attribute("data-state", "closed")
    await expect(queue.get_by_role("button", name="PENDING")).to_contain_text("60")
    await expect(queue.locator("tbody tr[aria-selected]").first).to_be_visible()
