"""`Asker`: snapshots for whoever wants them, one for all who want the same contract at the same time.

Owns what is under way by contract, and how long a snapshot holds its line. Belongs to the broker's event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from v6kit.broker import Broker
from v6kit.clock import Clock
from v6kit.contracts import Instrument, Quote, Source

_WEIGHT = 0.1  # of the newest hold in the average: the last twenty or so decide


@dataclass(slots=True)
class _Shared:
    """One snapshot that is under way, and how many wait for it."""

    task: asyncio.Task[Quote]
    waiters: int = 0


class Asker:
    """Asks for snapshots.

    Args:
        broker: Whom to ask.
        clock: The one that stamps the quotes.

    Attributes:
        hold: Seconds from a snapshot's request to its end, averaged over the last ones; `None` before the first.
    """

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self.broker, self._clock = broker, clock
        self.hold: float | None = None
        self._under_way: dict[int, _Shared] = {}

    async def quote(self, instrument: Instrument) -> Quote:
        """Return a quote of now, from the snapshot of this contract that is under way, or from a new one.

        Raises:
            BrokerError: As `Broker.snapshot`.
        """
        conid = instrument.conid
        shared = self._under_way.get(conid)
        if shared is None:
            shared = self._under_way[conid] = _Shared(asyncio.create_task(self._snapshot(instrument)))
        shared.waiters += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiters -= 1
            if not shared.waiters:
                await self._end(conid, shared)

    async def _end(self, conid: int, shared: _Shared) -> None:
        """Forget a snapshot that nobody waits for; one that has not ended gives its line back first."""
        if self._under_way.get(conid) is shared:
            del self._under_way[conid]
        if not shared.task.done():
            shared.task.cancel()
            await asyncio.wait({shared.task})

    async def _snapshot(self, instrument: Instrument) -> Quote:
        quote = await self.broker.snapshot(instrument)
        if quote.source is Source.SNAPSHOT:
            held = (self._clock.now() - quote.requested_at).total_seconds()
            self.hold = held if self.hold is None else self.hold + _WEIGHT * (held - self.hold)
        return quote
