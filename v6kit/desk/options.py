"""Option chains, as far as a strategy is put together from them: what is listed, what the underlying costs, deltas.

Every call asks the gateway, on the engine's loop. Chooses no strike but the one that was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise

from v6kit.broker import Broker
from v6kit.contracts import Instrument, OptionSeries, Right, check_float, check_right
from v6kit.engine import Engine
from v6kit.errors import RequestFailedError

_PROBES = 5  # snapshots at once: two rounds of them find a delta among thirty strikes


class Options:
    """What options are listed; `desk.options`.

    [series, *_] = await desk.options.series("SPY")
    chain = await desk.options.chain("SPY", series)
    put = await desk.options.at_delta(chain, "P", 0.16)
    """

    def __init__(self, engine: Engine, broker: Broker) -> None:
        self._engine, self._broker = engine, broker

    def __repr__(self) -> str:
        where = f"{self._broker.host}:{self._broker.port}, {self._broker.state}"
        return f"<Options of the gateway at {where}: await series(symbol), chain, price, at_delta>"

    async def series(self, symbol: str) -> list[OptionSeries]:
        """Return the expiries and classes that are listed on a symbol, soonest first; none if there are none.

        Raises:
            GatewayUnavailableError: The link is down.
            RequestFailedError: No such symbol (`code` 200), refused, or no answer in time.
        """
        return await self._engine.run(self._broker.option_series(symbol))

    async def chain(self, symbol: str, series: OptionSeries) -> list[Instrument]:
        """Return all options of one series, by strike, each call before its put; raises as `series` does."""
        return await self._engine.run(self._broker.option_chain(symbol, series))

    async def price(self, symbol: str) -> float | None:
        """Return what a symbol costs now, by a snapshot of the underlying; `None` if nobody quotes it.

        Raises:
            GatewayUnavailableError, RequestFailedError: As in `series`.
            LineLimitError: No line became free for it.
        """
        return await self._engine.run(self._price(symbol))

    async def at_delta(self, chain: Sequence[Instrument], right: str | Right, delta: float) -> Instrument:
        """Return the option whose delta is nearest, by a few snapshots: deltas fall as strikes rise.

        Args:
            chain: As `chain` returns it.
            right: `C` or `P`.
            delta: Its size, between 0 and 1; of a put, 0.16 means −0.16.

        Raises:
            GatewayUnavailableError, RequestFailedError, LineLimitError: As in `price`.
            ValueError: The chain has no such options, or the delta is out of range.
        """
        options = [each for each in chain if each.right == check_right(right)]
        if not options:
            raise ValueError(f"chain must have options with the right {right!r}, got none of them")
        size = check_float("delta", delta, above=0.0)
        if size >= 1.0:
            raise ValueError(f"delta must be between 0 and 1, got {delta!r}")
        return await self._engine.run(self._at_delta(options, size))

    async def _price(self, symbol: str) -> float | None:
        return (await self._broker.snapshot(await self._broker.underlying(symbol))).mark()[0]

    async def _at_delta(self, options: Sequence[Instrument], size: float) -> Instrument:
        search = DeltaSearch(len(options), size)
        while probes := search.probes():
            quotes = await asyncio.gather(*(self._broker.snapshot(options[at]) for at in probes))
            search.learn(dict(zip(probes, (quote.delta for quote in quotes), strict=True)))
        nearest = search.nearest()
        if nearest is None:
            raise RequestFailedError(f"no delta came for {options[0].label()} to {options[-1].label()}")
        return options[nearest]


class DeltaSearch:
    """Where among strikes a delta is: halves those in question, several probes at a time. Pure.

    Deltas only fall, or only rise, from strike to strike. Strikes without one, deep in or far out of the money, are
    passed over.

    Args:
        count: How many strikes there are.
        size: Of the wanted delta.
    """

    def __init__(self, count: int, size: float) -> None:
        self._size = size
        self._known: dict[int, float] = {}
        self._asked: set[int] = set()
        self._low, self._high = 0, count - 1

    def probes(self) -> list[int]:
        """Return which strikes to ask for next; none when the nearest one is among those that are known.

        Where all of them have stayed without a delta, the strikes between them are next: else the nearest that is known
        may lie far off. Where nothing at all has a delta, nobody is asked any further.
        """
        if self._asked and not self._known:
            return []
        if probes := [at for at in spread(self._low, self._high, _PROBES) if at not in self._asked]:
            return probes
        left = [at for at in range(self._low, self._high + 1) if at not in self._asked]
        return [left[at] for at in spread(0, len(left) - 1, _PROBES)] if left else []

    def learn(self, deltas: Mapping[int, float | None]) -> None:
        """Take in what was asked for."""
        self._asked.update(deltas)
        self._known |= {at: abs(delta) for at, delta in deltas.items() if delta is not None}
        self._low, self._high = self._around()

    def _around(self) -> tuple[int, int]:
        """Return between which strikes the wanted one lies: two of the known ones, or the last and where they end."""
        known = sorted(self._known)
        if not known:
            return self._low, self._high
        for low, high in pairwise(known):
            if (self._known[low] - self._size) * (self._known[high] - self._size) <= 0:
                return low, high
        first, last = known[0], known[-1]
        silent = self._asked - self._known.keys()
        below = max((at for at in silent if at < first), default=self._low), first
        above = last, min((at for at in silent if at > last), default=self._high)
        if first == last:
            return below[0], above[1]  # nobody knows yet whether deltas rise or fall
        is_nearer_above = abs(self._known[last] - self._size) <= abs(self._known[first] - self._size)
        return above if is_nearer_above else below

    def nearest(self) -> int | None:
        """Return the strike whose delta is nearest of those that are known."""
        return min(self._known, key=lambda at: abs(self._known[at] - self._size), default=None)


def spread(low: int, high: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly from `low` to `high`, both included."""
    steps = min(count, high - low + 1) - 1
    return [low] if steps < 1 else [low + round(step * (high - low) / steps) for step in range(steps + 1)]
