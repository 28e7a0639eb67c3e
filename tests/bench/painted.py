"""From a click in the history to the painted screen, in a real browser; bytes on the way, and the saved notebook."""

from __future__ import annotations

import asyncio
import statistics
import sys
from pathlib import Path

from playwright.async_api import Browser, Page, WebSocket, async_playwright

from tests.bench.measure import Line, count_at_most, lake, told

sys.path.append(str(Path(__file__).parents[1] / "browser"))  # where the tests have their JupyterLab

from conftest import CHROMIUM, OFFLINE
from lab import Lab, Notebook

FEWER, MANY = 10_000, 100_000
VERSIONS = 20
_OPEN = """\
import tempfile
import polars as pl
import v6kit
gateway = v6kit.SimulatedGateway(positions=20)
desk = await v6kit.open(tempfile.mkdtemp(), broker="simulated", gateway=gateway)
wanted = pl.DataFrame({{"conid": range(1, {rows} + 1)}}).with_columns(symbol=pl.format("S{{}}", "conid"))
_ = await desk.queue.insert_many(wanted)
ids = desk.queue.current()["request_id"].to_list()
for n in range({versions}): await desk.queue.prioritise(ids[500 * n % 5000:][:500], 1 + n % 3)
history = desk.panel("history")
history"""
_CLICK = """async ([version, mode]) => {
  const panel = document.querySelector("section[data-panel=history]");
  const words = panel.querySelector(".v6-versions-part .v6-words");
  const wanted = mode === "diff" ? `→ v${version} ` : `v${version} `;
  const began = performance.now();
  panel.querySelector(`[data-version='${version}']`).click();
  await new Promise(done => {
    const look = () => words.textContent.includes(wanted) && (watch.disconnect(), done());
    const watch = new MutationObserver(look);
    watch.observe(words, { childList: true, characterData: true, subtree: true });
    look();
  });
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - began;
}"""


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    if CHROMIUM is None:
        raise SystemExit("no browser: apt-get install chromium fonts-dejavu (or name one in V6KIT_CHROMIUM)")
    with lake() as folder:
        lab = Lab(folder)
        try:
            async with async_playwright() as driver:
                browser = await driver.chromium.launch(
                    executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", OFFLINE]
                )
                fewer, many = await _clicked(lab, browser, FEWER), await _clicked(lab, browser, MANY)
                await browser.close()
        finally:
            lab.stop()
    lines = []
    for mode, name in (("as of", "version"), ("diff", "diff")):
        for part in ("median", "p95"):
            what = f"{mode} {part}"
            lines.append(told(f"click to painted {name}, {part}, {MANY:,} rows", many[what], f"{FEWER:,}", fewer[what]))
    return [
        *lines,
        count_at_most(f"bytes to the page per click, {MANY:,} rows", round(many["bytes"]), 40_000),
        count_at_most(f"bytes of the saved notebook, {MANY:,} rows", round(many["saved"]), 80_000),
    ]


async def _clicked(lab: Lab, browser: Browser, rows: int) -> dict[str, float]:
    page = await browser.new_page(viewport={"width": 1100, "height": 800})
    received: list[int] = []
    page.on("websocket", lambda socket: _count(socket, received))
    notebook = await Notebook.open(lab, page, f"painted-{rows}", [_OPEN.format(rows=rows, versions=VERSIONS)])
    await notebook.run(0)
    found: dict[str, float] = {}
    received.clear()
    for mode in ("as of", "diff"):
        await notebook.panel("history").get_by_role("button", name=mode, exact=False).first.click()
        taken = await _per_click(page, mode)
        found[f"{mode} median"] = statistics.median(taken)
        found[f"{mode} p95"] = statistics.quantiles(taken, n=20)[-1]
    found["bytes"] = sum(received) / (2 * VERSIONS)
    await notebook.save()
    found["saved"] = notebook.path.stat().st_size
    await notebook.close()
    await page.close()
    return found


async def _per_click(page: Page, mode: str) -> list[float]:
    versions = await page.eval_on_selector_all("[data-version]", "bars => bars.map(bar => bar.dataset.version)")
    order = [versions[n * 7 % len(versions)] for n in range(VERSIONS)]  # to and fro, as one who searches does
    return [await page.evaluate(_CLICK, [version, mode]) / 1000 for version in order]


def _count(socket: WebSocket, into: list[int]) -> None:
    socket.on("framereceived", lambda data: into.append(len(data)))
