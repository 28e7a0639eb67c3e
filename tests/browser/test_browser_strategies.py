"""The Strategies panel in a real JupyterLab: register by clicks and keys, see it stream, remove it again."""

from __future__ import annotations

import re

import pytest
from lab import CONDOR, DESK, enter
from playwright.async_api import Locator, Page, expect

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]

LEGS = "[(leg.right.value, leg.strike, leg.quantity) for leg in desk.registry['{}']]"


def field(panel: Locator, name: str) -> Locator:
    """Return a field of the form."""
    return panel.locator(f"[data-field='{name}']")


async def test_a_condor_is_registered_by_clicks_and_keys_streams_and_is_removed(open_notebook, page: Page, picture):
    """From the form over a preview with its code to live legs; the second click removes it."""
    notebook = await open_notebook(DESK, CONDOR, "desk.panel('strategies')", LEGS.format(2))
    await notebook.run_all(0, 1, 2)
    panel = notebook.panel("strategies")
    await expect(panel.get_by_role("row", name="IRON_CONDOR")).to_contain_text("active")
    await panel.get_by_role("button", name="Register…").click()
    await enter(field(panel, "symbol"), "QQQ")
    await page.keyboard.press("Enter")
    expiry = field(panel, "expiry")
    await expect(expiry.locator("option")).not_to_have_count(1)
    await expiry.select_option(index=2)
    await expect(panel.locator(".v6-form-part pre")).to_contain_text("add_strategy('2', legs, kind='IRON_CONDOR')")
    await enter(field(panel, "width"), "15")
    await page.keyboard.press("Enter")
    await enter(field(panel, "quantity"), "-2")
    await page.keyboard.press("Enter")
    await expect(panel.locator(".v6-form-part tbody tr").first).to_contain_text("−2")
    await picture(notebook, "strategies", "register")

    await panel.get_by_role("button", name="Register it").click()
    row = panel.get_by_role("row", name=re.compile("^2 IRON_CONDOR"))
    await expect(row).to_have_attribute("aria-selected", "true")
    await expect(row.get_by_role("gridcell").nth(5)).to_have_text("4")
    legs = panel.locator(".v6-table-part tbody tr")
    await expect(legs).to_have_count(4)
    await expect(legs.first).to_contain_text("stream")
    await expect(legs.first).to_contain_text("ok")
    rights, strikes, numbers = zip(*eval(await notebook.run(3)), strict=True)  # noqa: S307 - what our own cell says
    assert (rights, numbers) == (("P", "P", "C", "C"), (-2.0, 2.0, 2.0, -2.0))
    assert (strikes[1] - strikes[0], strikes[3] - strikes[2]) == (15.0, 15.0)
    await picture(notebook, "strategies", "strategies")

    await panel.get_by_role("button", name="Remove…").click()
    sure = panel.get_by_role("button", name="Remove 1 and end its streams?")
    await expect(row).to_contain_text("active")
    await sure.click()
    await expect(row).to_have_count(0)
    await panel.get_by_role("button", name="removed").click()
    await expect(row).to_contain_text("removed")
    await expect(row.get_by_role("gridcell").nth(5)).to_have_text("–")


async def test_a_symbol_that_is_not_listed_shows_in_the_strip_and_the_form_stays(open_notebook, page: Page):
    """An error goes to the strip; the next symbol works."""
    shown = "strategies = desk.panel('strategies')\nstrategies"
    notebook = await open_notebook(DESK, shown, "await strategies.settled()")
    await notebook.run_all(0, 1)
    panel = notebook.panel("strategies")
    await panel.get_by_role("button", name="Register…").click()
    await enter(field(panel, "symbol"), "NOPE")
    await page.keyboard.press("Enter")
    await expect(panel.get_by_role("alert")).to_contain_text("NOPE")
    await enter(field(panel, "symbol"), "SPY")
    await page.keyboard.press("Enter")
    await expect(panel.get_by_role("alert")).to_be_hidden()
    await field(panel, "expiry").select_option(index=1)
    await field(panel, "shape").select_option("bull_put")
    await expect(field(panel, "short put")).not_to_have_value("")
    await enter(field(panel, "delta"), "0.3")
    await page.keyboard.press("Enter")
    assert await notebook.until("strategies._form.delta, strategies._asking", "(0.3, 0)")
    await notebook.run_all(2)
    await panel.get_by_role("button", name="Register it").click()
    await expect(panel.get_by_role("row", name="VERTICAL")).to_contain_text("active")


async def test_a_strategy_is_registered_by_keys_alone(open_notebook, page: Page):
    """Tab and Shift+Tab go from field to field, Enter takes over and then registers, Esc leaves; no key is lost."""
    notebook = await open_notebook(DESK, "desk.panel('strategies')")
    await notebook.run_all(0, 1)
    panel, keys = notebook.panel("strategies"), page.keyboard
    count = "len(desk.registry.active_legs())"

    async def press(*names: str) -> None:
        for name in names:
            await keys.press(name)

    async def is_at(name: str) -> None:
        await expect(field(panel, name)).to_be_focused()

    await panel.get_by_role("grid").focus()
    await press("Tab", "Tab")  # over the columns' heads, which are one stop
    await press("d", "d", "ArrowDown", "Enter")  # of which JupyterLab would delete the cell, and go to the next one
    await is_at("symbol")
    await press("Escape")
    await expect(panel.locator(".v6-form-part")).to_have_count(0)
    await expect(panel.get_by_role("grid")).to_be_focused()

    await press("Tab", "Tab", "Enter")
    await is_at("symbol")
    await keys.type("QQQ")
    await press("Tab")
    await is_at("expiry")
    await press("Shift+Tab")
    await is_at("symbol")
    await press("Tab")
    await expect(field(panel, "expiry").locator("option")).not_to_have_count(1)
    await press("ArrowDown")
    await expect(field(panel, "short put")).not_to_have_value("")
    await is_at("expiry")
    await press("Tab")
    await is_at("shape")
    await keys.type("bull")
    await expect(field(panel, "long call")).to_have_count(0)  # other fields, and the focus stays
    await is_at("shape")
    for name in ("long put", "short put", "width", "delta", "quantity"):
        await press("Tab")
        await is_at(name)
    await keys.type("3")
    await press("Enter")
    await expect(panel.locator(".v6-form-part tbody tr").first).to_contain_text("3")
    await is_at("quantity")
    assert await notebook.until(count, "0")
    await press("Enter")
    await expect(panel.get_by_role("row", name="VERTICAL")).to_contain_text("active")
    await expect(panel.get_by_role("grid")).to_be_focused()
    assert await notebook.until(count, "2")
