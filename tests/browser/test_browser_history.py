"""Time travel by keys and clicks: the past of the lake's tables, and of a Delta table that belongs to nobody."""

from __future__ import annotations

import re

import pytest
from lab import CONDOR, DESK, enter
from playwright.async_api import Locator, Page, expect

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]

PANEL = "history = desk.panel('history')\nhistory"
CYCLES = "for _ in range(3): await desk.run_cycle()"
NOTE_ALL = """node => {
  window.noted = [];
  const note = changes => window.noted.push(...changes.flatMap(each => [...each.addedNodes]).map(each => each.data));
  new MutationObserver(note).observe(node, { childList: true });
}"""
ALONE = """\
import polars as pl
from v6kit import TableHistory
from v6kit.panels import HistoryPanel
import tempfile
place = tempfile.mkdtemp() + "/any"
"""


def version(history: Locator) -> Locator:
    """Return what tells which version is looked at."""
    return history.locator(".v6-source")


def bar(history: Locator, number: int) -> Locator:
    """Return the bar of a version."""
    return history.locator(f"[data-version='{number}']")


async def test_versions_are_scrubbed_by_keys_and_clicks_and_a_range_is_compared(open_notebook, page: Page, picture):
    """Arrows step, a click goes there, a shift-click compares; changed cells say what they were; signs filter."""
    notebook = await open_notebook(DESK, CYCLES, PANEL, "history.frame.shape, history.version, history.compared_with")
    await notebook.run_all(0, 1, 2)
    history = notebook.panel("history")
    rows = history.locator("tbody tr[aria-selected]")
    await expect(version(history)).to_contain_text("position_queue v7 of 0–7")
    await expect(rows).to_have_count(20)
    await expect(rows.first).to_contain_text("PROCESSING → SUCCESS")

    await bar(history, 5).click()
    await expect(version(history)).to_contain_text("v5 of 0–7")
    await expect(history).to_have_attribute("data-state", "past")
    await page.keyboard.press("ArrowLeft")
    await expect(version(history)).to_contain_text("v4 of 0–7")
    await expect(rows.first).to_contain_text("PENDING → PROCESSING")
    await page.keyboard.press("Shift+ArrowLeft")
    await page.keyboard.press("Shift+ArrowLeft")
    await expect(history.get_by_role("status").first).to_contain_text("v1 → v4")
    await page.keyboard.press("ArrowRight")
    await expect(history.get_by_role("status").first).to_contain_text("v1 → v5")

    await bar(history, 7).click()
    await bar(history, 2).click(modifiers=["Shift"])
    await expect(history.get_by_role("status").first).to_contain_text("+0 ~60 −0")
    await expect(rows).to_have_count(60)
    await expect(history.locator("td.v6-differs[title='was: PENDING']").first).to_be_visible()
    await picture(notebook, "history", "history")
    await bar(history, 1).click()
    await history.get_by_role("button", name="~ changed").click()
    await expect(rows).to_have_count(0)
    await history.get_by_role("button", name="+ added").click()
    await expect(rows).to_have_count(60)
    assert await notebook.run(3) == "((60, 36), 1, 0)"


async def test_an_instant_is_typed_and_the_way_back_is_one_click(open_notebook, page: Page):
    """ISO text goes to that instant; text that is none, and what lies before all, say so; the dot leads back."""
    asked = "f\"{history.history.versions()['updated_at'][1]:%Y-%m-%d %H:%M:%S.%f} UTC\""
    notebook = await open_notebook(DESK, CYCLES, PANEL, asked)
    await notebook.run_all(0, 1, 2)
    history = notebook.panel("history")
    field, strip = history.get_by_label("as of"), history.get_by_role("alert")
    at = (await notebook.run(3)).strip("'")
    await enter(field, at)
    await page.keyboard.press("Enter")
    await expect(version(history)).to_contain_text("v2 of 0–7")
    await expect(strip).to_be_hidden()
    await enter(field, "yesterday")
    await page.keyboard.press("Enter")
    await expect(strip).to_contain_text("when must be ISO text")
    await enter(field, "1999-01-01 00:00 UTC")
    await page.keyboard.press("Enter")
    await expect(strip).to_contain_text("the first change was at")
    await expect(version(history)).to_contain_text("v2 of 0–7")
    await enter(field, "v3")
    await page.keyboard.press("Enter")
    await expect(version(history)).to_contain_text("v3 of 0–7")
    await expect(strip).to_be_hidden()
    shown = await field.input_value()
    await page.keyboard.press("ArrowLeft")  # the keys go on from there
    await expect(version(history)).to_contain_text("v2 of 0–7")
    await page.keyboard.press("ArrowRight")
    await expect(field).to_have_value(shown)
    await enter(field, "never mind")
    await page.keyboard.press("Escape")
    await expect(field).to_have_value(shown)
    await expect(history.get_by_role("slider")).to_be_focused()
    await history.get_by_role("button", name="past").click()
    await expect(version(history)).to_contain_text("v7 of 0–7")
    await expect(history).to_have_attribute("data-state", "live")


async def test_an_items_timeline_shows_each_state_and_how_long_it_lasted(open_notebook, picture):
    """Select a row, press Item: every state, who made it, and a click on one goes to its version."""
    notebook = await open_notebook(DESK, CYCLES, PANEL)
    await notebook.run_all(0, 1, 2)
    history = notebook.panel("history")
    await history.get_by_role("button", name="Item").click()
    await expect(history.get_by_role("alert")).to_contain_text("select a row first")
    await history.locator("tbody tr[aria-selected]").first.click()
    await history.get_by_role("button", name="Item").click()
    states = history.locator(".v6-state")
    await expect(states).to_have_text([re.compile(r"^v1 PENDING \d"), re.compile(r"^v6 PROCESSING \d"), "v7 SUCCESS"])
    await expect(history.locator("tbody tr[aria-selected]")).to_have_count(3)
    await states.nth(1).click()
    await expect(states.nth(1)).to_have_attribute("aria-pressed", "true")
    await expect(version(history)).to_contain_text("v6 of 0–7")
    await picture(notebook, "history", "history-item")


async def test_strategies_are_restored_with_a_second_click(open_notebook, picture):
    """The button counts what would change and asks once more; the registry has it, and the newest version shows."""
    remove = "await desk.registry.remove_strategy(1)"
    count = "len(desk.registry.active_legs())"
    notebook = await open_notebook(DESK, CONDOR, remove, PANEL, count)
    await notebook.run_all(0, 1, 2, 3)
    history = notebook.panel("history")
    await history.get_by_label("table").select_option("active_strategies")
    await expect(version(history)).to_contain_text("active_strategies v2 of 0–2")
    assert await notebook.run(4) == "0"
    await expect(history.get_by_role("button", name="Restore…")).to_be_disabled()
    await bar(history, 1).click()
    await history.get_by_role("button", name="Restore…").click()
    sure = history.get_by_role("button", name="Restore this version? 4 rows change")
    await expect(sure).to_be_visible()
    await picture(notebook, "history", "history-restore")
    assert await notebook.run(4) == "0"
    await sure.click()
    await expect(version(history)).to_contain_text("v3 of 0–3")
    assert await notebook.run(4) == "4"


async def test_the_queue_refuses_to_be_restored_with_a_sentence(open_notebook):
    """What cannot be taken back is not asked about twice."""
    notebook = await open_notebook(DESK, CYCLES, PANEL)
    await notebook.run_all(0, 1, 2)
    history = notebook.panel("history")
    await bar(history, 3).click()
    await history.get_by_role("button", name="Restore…").click()
    await expect(history.get_by_role("alert")).to_contain_text("a request ends exactly once")
    await bar(history, 4).click()
    await expect(history.get_by_role("alert")).to_be_hidden()


async def test_play_steps_through_the_versions_until_it_is_stopped(open_notebook):
    """From the first to the newest, one after the other; stop leaves it where it is."""
    rows = "[await desk.queue.insert(n, 'X') for n in range(1, 46)]\nNone"  # 23 s to stop it; too few files to compact
    notebook = await open_notebook(DESK, rows, PANEL)
    await notebook.run_all(0, 1, 2)
    history = notebook.panel("history")
    await expect(version(history)).to_contain_text("v46 of 0–46")
    await version(history).evaluate(NOTE_ALL)
    await history.get_by_role("button", name="play").click()
    await notebook.page.wait_for_function("() => window.noted.some(each => each.includes(' v3 of '))")
    await history.get_by_role("button", name="stop").click()
    await expect(history.get_by_role("button", name="play")).to_be_visible()
    await expect(history).to_have_attribute("data-state", "past")
    noted = [int(re.search(r" v(\d+) of ", each)[1]) for each in await notebook.page.evaluate("window.noted")]
    passed = [number for number in dict.fromkeys(noted) if number != 46]  # the clock beside it moves as well
    assert passed == list(range(len(passed)))


async def test_it_grows_at_the_right_while_a_worker_writes(open_notebook):
    """New versions appear by themselves; one who looks at the past stays there."""
    notebook = await open_notebook(DESK, PANEL, "desk.start()")
    await notebook.run_all(0, 1)
    history = notebook.panel("history")
    await expect(version(history)).to_contain_text("v1 of 0–1")
    await bar(history, 1).click()
    await history.get_by_role("button", name="first version").click()
    await notebook.run(2)
    await expect(bar(history, 6)).to_be_visible()
    await expect(version(history)).to_contain_text("v0 of 0–")
    await history.get_by_role("button", name="newest version").click()
    await expect(history.locator("tbody tr[aria-selected]").first).to_contain_text("SUCCESS")


async def test_keys_with_markup_in_them_stay_text(open_notebook, page: Page, picture):
    """Any Delta table, its columns and keys full of quotes and HTML: shown, and its timeline opens."""
    evil = "\"><img src=x onerror='window.owned=1'>"
    write = f"""{ALONE}
evil = {evil!r}
pl.DataFrame({{"id": [evil, "b"], "<b>x</b>": [1, 2]}}).write_delta(place)
pl.DataFrame({{"id": [evil, "b"], "<b>x</b>": [9, 2]}}).write_delta(place, mode="overwrite")
history = HistoryPanel(TableHistory(place, "id"))
history"""
    notebook = await open_notebook(write, "from IPython.display import HTML\nHTML(history._static(10))", "history.item")
    await notebook.run_all(0, 1)
    history = notebook.panel("history")
    await expect(history.locator("tbody tr[aria-selected]").first).to_contain_text("1 → 9")
    await history.locator("tbody tr[aria-selected]").first.click()
    await history.get_by_role("button", name="Item").click()
    await expect(history.locator(".v6-state")).to_have_count(2)
    await expect(history.get_by_role("status").first).to_contain_text(evil)
    assert await history.locator("img, script").count() == 0
    assert await page.locator(".v6-static img, .v6-static script").count() == 0
    assert await page.evaluate("() => window.owned") is None
    await picture(notebook, "history", "history-alone")
