"""What the commands have in common: where they print, how an error and a log record look, what Ctrl-C does."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.highlighter import NullHighlighter
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from v6kit.engine import new_event_loop

T = TypeVar("T")

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended
FRAMES_PER_SECOND = 5


def console(*, stderr: bool = False) -> Console:
    """Return where a command prints. Numbers and paths are not coloured: colour means good, doubtful or bad."""
    return Console(stderr=stderr, highlight=False)


def say(to: Console, text: str | Text, *, whole: bool = False) -> None:
    """Print text: wrapped between words on a terminal, exactly one line in a pipe.

    Args:
        to: Where.
        text: What; brackets in it are brackets.
        whole: Leave it in one piece on a terminal, too: it is a path or a command that somebody will copy.
    """
    to.print(text, markup=False, soft_wrap=whole or not to.is_terminal)


def live(on: Console, frame: Callable[[], RenderableType]) -> AbstractContextManager[object]:
    """Show a frame as it becomes, over and over, as long as one is within; in a pipe, nothing."""
    if not on.is_terminal:
        return nullcontext()
    return Live(console=on, get_renderable=frame, refresh_per_second=FRAMES_PER_SECOND, transient=True)


def say_error(error: BaseException) -> None:
    """Print an error in one red line on stderr."""
    reason = one_line(str(error)) or type(error).__name__
    say(console(stderr=True), Text(f"error: {reason}", style="red"))


def one_line(text: str) -> str:
    """Return text without line breaks and colours: errors of other libraries may have both."""
    return " ".join(Text.from_ansi(text.replace("\n", " ")).plain.split())


def show_warnings(beside: Console) -> None:
    """Let v6kit's warnings appear above a live display, which a bare stderr would tear, or as plain lines in a pipe."""
    handler: logging.Handler
    if beside.is_terminal:
        handler = RichHandler(console=beside, show_time=False, show_path=False, highlighter=NullHighlighter())
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("v6kit")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)


def run(work: Coroutine[Any, Any, T], *, speed: float = 1.0) -> T:
    """Run a command's work to its end.

    Ctrl-C and SIGTERM cancel it, so that it can give back what it holds; a second Ctrl-C does not wait for that.

    Args:
        work: The work.
        speed: Of the loop's time; a fast clock's.

    Raises:
        KeyboardInterrupt: It was cancelled and did not handle that itself.
    """
    try:
        with asyncio.Runner(loop_factory=lambda: new_event_loop(speed)) as runner:
            return runner.run(_cancelled_by_sigterm(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """Do for SIGTERM what `asyncio.run` does for Ctrl-C; a shell's background jobs hear nothing else."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        signal.signal(signal.SIGTERM, lambda _number, _frame: loop.call_soon_threadsafe(task.cancel))
    return await work
