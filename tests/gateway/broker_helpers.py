"""What the broker's tests share: quick settings, a broker that is closed at the end, waiting for announcements."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tests.patience import DEADLINE
from v6kit.broker import Broker, ConnectionState, Timings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from v6kit.contracts import Instrument
    from v6kit.gateway import SimulatedGateway

T = TypeVar("T")

QUICK = Timings(
    heartbeat=0.1,
    heartbeat_timeout=0.3,
    reconnect_initial=0.02,
    reconnect_max=0.1,
    request_timeout=0.5,
    snapshot_back_off=0.3,
    quiet_stream=0.1,
)
# For all but the tests of a deadline: a machine that was away must not look like a gateway that says nothing.
PATIENT = replace(QUICK, heartbeat=DEADLINE, heartbeat_timeout=DEADLINE, request_timeout=DEADLINE)


def broker_for(gateway: SimulatedGateway, **settings: Any) -> Broker:
    """Return a broker for this gateway; it waits for answers as long as a test does, unless the test says otherwise."""
    waits = {"connect_timeout": DEADLINE, "snapshot_timeout": DEADLINE, "timings": PATIENT}
    return Broker(gateway.host, gateway.port, **({"client_id": 7} | waits | settings))


@asynccontextmanager
async def connected(gateway: SimulatedGateway, **settings: Any) -> AsyncIterator[Broker]:
    """Connect a broker, and close it at the end of the test."""
    async with broker_for(gateway, **settings) as broker:
        yield broker


class Heard(Generic[T]):
    """Collects what a broker announces, so that a test can wait for it."""

    def __init__(self, register: Callable[[Callable[..., object]], Callable[[], None]]) -> None:
        self.stop = register(lambda *args: self._queue.put_nowait(args))
        self._queue: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def next(self) -> tuple[Any, ...]:
        """Return the next announcement."""
        async with asyncio.timeout(DEADLINE):
            return await self._queue.get()

    async def until(self, fits: Callable[..., bool]) -> tuple[Any, ...]:
        """Return the first announcement that fits."""
        while not fits(*(heard := await self.next())):
            pass
        return heard

    def drain(self) -> list[tuple[Any, ...]]:
        """Return what was announced and not yet taken."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


def states_of(broker: Broker) -> Heard[ConnectionState]:
    """Listen to a broker's states."""
    return Heard(broker.on_state)


async def reached(states: Heard[ConnectionState], state: ConnectionState) -> str:
    """Wait for a state; return its reason."""
    _, _, reason = await states.until(lambda _old, new, _reason: new is state)
    return reason


def options_of(gateway: SimulatedGateway) -> list[Instrument]:
    """Return the options that the account holds, as the gateway knows them."""
    return [each.instrument for each in gateway.account.positions if each.instrument.sec_type == "OPT"]


def requests_for(gateway: SimulatedGateway, name: str, conid: int | None = None) -> list[tuple[str, ...]]:
    """Return the fields of the messages that the gateway received, of one contract or of all."""
    return [
        each.fields
        for each in gateway.log.records
        if each.direction == "received" and each.name == name and (conid is None or each.fields[3] == str(conid))
    ]
