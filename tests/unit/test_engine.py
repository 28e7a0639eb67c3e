"""The engine, the hop to an object's own loop, and `run_sync`."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.patience import DEADLINE
from v6kit.engine import Engine, at_home, run_sync
from v6kit.errors import V6KitError

WHERE = contextvars.ContextVar("WHERE", default="nowhere")


def engines() -> list[threading.Thread]:
    """Return the threads of engines, and those of `asyncio.to_thread`, that run."""
    return [each for each in threading.enumerate() if each.name.startswith(("v6kit", "asyncio_"))]


async def here() -> tuple[str, asyncio.AbstractEventLoop]:
    """Return where this runs."""
    await asyncio.sleep(0)
    return threading.current_thread().name, asyncio.get_running_loop()


async def fails() -> None:
    """Raise."""
    await asyncio.to_thread(lambda: None)
    raise KeyError("mine")


def test_a_script_runs_a_coroutine():
    """Without a loop of its own; the thread is gone afterwards."""
    name, loop = run_sync(here())
    assert name == "v6kit-run-sync"
    assert loop.is_closed()
    assert engines() == []


async def test_code_below_a_running_loop_runs_a_coroutine():
    """As a cell of a notebook or `python -m asyncio` does."""
    name, loop = run_sync(here())
    assert name == "v6kit-run-sync"
    assert loop is not asyncio.get_running_loop()


def test_errors_arrive_and_no_thread_is_left():
    """Neither the engine's nor the one of `asyncio.to_thread`."""
    with pytest.raises(KeyError, match="mine"):
        run_sync(fails())
    assert engines() == []


def test_context_variables_are_seen():
    """What the caller has set holds in the coroutine."""

    async def look() -> str:
        return WHERE.get()

    token = WHERE.set("caller")
    assert run_sync(look()) == "caller"
    WHERE.reset(token)


@pytest.mark.parametrize("wrong", [here, 5, None])
def test_what_is_no_coroutine_is_refused(wrong: object):
    """A function that was not called is the usual mistake."""
    with pytest.raises(TypeError, match="coro must be a coroutine, such as"):
        run_sync(wrong)


def test_run_sync_may_be_nested():
    """A coroutine that calls code which uses `run_sync` itself."""

    async def outer() -> str:
        return run_sync(here())[0]

    assert run_sync(outer()) == "v6kit-run-sync"


def test_ctrl_c_cancels_the_coroutine():
    """The coroutine hears of it and tidies up; the caller gets KeyboardInterrupt; the process ends."""
    code = (
        "import asyncio, sys, v6kit\n"
        "async def work():\n"
        "    try:\n"
        "        print('running', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "    except asyncio.CancelledError:\n"
        "        print('tidied', flush=True)\n"
        "        raise\n"
        "try:\n"
        "    v6kit.run_sync(work())\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "running\n"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=DEADLINE)
    assert out == "tidied\ninterrupted\n"
    assert child.returncode == 0


async def test_an_engine_closes_what_still_runs():
    """Tasks are cancelled and have their say; closing twice, also at once, is closing once."""
    engine = Engine("v6kit-test")
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    future = engine.submit(work())
    await engine.run(asyncio.sleep(0))
    await asyncio.gather(asyncio.to_thread(engine.close), asyncio.to_thread(engine.close))
    assert cancelled.is_set()
    assert future.cancelled()
    engine.close()


async def test_an_engine_that_closes_takes_nothing_new():
    """It would never be run to its end, and whoever waits for it would wait for ever."""
    engine = Engine("v6kit-test")
    begun, may_end, cancelled = threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        try:
            await asyncio.to_thread(lambda: (begun.set(), may_end.wait(DEADLINE)))
        finally:
            cancelled.set()

    engine.submit(work())
    await asyncio.to_thread(begun.wait, DEADLINE)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    await asyncio.to_thread(cancelled.wait, DEADLINE)  # from here on it waits for the thread of its work
    try:
        with pytest.raises(V6KitError, match="has ended"):
            engine.submit(asyncio.sleep(60))
    finally:
        may_end.set()
        await closing


async def test_an_engine_cannot_close_itself():
    """It would wait for its own thread."""
    engine = Engine("v6kit-test")

    async def close() -> None:
        engine.close()

    with pytest.raises(RuntimeError, match="close it from another thread"):
        await engine.run(close())
    engine.close()


async def test_cancelling_the_wait_cancels_the_work():
    """Ctrl-C in a cell reaches what runs on the engine."""
    engine = Engine("v6kit-test")
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    waiting = asyncio.create_task(engine.run(work()))
    await asyncio.to_thread(started.wait, DEADLINE)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(cancelled.wait, DEADLINE)
    engine.close()


async def test_a_busy_caller_does_not_hold_up_the_engine():
    """A cell that computes leaves the engine's loop its turns."""
    engine = Engine("v6kit-test")
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    engine.submit(beat())
    deadline = time.monotonic() + DEADLINE
    while len(beats) < 10:
        sum(range(1000))
        assert time.monotonic() < deadline
    engine.close()


class Homed:
    """An object that belongs to the loop of its first use."""

    home: asyncio.AbstractEventLoop | None = None

    @at_home
    async def where(self, *, prefix: str = "") -> str:
        """Return the thread that this runs on."""
        return prefix + threading.current_thread().name


async def test_calls_hop_to_the_home_loop_and_back():
    """The first use decides; arguments, results and the method's name come along."""
    engine = Engine("v6kit-test")
    homed = Homed()
    assert await engine.run(homed.where()) == "v6kit-test"
    assert await homed.where(prefix="on ") == "on v6kit-test"
    assert homed.home is engine.loop
    assert Homed.where.__name__ == "where"
    engine.close()
    with pytest.raises(V6KitError, match="has ended"):
        await homed.where()


def test_a_fast_engine_sleeps_by_its_own_seconds():
    """A minute of its time is over long before a second of ours, for sleeps, timers and deadlines alike."""
    engine = Engine("v6kit-test", speed=1000)

    async def a_minute() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await loop.create_future()
        return loop.time() - began

    try:
        assert engine.submit(a_minute()).result(DEADLINE) >= 120
    finally:
        engine.close()


def test_threads_take_short_turns_while_an_engine_runs():
    """However many run; afterwards it is as it was, and what somebody else sets meanwhile is left alone."""
    before = sys.getswitchinterval()
    first, second = Engine(), Engine()
    assert sys.getswitchinterval() == pytest.approx(0.001)
    first.close()
    first.close()
    assert sys.getswitchinterval() == pytest.approx(0.001)
    second.close()
    assert sys.getswitchinterval() == before
    third = Engine()
    sys.setswitchinterval(0.02)
    third.close()
    try:
        assert sys.getswitchinterval() == pytest.approx(0.02)
    finally:
        sys.setswitchinterval(before)
