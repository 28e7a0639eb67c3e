"""A simulated gateway for each test, and real ib_async clients connected to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.clock import FakeClock
from v6kit.gateway import SimulatedGateway

if TYPE_CHECKING:
    from v6kit.contracts import Instrument

GatewayMaker = Callable[..., Awaitable[SimulatedGateway]]
Connector = Callable[..., Awaitable[ib_async.IB]]


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still at 2026-11-20 14:30 UTC until a test moves it."""
    return FakeClock()


@pytest.fixture
async def make_gateway(clock: FakeClock) -> AsyncIterator[GatewayMaker]:
    """Start gateways with settings of the test's own: few positions, quick snapshots, prices that stand still."""
    started: list[SimulatedGateway] = []

    async def make(positions: int = 40, **settings: Any) -> SimulatedGateway:
        quick = {"snapshot_hold": 0.02, "tick_interval": 0.02, "clock": clock, "record": True}
        gateway = SimulatedGateway(positions, **(quick | settings))
        await gateway.start()
        started.append(gateway)
        return gateway

    yield make
    for gateway in started:
        await gateway.stop()


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with 40 positions."""
    return await make_gateway()


@pytest.fixture
async def connect() -> AsyncIterator[Connector]:
    """Connect real ib_async clients; they are disconnected after the test."""
    clients: list[ib_async.IB] = []

    async def connect_to(gateway: SimulatedGateway, client_id: int = 1, **options: Any) -> ib_async.IB:
        client = ib_async.IB()
        clients.append(client)
        wanted = {"timeout": DEADLINE, "raiseSyncErrors": True} | options
        await client.connectAsync(gateway.host, gateway.port, clientId=client_id, **wanted)
        return client

    yield connect_to
    for client in clients:
        client.disconnect()


@pytest.fixture
async def ib(gateway: SimulatedGateway, connect: Connector) -> ib_async.IB:
    """A real ib_async client, connected to `gateway` as client 1."""
    return await connect(gateway)


@pytest.fixture
def errors_of() -> Callable[[ib_async.IB], asyncio.Queue[tuple[int, int, str]]]:
    """Collect a client's errors as (request id, code, text) in a queue that a test can await."""

    def collect(client: ib_async.IB) -> asyncio.Queue[tuple[int, int, str]]:
        queue: asyncio.Queue[tuple[int, int, str]] = asyncio.Queue()
        client.errorEvent += lambda req_id, code, text, _contract: queue.put_nowait((req_id, code, text))
        return queue

    return collect


@pytest.fixture
def routed() -> Callable[[Instrument], ib_async.Contract]:
    """Make the contract with which a listed instrument is requested: its id, and SMART or its own exchange."""

    def route(instrument: Instrument) -> ib_async.Contract:
        exchange = "SMART" if instrument.sec_type in ("OPT", "STK") else instrument.exchange
        return ib_async.Contract(conId=instrument.conid, exchange=exchange)

    return route
