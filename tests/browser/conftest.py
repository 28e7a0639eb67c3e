"""A real browser on a real JupyterLab, offline by construction; a page that breaks or looks outside fails its test."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from lab import PATIENCE, Lab, Notebook
from playwright.async_api import Browser, Error, Page, Request, async_playwright, expect

CHROMIUM = os.environ.get("V6KIT_CHROMIUM") or shutil.which("chromium")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
PICTURES = Path(__file__).parents[2] / "notebooks" / "pictures"

OpenNotebook = Callable[..., Awaitable[Notebook]]
TakePicture = Callable[..., Awaitable[None]]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One JupyterLab for all tests; it knows nothing of the user's own settings."""
    started = Lab(tmp_path_factory.mktemp("lab"))
    yield started
    started.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One headless Chromium for all tests."""
    if CHROMIUM is None:
        missing = "no browser: apt-get install chromium fonts-dejavu (or name one in V6KIT_CHROMIUM)"
        (pytest.fail if "CI" in os.environ else pytest.skip)(missing)
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", OFFLINE]
        started = await driver.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)
        yield started
        await started.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def only_page(browser: Browser) -> AsyncIterator[Page]:
    """One page for all tests, because JupyterLab takes long to load: a user does not load it anew either."""
    sharpness = 2 if "V6KIT_PICTURES" in os.environ else 1
    context = await browser.new_context(viewport={"width": 1100, "height": 800}, device_scale_factor=sharpness)
    context.set_default_timeout(PATIENCE)
    yield await context.new_page()
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(lab: Lab, only_page: Page) -> AsyncIterator[Page]:
    """The page; it fails its test if it asked the network for anything, or if a script of it broke."""
    outside: list[str] = []
    broken: list[str] = []

    def note_request(sent: Request) -> None:
        if not sent.url.startswith((lab.url, "data:", "blob:")):
            outside.append(sent.url)

    def note_error(error: Error) -> None:
        broken.append(f"{error}\n{error.stack}")

    only_page.context.on("request", note_request)
    only_page.on("pageerror", note_error)
    yield only_page
    only_page.context.remove_listener("request", note_request)
    only_page.remove_listener("pageerror", note_error)
    assert outside == []
    assert broken == []


@pytest_asyncio.fixture(loop_scope="session")
async def open_notebook(lab: Lab, page: Page, request: pytest.FixtureRequest) -> AsyncIterator[OpenNotebook]:
    """Open notebooks with the given cells, named for the test; their kernels end with it."""
    opened: list[Notebook] = []

    async def open_one(*cells: str) -> Notebook:
        name = f"{request.node.originalname.removeprefix('test_')[:40]}-{len(opened)}"
        opened.append(await Notebook.open(lab, page, name, list(cells)))
        return opened[-1]

    yield open_one
    for notebook in opened:
        await notebook.close()


@pytest.fixture
def whole_picture() -> Callable[[Page, str], Awaitable[None]]:
    """Keep a picture of a whole dashboard, as `picture` does of a panel."""

    async def take(page: Page, name: str) -> None:
        if "V6KIT_PICTURES" in os.environ:
            PICTURES.mkdir(exist_ok=True)
            await page.mouse.move(0, 0)
            shown = page.locator(".jp-OutputArea-output:has(section[data-panel=dashboard])").last
            await shown.screenshot(path=PICTURES / f"{name}.png", animations="disabled")

    return take


@pytest.fixture
def picture(page: Page) -> TakePicture:
    """Keep pictures of panels for the README, if `V6KIT_PICTURES` is set; else nothing is written."""

    async def take(notebook: Notebook, panel: str, name: str) -> None:
        if "V6KIT_PICTURES" in os.environ:
            PICTURES.mkdir(exist_ok=True)
            await page.mouse.move(0, 0)
            await notebook.panel(panel).screenshot(path=PICTURES / f"{name}.png", animations="disabled")

    return take
