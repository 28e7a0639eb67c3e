"""The engine: a thread with an event loop of its own, so that a cell that computes does not starve the socket.

Owns the thread, and the hop from any loop or thread to the loop that an object belongs to.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from v6kit.errors import V6KitError

_T = TypeVar("_T")
_P = ParamSpec("_P")


class _Turns:
    """How long Python's threads wait for each other: an engine gets in at once, and does its work in one go.

    Beside a thread that computes, such as a cell, Python lets an engine wait for 5 ms each time that its socket has
    something, and takes the interpreter away from it as often. An interval that somebody else has set is left alone.
    """

    WAITING, WORKING = 0.0005, 0.020  # seconds that another thread may go on while an engine waits, and works

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0
        self._ours: set[float] = set()

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                self._ours = set(map(_as_python_rounds, (self.WORKING, self.WAITING)))

    def set(self, seconds: float) -> None:
        if sys.getswitchinterval() in self._ours:
            sys.setswitchinterval(seconds)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            self.set(self.WAITING if self._users else self._before)


def _as_python_rounds(seconds: float) -> float:
    sys.setswitchinterval(seconds)
    return sys.getswitchinterval()


_turns = _Turns()


class _Selector(selectors.DefaultSelector):
    """Waits for sockets as long as a clock says."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._speed)


class _UrgentSelector(_Selector):
    """Likewise, and says when its engine waits and when it works."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        _turns.set(_turns.WAITING)
        try:
            return super().select(timeout)
        finally:
            _turns.set(_turns.WORKING)


class _Loop(asyncio.SelectorEventLoop):
    """A loop on which every sleep, deadline and timer runs at the speed of a clock."""

    def __init__(self, selector: selectors.BaseSelector, speed: float) -> None:
        self._speed = speed
        super().__init__(selector)

    def time(self) -> float:
        return super().time() * self._speed


def new_event_loop(speed: float = 1.0) -> asyncio.AbstractEventLoop:
    """Return a loop whose seconds are those of a clock with this speed."""
    return asyncio.new_event_loop() if speed == 1.0 else _Loop(_Selector(speed), speed)


class Engine:
    """A background event loop.

    Args:
        name: Of its thread.
        speed: Of its time; a clock's.
        is_urgent: Whether it comes before threads that compute; for what serves a socket.
    """

    def __init__(self, name: str = "v6kit-engine", *, speed: float = 1.0, is_urgent: bool = True) -> None:
        self._is_urgent = is_urgent
        self._loop = _Loop(_UrgentSelector(speed), speed) if is_urgent else new_event_loop(speed)
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        if is_urgent:
            _turns.begin()
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
        """Start a coroutine here; returns its future at once.

        Raises:
            V6KitError: The engine is closed.
        """
        return submit(coro, self._loop)

    async def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine here and wait for it on the caller's loop; cancelling the wait cancels it."""
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
            asyncio.run_coroutine_threadsafe(_wind_down(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self._is_urgent:
                _turns.end()


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
        V6KitError: That loop has ended.
    """
    if loop.is_closed():
        coro.close()
        raise V6KitError("this belongs to an engine that has ended, with its desk; open the desk again to go on")
    return asyncio.run_coroutine_threadsafe(coro, loop)


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
