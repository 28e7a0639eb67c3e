"""A JupyterLab of its own on a free loopback port, and a notebook in it that tests drive through a real browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
from playwright.async_api import Locator, Page
from tests.patience import DEADLINE

PATIENCE = 2_000 * DEADLINE  # ms, twice as long as elsewhere: a page goes through browser, server and kernel
# On one day of the market, whenever it is run; however slow that is, no cycle is cut short, and nothing is due again.
DESK = """\
import datetime, tempfile, polars as pl, v6kit, v6kit.clock
lake = tempfile.mkdtemp()
clock = v6kit.clock.FastClock(1, datetime.datetime(2026, 11, 23, 14, 30, tzinfo=datetime.UTC))
gateway = v6kit.SimulatedGateway(positions=60, snapshot_hold=0.1, clock=clock)
calm = {"connect_timeout": 60, "interval": 60, "targets": v6kit.Targets(active=3600, other=3600)}
desk = await v6kit.open(lake, broker="simulated", gateway=gateway, clock=clock, batch_size=20, **calm)
"""
CONDOR = """\
legs = desk.positions.current().filter(
    pl.col("symbol") == "SPY", pl.col("expiry") == "20261218", pl.col("strike").is_in([580.0, 585.0, 605.0, 610.0])
).select("conid", "symbol", "right", "strike", "expiry", quantity="position")
await desk.registry.add_strategy(1, legs, kind="IRON_CONDOR")
await desk.sync()
"""
_RUN = """async number => {
  const notebook = jupyterapp.shell.currentWidget;
  notebook.content.activeCellIndex = number;
  await jupyterapp.commands.execute('notebook:run-cell');
}"""
_START = """number => {
  jupyterapp.shell.currentWidget.content.activeCellIndex = number;
  jupyterapp.commands.execute('notebook:run-cell');
}"""
_TEXT = """number => {
  const { outputs } = jupyterapp.shell.currentWidget.content.widgets[number].model;
  const told = each => each.text ?? each.data?.['text/plain'] ?? (each.traceback ?? []).join('\\n');
  return outputs.toJSON().map(each => [told(each)].flat().join('').trim()).join('\\n');
}"""
_HAS_FAILED = """number => {
  const { outputs } = jupyterapp.shell.currentWidget.content.widgets[number].model;
  return Array.from({ length: outputs.length }, (_, each) => outputs.get(each).type).includes("error");
}"""
_ASK = """async expression => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  const asked = kernel.requestExecute({ code: '', silent: true, user_expressions: { value: expression } });
  return (await asked.done).content.user_expressions.value.data['text/plain'];
}"""
_SETTLED = "() => !document.getElementById('jupyterlab-splash')"
_IS_FREE = """() => {
  const isOpen = () => [...jupyterapp.shell.widgets('main')].some(each => each.sessionContext);
  return Boolean(window.jupyterapp?.shell) && !isOpen() && !document.querySelector('.jp-Dialog');
}"""
_OPEN = "async path => { await jupyterapp.commands.execute('docmanager:open', { path }); }"
_CLOSE = """async () => {
  const notebook = jupyterapp.shell.currentWidget;
  if (!notebook.sessionContext) return; // it is closed
  await notebook.context.save(); // else it would ask whether to
  await notebook.sessionContext.shutdown();
  notebook.close();
}"""
_READY = """() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"""


async def enter(field: Locator, text: str) -> None:
    """Type over what is in a field, key by key; `fill` would go around what the page does with keys."""
    await field.press("Control+a")
    await field.press("Delete")
    await field.press_sequentially(text)


class Lab:
    """A running JupyterLab.

    Attributes:
        url: Where it is.
        root: Its notebooks' folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        private = {f"JUPYTER_{name}_DIR": str(root / f".{name.lower()}") for name in ("CONFIG", "DATA", "RUNTIME")}
        private |= {f"JUPYTERLAB_{name}_DIR": str(root / f".{name.lower()}") for name in ("SETTINGS", "WORKSPACES")}
        quiet = root / ".settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        quiet.parent.mkdir(parents=True)
        quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # else it asks, above what is looked at
        options = [
            "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
            f"--ServerApp.root_dir={root}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | private,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._await_address()

    def _await_address(self) -> str:
        log = []
        for line in self._process.stderr:
            log.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+(?=/lab)", line):
                threading.Thread(target=self._process.stderr.read, daemon=True).start()  # or its pipe would fill
                return found[0]
        raise RuntimeError("JupyterLab did not start:\n" + "".join(log))

    def stop(self) -> None:
        """End it, and its kernels."""
        self._process.terminate()
        self._process.wait()
        self._process.stderr.close()


class Notebook:
    """A notebook that is open in a page."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.path = page, path

    @classmethod
    async def open(cls, lab: Lab, page: Page, name: str, cells: list[str]) -> Notebook:
        """Write a notebook with these cells, open it, and wait for its kernel.

        JupyterLab is loaded only if the page has none, or one in which something is open still.
        """
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = lab.root / f"{name}.ipynb"
        nbformat.write(notebook, path)
        if page.url.startswith(lab.url) and await page.evaluate(_IS_FREE):
            await page.evaluate(_OPEN, path.name)
        else:
            await page.goto(f"{lab.url}/doc/tree/{path.name}?reset")
        await page.wait_for_function(_READY, timeout=PATIENCE)
        opened = cls(page, path)
        await opened.theme("JupyterLab Light")  # an earlier test may have chosen another one
        return opened

    async def run(self, number: int) -> str:
        """Run a cell to its end and return what it put out."""
        await self.page.evaluate(_RUN, number)
        return str(await self.page.evaluate(_TEXT, number))

    async def run_all(self, *numbers: int) -> None:
        """Run cells one after the other; one that raises fails the test."""
        for number in numbers:
            said = await self.run(number)
            assert not await self.page.evaluate(_HAS_FAILED, number), said

    async def run_at_once(self) -> None:
        """Run all cells as the menu does."""
        await self.page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")

    async def until(self, expression: str, wanted: str) -> bool:
        """Ask the kernel for an expression again and again until it is this; `False` if it never is.

        Not by a cell, because running one scrolls to it.
        """
        end = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < end:
            if await self.ask(expression) == wanted:
                return True
        return False

    async def ask(self, expression: str) -> str:
        """Return what an expression is in the kernel."""
        return str(await self.page.evaluate(_ASK, expression))

    async def start(self, number: int) -> None:
        """Start a cell and let it run."""
        await self.page.evaluate(_START, number)

    async def interrupt(self) -> None:
        """Interrupt the cell that runs, and wait until it has ended."""
        await self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")
        await self.is_ready()

    async def is_ready(self) -> None:
        """Wait until the kernel has started, and runs nothing."""
        await self.page.wait_for_function(_READY)

    async def save(self) -> None:
        """Save it to the disk."""
        await self.page.evaluate("() => jupyterapp.shell.currentWidget.context.save()")

    async def theme(self, name: str) -> None:
        """Change JupyterLab's theme, after the change before it has ended.

        A theme has its name before the splash screen of its change is gone: that fades for 200 ms, and is then taken
        out of the page. All changes share one splash screen, so the second of two within that time takes out what is
        no longer there, which JupyterLab does not catch. Nobody who clicks is as fast.
        Source: `splash` in packages/apputils-extension/src/index.ts, and `ThemeManager._loadTheme`, JupyterLab 4.6.
        """
        await self.page.wait_for_function(_SETTLED)
        await self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        await self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
        await self.page.wait_for_function(_SETTLED)

    async def close(self) -> None:
        """Close it and end its kernel."""
        await self.page.evaluate(_CLOSE)

    def panel(self, name: str) -> Locator:
        """Return a panel on the page."""
        return self.page.locator(f"section[data-panel={name}]")
