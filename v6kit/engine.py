"""The engine: a thread with an event loop of its own, so that a cell that computes does not starve the socket.

Owns the thread, and the hop from any loop or thread to the loop that an object belongs to.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from v6kit.errors import V6KitError

_T = TypeVar("_T")
_P = ParamSpec("_P")


class _FastSelector(selectors.DefaultSelector):
    """Waits for sockets as long as a fast clock says."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._speed)


class _FastLoop(asyncio.SelectorEventLoop):
    """A loop on which every sleep, deadline and timer runs at the speed of a fast clock."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        super().__init__(_FastSelector(speed))

    def time(self) -> float:
        return super().time() * self._speed


def new_event_loop(speed: float = 1.0) -> asyncio.AbstractEventLoop:
    """Return a loop whose seconds are those of a clock with this speed."""
    return asyncio.new_event_loop() if speed == 1.0 else _FastLoop(speed)


class _ShortTurns:
    """Lets Python's threads take turns each millisecond, instead of every five, as long as an engine runs.

    A thread that computes, such as a cell, gives the interpreter up only when its turn ends; and an engine asks for it
    anew whenever it has given it up itself, as each read from a socket does. Beside a cell its loop woke up to 25 ms
    late so, and up to 230 ms where the cell could go on for 20 ms. An interval that somebody else has set meanwhile is
    left alone.
    """

    SECONDS = 0.001

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = self._ours = 0.0

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, self.SECONDS))
                self._ours = sys.getswitchinterval()  # as Python rounds it

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and sys.getswitchinterval() == self._ours:
                sys.setswitchinterval(self._before)


_short_turns = _ShortTurns()

# Loops of engines that close: a coroutine that came after the last tasks were cancelled would be waited for, for ever.
_ending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_handing_over = threading.Lock()


class Engine:
    """A background event loop; while one runs, Python's threads take shorter turns.

    Args:
        name: Of its thread.
        speed: Of its time; a clock's.
    """

    def __init__(self, name: str = "v6kit-engine", *, speed: float = 1.0) -> None:
        self._loop = new_event_loop(speed)
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        _short_turns.begin()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs here."""
        return self._loop

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def submit(self, coro: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine here; returns its future at once.

        Raises:
            V6KitError: The engine is closed, or closing.
        """
        return submit(coro, self._loop)

    async def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine here and wait for it on the caller's loop; cancelling the wait cancels it.

        Raises:
            V6KitError: The engine is closed, or closing.
        """
        if self.is_current:
            return await coro
        return await asyncio.wrap_future(self.submit(coro))

    def close(self) -> None:
        """Cancel what still runs, stop the loop and all of its threads. Blocks; idempotent.

        Raises:
            RuntimeError: Called on the engine's own thread.
        """
        if self.is_current:
            raise RuntimeError("an engine cannot close itself; close it from another thread")
        with self._closing:
            if self._loop.is_closed():
                return
            with _handing_over:
                _ending.add(self._loop)
            asyncio.run_coroutine_threadsafe(_wind_down(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            _short_turns.end()


async def _wind_down() -> None:
    """Cancel all other tasks; then end generators, and the threads of `asyncio.to_thread`, which would stay.

    On the loop's own thread, because the closing one may have a loop that runs, as every cell of a notebook does.
    """
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def submit(coro: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> concurrent.futures.Future[_T]:
    """Start a coroutine on a loop that runs on another thread.

    Raises:
        V6KitError: That loop has ended, or its engine is closing.
    """
    with _handing_over:
        if loop not in _ending and not loop.is_closed():
            return asyncio.run_coroutine_threadsafe(coro, loop)
    coro.close()
    raise V6KitError("this belongs to an engine that has ended, with its desk; open the desk again to go on")


class Homed(Protocol):
    """An object that belongs to one event loop.

    Attributes:
        home: That loop; `None` until its first use, which makes the caller's loop its home.
    """

    home: asyncio.AbstractEventLoop | None


_HomedT = TypeVar("_HomedT", bound=Homed)


def at_home(
    method: Callable[Concatenate[_HomedT, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_HomedT, _P], Coroutine[Any, Any, _T]]:
    """Let an async method run on its object's home loop, wherever it is awaited; cancelling the wait cancels it."""

    @wraps(method)
    async def hop(self: _HomedT, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        here = asyncio.get_running_loop()
        self.home = self.home or here
        if self.home is here:
            return await method(self, *args, **kwargs)
        return await asyncio.wrap_future(submit(method(self, *args, **kwargs), self.home))

    return hop


def run_sync(coro: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end from code that cannot `await`: a cell's callback, a plain function, a script.

    It runs on a thread and loop of its own, so it works where a loop is running already. Ctrl-C cancels it.

    Args:
        coro: What to run, e.g. `desk.run_cycle()`.

    Returns:
        Its result; what it raises is raised here.

    Raises:
        TypeError: It is no coroutine.
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
