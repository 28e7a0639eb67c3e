"""The dashboard in a real JupyterLab: tabs by keys, one instant for all of them, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import CONDOR, DESK, enter
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]

BEFORE = "then = desk.clock.now()\nthen.strftime('%Y-%m-%d %H:%M:%S.%f')"
DASHBOARD = "dashboard = desk.dashboard()\ndashboard"
SEEN = "[name for name, panel in dashboard._panels.items() if panel.audience.is_there]"
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
IS_WHOLE = """node => {
  const panel = node.closest('section').getBoundingClientRect();
  return node.getBoundingClientRect().right <= panel.right;
}"""
TABS = ("strategies", "queue", "book", "worker", "lines")


async def test_tabs_are_switched_by_keys_and_only_the_open_one_costs(open_notebook, page: Page, whole_picture):
    """Arrows move along the tabs; a panel that is not open has no audience, so it reads and sends nothing."""
    notebook = await open_notebook(DESK, CONDOR, "await desk.run_cycle()", DASHBOARD)
    await notebook.run_all(0, 1, 2, 3)
    top = notebook.panel("dashboard")
    await expect(top.get_by_role("tab", name="Strategies")).to_have_attribute("aria-selected", "true")
    await expect(top).to_contain_text("4 / 90 lines")
    await expect(notebook.panel("strategies").get_by_role("row", name="IRON_CONDOR")).to_be_visible()
    await top.get_by_role("tab", name="Strategies").focus()
    for name in (*TABS[1:], "history"):
        await page.keyboard.press("ArrowRight")
        await expect(notebook.panel(name)).to_be_visible()
        await expect(page.locator("section[data-panel]:visible")).to_have_count(2)
        await notebook.panel(name).scroll_into_view_if_needed()
        assert await notebook.until(SEEN, f"['{name}']")
        await top.get_by_role("tab", selected=True).focus()
    await page.keyboard.press("Home")
    await expect(notebook.panel("strategies")).to_be_visible()
    await notebook.panel("strategies").get_by_role("row", name="IRON_CONDOR").click()
    await expect(notebook.panel("strategies").locator(".v6-table-part tbody tr")).to_have_count(4)
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        await notebook.theme(theme)
        await whole_picture(page, f"dashboard-{theme.split()[1].lower()}")


async def test_every_panel_can_be_read_in_a_light_and_in_a_dark_theme(open_notebook, picture):
    """Text and ground differ by 4.5 to 1 at least, as WCAG 2.1 asks (1.4.3), wherever something may be done or read."""
    notebook = await open_notebook(DESK, CONDOR, "await desk.run_cycle()", DASHBOARD)
    await notebook.run_all(0, 1, 2, 3)
    top = notebook.panel("dashboard")
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        await notebook.theme(theme)
        assert await top.evaluate(CONTRAST) == []
        for name in (*TABS, "history"):
            await top.get_by_role("tab", name=name).click()
            panel = notebook.panel(name)
            await expect(panel).to_be_visible()
            row = panel.locator("tbody tr[aria-selected]").first
            await row.click()
            await expect(row).to_have_attribute("aria-selected", "true")
            assert await panel.evaluate(CONTRAST) == []
            if "Dark" in theme and name in ("book", "queue", "history"):
                await picture(notebook, name, f"{name}-dark")


async def test_in_a_narrow_window_the_instant_goes_to_a_line_of_its_own(open_notebook, page: Page):
    """Beside the tabs, it would be cut off."""
    notebook = await open_notebook(DESK, "desk.dashboard()")
    usual = page.viewport_size
    await page.set_viewport_size({"width": 720, "height": 900})
    try:
        await notebook.run_all(0, 1)
        assert await notebook.panel("dashboard").get_by_role("textbox").evaluate(IS_WHOLE)
    finally:
        await page.set_viewport_size(usual)


async def test_the_head_of_a_column_says_what_it_means(open_notebook):
    """For whoever rests the mouse on it, where the title alone does not say."""
    notebook = await open_notebook(DESK, "desk.panel('queue')")
    await notebook.run_all(0, 1)
    head = notebook.panel("queue").get_by_role("columnheader", name="lease")
    await expect(head).to_have_attribute("title", "How long its worker still has before others may take it")


async def test_one_instant_is_shown_by_every_tab_until_the_way_back(open_notebook, page: Page, picture):
    """Typed into the field, it moves every tab; the banner leads back to what is now."""
    after = "desk.queue.stats().by_status['SUCCESS']"
    notebook = await open_notebook(DESK, BEFORE, CONDOR, "await desk.run_cycle()", DASHBOARD, after)
    await notebook.run(0)
    then = (await notebook.run(1)).strip("'")
    await notebook.run_all(2, 3, 4)
    top = notebook.panel("dashboard")
    await top.get_by_role("tab", name="Queue").click()
    queue = notebook.panel("queue")
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("20")
    field = top.get_by_role("textbox")
    await enter(field, then)
    await page.keyboard.press("Enter")
    await expect(top).to_have_attribute("data-state", "past")
    await queue.scroll_into_view_if_needed()  # a panel that is out of sight is not drawn
    await expect(queue).to_have_attribute("data-state", "past")
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("0")
    await expect(queue.get_by_role("button", name="PENDING")).to_contain_text("60")
    await picture(notebook, "dashboard", "dashboard-past")
    for name in TABS:
        await top.get_by_role("tab", name=name).click()
        panel = notebook.panel(name)
        await expect(panel).to_have_attribute("data-state", "past")
        await expect(panel.get_by_role("row", name="IRON_CONDOR")).to_have_count(0)
        await expect(panel.locator(".v6-button:enabled")).to_have_count(0)
    await top.get_by_role("button", name="back to live").click()
    await expect(top).to_have_attribute("data-state", "live")
    await notebook.panel("lines").scroll_into_view_if_needed()
    await expect(notebook.panel("lines").get_by_role("row", name="SPY 261218 P 580")).to_be_visible()
    await enter(field, "yesterday")
    await page.keyboard.press("Enter")
    await expect(top.get_by_role("alert")).to_contain_text("as of must be like")
    await page.keyboard.press("Escape")  # as it was
    await expect(field).to_have_value("")
    await enter(field, "")
    await page.keyboard.press("Enter")
    await expect(top.get_by_role("alert")).to_be_hidden()


async def test_a_click_on_a_version_takes_every_tab_to_its_instant_and_back(open_notebook):
    """What the History tab looks at, all tabs show; the dashboard's way back leads the History tab back too."""
    notebook = await open_notebook(DESK, "await desk.run_cycle()", DASHBOARD)
    await notebook.run_all(0, 1, 2)
    top, history, queue = (notebook.panel(name) for name in ("dashboard", "history", "queue"))
    await top.get_by_role("tab", name="History").click()
    await expect(history.locator(".v6-source")).to_contain_text("position_queue v3 of 0–3")
    await history.locator("[data-version='2']").click()
    await expect(top).to_have_attribute("data-state", "past")
    await expect(top.get_by_role("textbox")).not_to_have_value("")
    await top.get_by_role("tab", name="Queue").click()
    await expect(queue).to_have_attribute("data-state", "past")
    await expect(queue.get_by_role("button", name="PROCESSING")).to_contain_text("20")
    await top.get_by_role("tab", name="History").click()
    await expect(history.locator(".v6-source")).to_contain_text("position_queue v2 of 0–3")
    await top.get_by_role("button", name="back to live").click()
    await expect(history).to_have_attribute("data-state", "live")
    await expect(history.locator(".v6-source")).to_contain_text("position_queue v3 of 0–3")
    await top.get_by_role("tab", name="Queue").click()
    await expect(queue.get_by_role("button", name="SUCCESS")).to_contain_text("20")
