"""The thread on which the panels of one desk live, and which of them are open.

Panels have a thread of their own. A cell that computes blocks the kernel's loop, so there the display would freeze; and
sorting 100,000 rows on the engine's thread would hold up the socket.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from v6kit.desk import Desk
from v6kit.engine import Engine
from v6kit.errors import V6KitError
from v6kit.history import TableHistory
from v6kit.ledger import LedgerTable

if TYPE_CHECKING:
    from v6kit.panels.panel import Panel

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
WORK = "v6kit panel work"  # how the tasks of buttons are named
_BREATH = 5.0  # seconds
_SHARE = 12  # all panels together take at most one part in so many of a core, however much there is to read
_AT_ONCE = 1.0  # seconds of that share which may be taken at once
_OTHERS = 2.0  # seconds between two looks at what other processes have committed
_MAIN = threading.main_thread()
_LAST_WORK = 5.0  # seconds that work of buttons has once its desk has closed, where it can only fail


class Stage:
    """One thread with a loop, and the panels that are open on it, one in each place.

    It ends after the last of them, and with the desk that they show. Made on the kernel's loop, if there is one: its
    breath is what tells a busy kernel from a page that was closed.

    Raises:
        StorageError: The desk is closed.
    """

    def __init__(self, owner: Desk | TableHistory) -> None:
        self._engine = Engine("v6kit-panels")
        self._panels: dict[str, Panel] = {}
        self._lock = threading.Lock()
        self._has_ended = False
        self._paid_until = 0.0  # seconds of the loop: by then what was taken of the processor is the panels' share
        self._hearings: dict[LedgerTable[Any, Any], tuple[float, asyncio.Task[bool]]] = {}
        self._stop_listening: Callable[[], object] = lambda: None
        if isinstance(owner, Desk):
            try:
                self._stop_listening = owner.on_closed(self.end)
            except V6KitError:
                self._engine.close()
                raise
        try:
            self._kernel: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._kernel = None  # a script: nobody computes in between
        self._breathing = self.submit(self._breathe())

    @property
    def has_ended(self) -> bool:
        """Whether the last panel has left it."""
        return self._has_ended

    def enter(self, panel: Panel) -> bool:
        """Take a panel on, unless the last one has left and the thread is ending; returns whether it did.

        An open panel in the same place closes, as when its cell is run again.
        """
        with self._lock:
            if self._has_ended:
                return False
            former = self._panels.get(panel.place)
            self._panels[panel.place] = panel
        if former is not None:
            former.close()
        return True

    def leave(self, panel: Panel) -> None:
        """Let a panel go; after the last one, and after what its buttons have started, the thread ends."""
        with self._lock:
            if self._panels.get(panel.place) is panel:
                del self._panels[panel.place]
        self.call(self._look_whether_empty)

    def submit(self, coro: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine here, from any thread.

        Raises:
            V6KitError: The thread has ended.
        """
        return self._engine.submit(coro)

    def call(self, act: Callable[[*_Args], object], *args: *_Args) -> bool:
        """Call something here soon, from any thread, in the order in which it was asked for.

        Returns:
            Whether it will be; not after the end.
        """
        try:
            self._engine.loop.call_soon_threadsafe(act, *args)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def end(self) -> None:
        """Close the panels and end the thread; blocks until it has ended. Called when their desk has closed."""
        with self._lock:
            panels, self._panels = list(self._panels.values()), {}
            was_ending, self._has_ended = self._has_ended, True
        for panel in panels:
            panel.close()
        if not was_ending:  # else the last panel has left just now
            self.submit(_work_done(_LAST_WORK)).result()
        self._engine.close()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what this takes of the processor."""
        began = _processor_time()
        try:
            yield
        finally:
            now = self._engine.loop.time()
            self._paid_until = max(self._paid_until, now - _AT_ONCE) + _SHARE * (_processor_time() - began)

    def rest(self) -> float:
        """Return how many seconds to rest so that all panels together keep to their share; 0 while they do.

        What one panel leaves of it, another one may take. When there is not enough, each draws in its turn.
        """
        return max(0.0, self._paid_until - self._engine.loop.time())

    async def hear_others(self, tables: Iterable[LedgerTable[Any, Any]]) -> None:
        """Take in what other processes have committed, now and then: each table once, however many panels show it.

        Raises:
            StorageError: At the last time it failed.
        """
        now = asyncio.get_running_loop().time()
        heard = []
        for table in tables:
            if table not in self._hearings or now - self._hearings[table][0] > _OTHERS:
                hearing = asyncio.create_task(table.refresh())
                hearing.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever has left by then
                self._hearings[table] = now, hearing
            heard.append(asyncio.shield(self._hearings[table][1]))
        await asyncio.gather(*heard)

    def _look_whether_empty(self) -> None:
        with suppress(V6KitError):  # the thread is ending already
            self.submit(self._end_if_empty())

    async def _end_if_empty(self) -> None:
        await _work_done(None)
        with self._lock:
            if self._panels or self._has_ended:
                return
            self._has_ended = True
        self._stop_listening()
        threading.Thread(target=self._engine.close, name="v6kit-panels-end").start()  # it cannot end itself

    async def _breathe(self) -> None:
        while True:
            await asyncio.sleep(_BREATH)
            if self._kernel is not None:
                await _turned(self._kernel)  # as long as a cell computes, if one does
            for panel in list(self._panels.values()):
                panel.audience.breathe()


async def _turned(loop: asyncio.AbstractEventLoop) -> None:
    """Wait for a turn of a loop of another thread, or for its end."""
    turn = concurrent.futures.Future[None]()
    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(turn.set_result, None)
    while not turn.done() and not loop.is_closed():
        await asyncio.wait({asyncio.wrap_future(turn)}, timeout=_BREATH)


def _processor_time() -> float:
    """Return the processor's seconds of this process, its native threads included, but for what cells compute.

    Not the wall's: a busy machine must not slow the display down even more. Where the system does not tell of one
    thread (macOS, Windows), cells count, too.
    """
    whole = time.process_time()
    if not hasattr(time, "pthread_getcpuclockid"):
        return whole
    return whole - time.clock_gettime(time.pthread_getcpuclockid(_MAIN.ident or 0))


async def _work_done(seconds: float | None) -> None:
    """Wait for what buttons have started on this thread."""
    work = {task for task in asyncio.all_tasks() if task.get_name().startswith(WORK)}
    if work:
        await asyncio.wait(work, timeout=seconds)


# What panels belong to knows nothing of them, so their stages are noted here until they end: by the desk, or by the
# table's address, so that running a cell again replaces the panel that it made, whatever else it makes anew.
_STAGES: dict[Hashable, Stage] = {}
_ENTERING = threading.Lock()


def enter(owner: Desk | TableHistory, panel: Panel) -> Stage:
    """Bring a panel onto the stage of its desk, or of its one table, which is made for the first of them.

    Raises:
        StorageError: The desk is closed.
    """
    name: Hashable = owner if isinstance(owner, Desk) else owner.uri
    with _ENTERING:
        for each in [each for each, stage in _STAGES.items() if stage.has_ended]:
            del _STAGES[each]
        stage = _STAGES.get(name)
        if stage is None or not stage.enter(panel):
            stage = _STAGES[name] = Stage(owner)
            stage.enter(panel)
    return stage
