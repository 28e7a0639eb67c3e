"""The engine: a thread with an event loop of its own, so that a cell that computes does not starve the socket."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Engine:
    """A background event loop.

    Args:
        name: Of its thread.
    """

    def __init__(self, name: str = "v6kit-engine") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs here."""
        return self._loop

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def submit(self, coro: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine here; returns its future at once."""
        return asyncio.run_coroutine_threadsafe(coro, self._loop)

    async def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine here and wait for it on the caller's loop; cancelling the wait cancels it."""
        if self.is_current:
            return await coro
        return await asyncio.wrap_future(self.submit(coro))

    def close(self) -> None:
        """Cancel what still runs, stop the loop and the thread. Blocks; idempotent."""
        if self._loop.is_closed():
            return
        if self.is_current:
            raise RuntimeError("an engine cannot close itself; close it from another thread")
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run_sync(coro: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end from code that cannot `await`: a cell's callback, a plain function, a script.

    It runs on a thread and loop of its own, so it works where a loop is running already. Ctrl-C cancels it.

    Args:
        coro: What to run, e.g. `desk.run_cycle()`.

    Returns:
        Its result; what it raises is raised here.
    """
    if not asyncio.iscoroutine(coro):
        raise TypeError(f"coro must be a coroutine, such as desk.run_cycle(); got {coro!r}")
    engine = Engine("v6kit-run-sync")
    try:
        future = engine.submit(coro)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
    finally:
        engine.close()
