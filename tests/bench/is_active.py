"""Routing 500 contracts by `registry.is_active`, against a bare `in` on a dictionary.

Routed in passes, as a router does it: the look-up is bound once per pass. Looking it up on the registry each time
costs one attribute access more per contract, which is measured beside it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from v6kit.registry import StrategyRegistry

from tests.bench.measure import Line, at_most, lake, medians, stopwatch

CONIDS = 500
ACTIVE = 100
PASSES = 50
ROUNDS = 201

Route = Callable[[Sequence[int]], list[int]]


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    conids = random.Random(7).sample(range(1, 10**9), CONIDS)
    legs = [{"conid": conid, "symbol": "SPY", "sec_type": "STK"} for conid in conids[:ACTIVE]]
    random.Random(8).shuffle(conids)
    with lake() as folder:
        async with StrategyRegistry(folder / "registry") as registry:
            await registry.add_strategy(1, legs)
            known = {leg["conid"]: leg for leg in legs}

            def bound(conids: Sequence[int]) -> list[int]:
                is_active = registry.is_active
                return [conid for conid in conids if is_active(conid)]

            def each(conids: Sequence[int]) -> list[int]:
                return [conid for conid in conids if registry.is_active(conid)]

            def bare(conids: Sequence[int]) -> list[int]:
                return [conid for conid in conids if conid in known]

            routes = {"bound": bound, "each": each, "bare": bare}
            taken = await medians({name: _timed(route, conids) for name, route in routes.items()}, ROUNDS)
    reference = f"conid in dict, {PASSES} passes over {CONIDS}"
    return [
        at_most("is_active, bound once per pass", taken["bound"], reference, taken["bare"], 2),
        at_most("registry.is_active each time", taken["each"], reference, taken["bare"], 2),
    ]


def _timed(route: Route, conids: Sequence[int]):
    async def once() -> float:
        with stopwatch() as seconds:
            for _ in range(PASSES):
                routed = route(conids)
            taken = seconds()
        assert len(routed) == ACTIVE
        return taken

    return once
