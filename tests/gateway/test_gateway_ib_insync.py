"""The simulated gateway with ib_insync 0.9.86, the last of ib_async's ancestor, which speaks version 176."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from tests.patience import DEADLINE

try:
    import ib_insync
except ModuleNotFoundError:
    if os.environ.get("CI"):
        raise
    pytest.skip("needs ib_insync; install it with: uv pip install ib_insync", allow_module_level=True)
except (RuntimeError, DeprecationWarning) as error:  # it asks for an event loop while it is imported
    pytest.skip(f"ib_insync is archived and does not know this Python: {error}", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from v6kit.clock import FakeClock
    from v6kit.gateway import SimulatedGateway


@pytest.fixture
async def client(gateway: SimulatedGateway) -> AsyncIterator[ib_insync.IB]:
    """A real ib_insync client, connected as client 9."""
    client = ib_insync.IB()
    await client.connectAsync(gateway.host, gateway.port, clientId=9, timeout=DEADLINE)
    yield client
    client.disconnect()


async def test_it_starts_up_with_the_whole_account(gateway: SimulatedGateway, client: ib_insync.IB) -> None:
    """Positions, portfolio and account values are there, at the version that it speaks."""
    assert client.client.serverVersion() == 176
    assert {each.contract.conId: each.position for each in client.positions()} == {
        each.instrument.conid: each.quantity for each in gateway.account.positions
    }
    assert len(client.portfolio()) == len(gateway.account.positions)
    assert gateway.client_ids == [9]


async def test_it_gets_a_snapshot_a_stream_and_an_error(
    gateway: SimulatedGateway, clock: FakeClock, client: ib_insync.IB
) -> None:
    """Prices, greeks and the end of a snapshot are read; a stream follows the clock; an error names its request."""
    conid = gateway.account.positions[0].instrument.conid
    contract = ib_insync.Contract(conId=conid, exchange="SMART")
    errors: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    client.errorEvent += lambda req_id, code, _text, _contract: errors.put_nowait((req_id, code))
    async with asyncio.timeout(DEADLINE):
        (ticker,) = await client.reqTickersAsync(contract)
        quote = gateway.market.quote(conid)
        assert (ticker.bid, ticker.ask, ticker.modelGreeks.delta) == pytest.approx(
            (quote.bid, quote.ask, quote.greeks.delta)
        )
        ticked = asyncio.Event()
        ticker = client.reqMktData(contract)
        ticker.updateEvent += lambda _ticker: ticked.set()
        await ticked.wait()
        clock.advance(30)
        price = round(gateway.market.quote(conid).greeks.underlying_price, 4)
        while ticker.modelGreeks.undPrice != price:
            ticked.clear()
            await ticked.wait()
        client.client.cancelMktData(4711)
        assert await errors.get() == (4711, 300)


async def test_it_gets_contract_details_and_symbols(gateway: SimulatedGateway, client: ib_insync.IB) -> None:
    """Every field is where version 176 expects it."""
    conid = gateway.account.positions[0].instrument.conid
    async with asyncio.timeout(DEADLINE):
        (details,) = await client.reqContractDetailsAsync(ib_insync.Contract(conId=conid))
        symbols = await client.reqMatchingSymbolsAsync("SPY")
    listed = gateway.market.instrument(conid)
    assert (details.contract.strike, details.contract.right) == (listed.strike, listed.right)
    assert details.realExpirationDate == listed.expiry
    assert [each.contract.symbol for each in symbols] == ["SPY"]


async def test_clients_of_two_libraries_share_a_gateway(
    gateway: SimulatedGateway, client: ib_insync.IB, connect
) -> None:
    """Another library's client with an id of its own changes nothing for this one."""
    other = await connect(gateway, 1)
    assert gateway.client_ids == [1, 9]
    assert [each.contract.conId for each in other.positions()] == [each.contract.conId for each in client.positions()]
