"""The simulated gateway with IB's own client, which nobody here wrote and which negotiates version 157."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest
from ibapi.client import EClient
from ibapi.contract import Contract
from ibapi.wrapper import EWrapper
from tests.patience import DEADLINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from v6kit.gateway import SimulatedGateway


CALLBACKS = (
    EWrapper.accountDownloadEnd,
    EWrapper.contractDetails,
    EWrapper.contractDetailsEnd,
    EWrapper.error,
    EWrapper.marketDataType,
    EWrapper.nextValidId,
    EWrapper.pnl,
    EWrapper.pnlSingle,
    EWrapper.position,
    EWrapper.positionEnd,
    EWrapper.positionMulti,
    EWrapper.positionMultiEnd,
    EWrapper.securityDefinitionOptionParameter,
    EWrapper.securityDefinitionOptionParameterEnd,
    EWrapper.symbolSamples,
    EWrapper.tickOptionComputation,
    EWrapper.tickPrice,
    EWrapper.tickSize,
    EWrapper.tickSnapshotEnd,
    EWrapper.updatePortfolio,
)


class Client(EWrapper, EClient):
    """Puts what it hears into a queue, as (name, arguments)."""

    def __init__(self) -> None:
        EClient.__init__(self, self)
        self.heard: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()

    async def hears(self, name: str, code: int | None = None) -> dict[str, tuple[Any, ...]]:
        """Wait for a call of this name (and error code); return the newest arguments of each name until then."""

        def wait() -> dict[str, tuple[Any, ...]]:
            heard: dict[str, tuple[Any, ...]] = {}
            while True:
                called, arguments = self.heard.get(timeout=DEADLINE)
                heard[called] = arguments
                if called == name and (code is None or arguments[1] == code):
                    return heard

        return await asyncio.to_thread(wait)


def note(name: str) -> Callable[..., None]:
    """Make a callback that puts its name and arguments into the queue."""
    return lambda self, *arguments: self.heard.put((name, arguments))


for each in CALLBACKS:
    setattr(Client, each.__name__, note(each.__name__))


@pytest.fixture
async def client(gateway: SimulatedGateway, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Client]:
    """IB's client, logged in as client 3, its message loop in a thread; it must not have logged an error."""
    client = Client()
    await asyncio.to_thread(client.connect, gateway.host, gateway.port, 3)
    loop = threading.Thread(target=client.run, name="ibapi")
    loop.start()
    await client.hears("nextValidId")
    yield client
    client.disconnect()
    await asyncio.to_thread(loop.join, DEADLINE)
    assert not loop.is_alive()
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


@pytest.fixture
def contract(gateway: SimulatedGateway) -> Contract:
    """The first leg of the account, as it is requested."""
    contract = Contract()
    contract.conId = gateway.account.positions[0].instrument.conid
    contract.exchange = "SMART"
    return contract


async def test_it_negotiates_157(client: Client) -> None:
    """The newest version that this client speaks is the one that is spoken."""
    assert client.serverVersion() == 157


async def test_it_gets_all_positions_and_their_end(gateway: SimulatedGateway, client: Client) -> None:
    """The last position before the end is the account's last one."""
    client.reqPositions()
    heard = await client.hears("positionEnd")
    last = gateway.account.positions[-1]
    account, contract, quantity, avg_cost = heard["position"]
    assert (account, contract.conId) == ("DU0000001", last.instrument.conid)
    assert (quantity, avg_cost) == (last.quantity, last.avg_cost)
    assert gateway.log.sent["POSITION"] == len(gateway.account.positions)


async def test_it_gets_the_account_and_the_portfolio(gateway: SimulatedGateway, client: Client) -> None:
    """Account values and portfolio items are read field by field."""
    client.reqAccountUpdates(True, "DU0000001")
    heard = await client.hears("accountDownloadEnd")
    last = gateway.account.value(gateway.account.positions[-1])
    contract, quantity, price, value, *_ = heard["updatePortfolio"]
    assert (contract.conId, quantity) == (last.position.instrument.conid, last.position.quantity)
    assert (price, value) == (last.price, last.value)


async def test_it_gets_a_snapshot_and_its_end(gateway: SimulatedGateway, client: Client, contract: Contract) -> None:
    """Sizes arrive as integers, greeks with all their fields, and the end with the request's id."""
    client.reqMktData(21, contract, "", True, False, [])
    heard = await client.hears("tickSnapshotEnd")
    quote = gateway.market.quote(contract.conId)
    assert heard["marketDataType"] == (21, 1)
    assert heard["tickPrice"][2] == quote.close
    req_id, tick, _attribute, vol, delta, price, _dividend, gamma, vega, theta, under = heard["tickOptionComputation"]
    assert (req_id, tick) == (21, 13)
    assert (vol, delta) == pytest.approx((quote.greeks.implied_vol, quote.greeks.delta))
    assert (gamma, vega, theta) == pytest.approx((quote.greeks.gamma, quote.greeks.vega, quote.greeks.theta), abs=1e-7)
    assert (price, under) == pytest.approx((quote.model, quote.greeks.underlying_price), abs=1e-4)
    assert isinstance(heard["tickSize"][2], int)


async def test_it_gets_contract_details(gateway: SimulatedGateway, client: Client, contract: Contract) -> None:
    """Every field is where version 157 expects it, up to the last one."""
    client.reqContractDetails(22, contract)
    heard = await client.hears("contractDetailsEnd")
    _, details = heard["contractDetails"]
    listed = gateway.market.instrument(contract.conId)
    assert (details.contract.conId, details.contract.strike) == (contract.conId, listed.strike)
    assert (details.minTick, details.mdSizeMultiplier, details.priceMagnifier) == (0.01, 100, 1)
    assert (details.underSymbol, details.underSecType, details.marketRuleIds) == (listed.symbol, "STK", "26")
    assert details.realExpirationDate == listed.expiry


async def test_it_gets_option_parameters_and_profit(
    gateway: SimulatedGateway, client: Client, contract: Contract
) -> None:
    """Messages without a version of their own are read as well."""
    client.reqSecDefOptParams(23, "SPY", "", "STK", 1)
    heard = await client.hears("securityDefinitionOptionParameterEnd")
    assert heard["securityDefinitionOptionParameter"][5] == set(gateway.market.expiries)
    client.reqPnLSingle(24, "DU0000001", "", contract.conId)
    heard = await client.hears("pnlSingle")
    assert heard["pnlSingle"][:2] == (24, int(gateway.account.positions[0].quantity))


async def test_an_error_arrives_without_the_field_of_later_versions(client: Client, contract: Contract) -> None:
    """This client drops an error with a field too many, so it must not have one."""
    client.cancelMktData(4711)
    heard = await client.hears("error", 300)
    assert heard["error"] == (4711, 300, "Can't find EId with tickerId:4711")
    contract.exchange = ""
    client.reqMktData(25, contract, "", False, False, [])
    assert "enter exchange" in (await client.hears("error", 321))["error"][2]


async def test_it_gets_one_accounts_positions_and_profit(gateway: SimulatedGateway, client: Client) -> None:
    """Messages of the several accounts of a login have their fields where version 157 expects them."""
    client.reqPositionsMulti(26, "DU0000001", "")
    heard = await client.hears("positionMultiEnd")
    last = gateway.account.positions[-1]
    req_id, account, _model, contract, quantity, avg_cost = heard["positionMulti"]
    assert (req_id, account, contract.conId) == (26, "DU0000001", last.instrument.conid)
    assert (quantity, avg_cost) == (last.quantity, last.avg_cost)
    client.reqPnL(27, "DU0000001", "")
    req_id, _daily, unrealized, _realized = (await client.hears("pnl"))["pnl"]
    valued = [gateway.account.value(each).unrealized for each in gateway.account.positions]
    assert (req_id, unrealized) == (27, pytest.approx(sum(valued), abs=0.01))


async def test_it_gets_matching_symbols_without_the_fields_of_later_versions(client: Client) -> None:
    """Description and issuer came with version 176."""
    client.reqMatchingSymbols(28, "SPY")
    req_id, (found,) = (await client.hears("symbolSamples"))["symbolSamples"]
    assert (req_id, found.contract.symbol, found.derivativeSecTypes) == (28, "SPY", ["OPT"])
