"""The one opt-in for people who mix in ib_async's blocking calls."""

from __future__ import annotations

import sys


def allow_blocking_ib() -> None:
    """Let ib_async's blocking calls (`ib.connect`, `ib.reqPositions`, …) run in a notebook, by `nest_asyncio`.

    v6kit itself never needs it: its calls are awaited, or run by `v6kit.run_sync`. It changes the event loop of the
    whole process, so call it once and on purpose.

    Raises:
        RuntimeError: Python 3.14 or newer, where nest_asyncio (archived in 2024) breaks timeouts and task groups.
    """
    if sys.version_info >= (3, 14):
        raise RuntimeError(
            "nest_asyncio breaks asyncio.timeout and TaskGroup on Python 3.14, so blocking calls would hang; "
            "await ib_async's …Async methods instead, or wrap a coroutine in v6kit.run_sync(…)"
        )
    import nest_asyncio  # noqa: PLC0415 - only for those who ask for it

    nest_asyncio.apply()
