"""Callback lists for what the broker announces; owns their registration and order, not their meaning."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Generic, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")


class Signal(Generic[P]):
    """One event that callbacks can be registered for.

    Callbacks run on the broker's loop, in the order of the events, right after the code that announced them. So a
    callback may call the broker, and one that raises reaches the loop's exception handler and disturbs nobody else.
    """

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[P, object]] = {}

    def connect(self, callback: Callable[P, object]) -> Callable[[], None]:
        """Register `callback`; return the function that takes it out again, which may be called twice."""
        token = object()
        self._callbacks[token] = callback

        def disconnect() -> None:
            self._callbacks.pop(token, None)

        return disconnect

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have each callback called soon; needs the running loop."""
        if not self._callbacks:
            return
        loop = asyncio.get_running_loop()
        for token, callback in self._callbacks.items():
            loop.call_soon(self._call, token, partial(callback, *args, **kwargs))

    def _call(self, token: object, call: Callable[[], object]) -> None:
        if token in self._callbacks:  # it may have been taken out meanwhile
            call()
