"""One request at a time for each contract, so that a stream and a snapshot never meet on one. Owns no line."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class OneRequest:
    """A lock for each contract that is asked about; nothing stays of one that is not."""

    def __init__(self) -> None:
        self._busy: dict[int, asyncio.Event] = {}

    def is_free(self, conid: int) -> bool:
        """Tell whether nobody asks about this contract."""
        return conid not in self._busy

    @asynccontextmanager
    async def of(self, conid: int) -> AsyncIterator[None]:
        """Wait until nobody else asks about this contract, and let nobody until the end."""
        while (busy := self._busy.get(conid)) is not None:
            await busy.wait()
        done = self._busy[conid] = asyncio.Event()
        try:
            yield
        finally:
            del self._busy[conid]
            done.set()
