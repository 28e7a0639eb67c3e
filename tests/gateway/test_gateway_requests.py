"""Every request that ib_async can send gets an answer from the simulated gateway, or an error that names it."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.gateway import Request
from v6kit.gateway.handlers import HANDLERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.gateway import SimulatedGateway

ID = 4711
ACCOUNT = "DU0000001"

Call = "Callable[[ib_async.client.Client, ib_async.Contract], Any]"

BY_ID: dict[str, tuple[Call, str]] = {
    "calculateImpliedVolatility": (lambda c, k: c.calculateImpliedVolatility(ID, k, 5.0, 600.0, []), "321"),
    "calculateOptionPrice": (lambda c, k: c.calculateOptionPrice(ID, k, 0.2, 600.0, []), "321"),
    "queryDisplayGroups": (lambda c, _: c.queryDisplayGroups(ID), "DISPLAY_GROUP_LIST"),
    "reqAccountSummary": (lambda c, _: c.reqAccountSummary(ID, "All", "NetLiquidation"), "ACCOUNT_SUMMARY_END"),
    "reqAccountUpdatesMulti": (
        lambda c, _: c.reqAccountUpdatesMulti(ID, ACCOUNT, "", False),
        "ACCOUNT_UPDATE_MULTI_END",
    ),
    "reqContractDetails": (lambda c, k: c.reqContractDetails(ID, k), "CONTRACT_DETAILS_END"),
    "reqExecutions": (lambda c, _: c.reqExecutions(ID, ib_async.ExecutionFilter()), "EXECUTION_END"),
    "reqFundamentalData": (lambda c, k: c.reqFundamentalData(ID, k, "ReportSnapshot", []), "430"),
    "reqHeadTimeStamp": (lambda c, k: c.reqHeadTimeStamp(ID, k, "TRADES", 1, 1), "162"),
    "reqHistogramData": (lambda c, k: c.reqHistogramData(ID, k, True, "1 day"), "10188"),
    "reqHistoricalData": (
        lambda c, k: c.reqHistoricalData(ID, k, "", "1 D", "1 min", "TRADES", 1, 1, False, []),
        "162",
    ),
    "reqHistoricalNews": (lambda c, k: c.reqHistoricalNews(ID, k.conId, "BZ", "", "", 5, []), "10276"),
    "reqHistoricalTicks": (lambda c, k: c.reqHistoricalTicks(ID, k, "", "", 5, "TRADES", 1, False, []), "10187"),
    "reqMatchingSymbols": (lambda c, _: c.reqMatchingSymbols(ID, "sp"), "SYMBOL_SAMPLES"),
    "reqMktData": (lambda c, k: c.reqMktData(ID, k, "", True, False, []), "TICK_SNAPSHOT_END"),
    "reqMktDepth": (lambda c, k: c.reqMktDepth(ID, k, 5, False, []), "10092"),
    "reqNewsArticle": (lambda c, _: c.reqNewsArticle(ID, "BZ", "1", []), "10172"),
    "reqPnL": (lambda c, _: c.reqPnL(ID, ACCOUNT, ""), "PNL"),
    "reqPnLSingle": (lambda c, k: c.reqPnLSingle(ID, ACCOUNT, "", k.conId), "PNL_SINGLE"),
    "reqPositionsMulti": (lambda c, _: c.reqPositionsMulti(ID, ACCOUNT, ""), "POSITION_MULTI_END"),
    "reqRealTimeBars": (lambda c, k: c.reqRealTimeBars(ID, k, 5, "TRADES", True, []), "420"),
    "reqScannerSubscription": (
        lambda c, _: c.reqScannerSubscription(ID, ib_async.ScannerSubscription(), [], []),
        "162",
    ),
    "reqSecDefOptParams": (lambda c, _: c.reqSecDefOptParams(ID, "SPY", "", "STK", 1), "SEC_DEF_OPT_PARAMS_END"),
    "reqSmartComponents": (lambda c, _: c.reqSmartComponents(ID, "SIM"), "SMART_COMPONENTS"),
    "reqSoftDollarTiers": (lambda c, _: c.reqSoftDollarTiers(ID), "SOFT_DOLLAR_TIERS"),
    "reqTickByTickData": (lambda c, k: c.reqTickByTickData(ID, k, "Last", 0, False), "10189"),
    "reqUserInfo": (lambda c, _: c.reqUserInfo(ID), "USER_INFO"),
    "reqWshEventData": (lambda c, _: c.reqWshEventData(ID, ib_async.WshEventData()), "10283"),
    "reqWshMetaData": (lambda c, _: c.reqWshMetaData(ID), "10279"),
    "subscribeToGroupEvents": (lambda c, _: c.subscribeToGroupEvents(ID, 1), "DISPLAY_GROUP_UPDATED"),
    "cancelCalculateImpliedVolatility": (lambda c, _: c.cancelCalculateImpliedVolatility(ID), "300"),
    "cancelCalculateOptionPrice": (lambda c, _: c.cancelCalculateOptionPrice(ID), "300"),
    "cancelFundamentalData": (lambda c, _: c.cancelFundamentalData(ID), "300"),
    "cancelHeadTimeStamp": (lambda c, _: c.cancelHeadTimeStamp(ID), "300"),
    "cancelHistogramData": (lambda c, _: c.cancelHistogramData(ID), "300"),
    "cancelHistoricalData": (lambda c, _: c.cancelHistoricalData(ID), "300"),
    "cancelMktData": (lambda c, _: c.cancelMktData(ID), "300"),
    "cancelMktDepth": (lambda c, _: c.cancelMktDepth(ID, False), "310"),
    "cancelRealTimeBars": (lambda c, _: c.cancelRealTimeBars(ID), "300"),
    "cancelScannerSubscription": (lambda c, _: c.cancelScannerSubscription(ID), "300"),
    "cancelTickByTickData": (lambda c, _: c.cancelTickByTickData(ID), "300"),
    "cancelWshEventData": (lambda c, _: c.cancelWshEventData(ID), "300"),
    "cancelWshMetaData": (lambda c, _: c.cancelWshMetaData(ID), "300"),
}
"""Requests with an id: how each is sent, and the error code or the name of the answer that must carry the id."""

WITHOUT_ID: dict[str, tuple[Call, str]] = {
    "reqAccountUpdates": (lambda c, _: c.reqAccountUpdates(True, ACCOUNT), "ACCOUNT_DOWNLOAD_END"),
    "reqAllOpenOrders": (lambda c, _: c.reqAllOpenOrders(), "OPEN_ORDER_END"),
    "reqCompletedOrders": (lambda c, _: c.reqCompletedOrders(False), "COMPLETED_ORDERS_END"),
    "reqCurrentTime": (lambda c, _: c.reqCurrentTime(), "CURRENT_TIME"),
    "reqFamilyCodes": (lambda c, _: c.reqFamilyCodes(), "FAMILY_CODES"),
    "reqIds": (lambda c, _: c.reqIds(1), "NEXT_VALID_ID"),
    "reqManagedAccts": (lambda c, _: c.reqManagedAccts(), "MANAGED_ACCOUNTS"),
    "reqMarketRule": (lambda c, _: c.reqMarketRule(26), "MARKET_RULE"),
    "reqMktDepthExchanges": (lambda c, _: c.reqMktDepthExchanges(), "MKT_DEPTH_EXCHANGES"),
    "reqNewsProviders": (lambda c, _: c.reqNewsProviders(), "NEWS_PROVIDERS"),
    "reqOpenOrders": (lambda c, _: c.reqOpenOrders(), "OPEN_ORDER_END"),
    "reqPositions": (lambda c, _: c.reqPositions(), "POSITION_END"),
    "reqScannerParameters": (lambda c, _: c.reqScannerParameters(), "SCANNER_PARAMETERS"),
    "requestFA": (lambda c, _: c.requestFA(1), "ERROR"),
    "verifyMessage": (lambda c, _: c.verifyMessage("x"), "ERROR"),
    "verifyRequest": (lambda c, _: c.verifyRequest("x", "1"), "ERROR"),
    "verifyAndAuthMessage": (lambda c, _: c.verifyAndAuthMessage("x", "y"), "ERROR"),
    "verifyAndAuthRequest": (lambda c, _: c.verifyAndAuthRequest("x", "1", "k"), "ERROR"),
}
"""Requests without an id: how each is sent, and the name of its answer."""

SILENT_AT_IB_TOO = {
    *("cancelAccountSummary", "cancelAccountUpdatesMulti", "cancelPositions", "cancelPositionsMulti"),
    *("cancelPnL", "cancelPnLSingle", "unsubscribeFromGroupEvents", "updateDisplayGroup"),
    *("reqNewsBulletins", "cancelNewsBulletins", "reqMarketDataType", "reqAutoOpenOrders", "setServerLogLevel"),
}
"""The ends of what runs, settings, and news that never come."""

CHANGES_SOMETHING = {"placeOrder", "cancelOrder", "reqGlobalCancel", "exerciseOptions", "replaceFA"}

OF_THE_CLIENT_ITSELF = {
    *("reset", "serverVersion", "run", "isConnected", "isReady", "connectionStats", "getReqId", "updateReqId"),
    *("getAccounts", "setConnectOptions", "connect", "connectAsync", "disconnect", "send", "sendMsg", "startApi"),
}


@pytest.fixture
def contract(gateway: SimulatedGateway, routed: Callable) -> ib_async.Contract:
    """A leg of the account, as it is requested."""
    return routed(gateway.account.positions[0].instrument)


async def round_trip(ib: ib_async.IB) -> None:
    """Wait until all that was sent before is answered."""
    async with asyncio.timeout(DEADLINE):
        await ib.reqCurrentTimeAsync()


def test_no_request_of_ib_async_is_forgotten() -> None:
    """A method that a new version brings needs a case here, and every message id has its handler."""
    methods = {name for name, _ in inspect.getmembers(ib_async.client.Client, inspect.isfunction) if name[0] != "_"}
    assert methods - OF_THE_CLIENT_ITSELF == {*BY_ID, *WITHOUT_ID, *SILENT_AT_IB_TOO, *CHANGES_SOMETHING}
    assert set(HANDLERS) == set(Request)


@pytest.mark.parametrize("method", BY_ID)
async def test_a_request_with_an_id_is_answered_under_its_id(
    gateway: SimulatedGateway, ib: ib_async.IB, contract: ib_async.Contract, method: str
) -> None:
    """Data, an end, or an error with IB's code: never silence, and never under another id."""
    send, answer = BY_ID[method]
    send(ib.client, contract)
    name = "ERROR" if answer.isdigit() else answer
    before = gateway.log.sent[name]
    await gateway.log.wait_for(name, before + 1)
    found = [each.fields for each in gateway.log.answers(name) if str(ID) in each.fields[:3]]
    assert len(found) == 1
    assert not answer.isdigit() or found[0][3] == answer


@pytest.mark.parametrize("method", WITHOUT_ID)
async def test_a_request_without_an_id_is_answered(
    gateway: SimulatedGateway, ib: ib_async.IB, contract: ib_async.Contract, method: str
) -> None:
    """The answer is of the kind that the client waits for."""
    send, answer = WITHOUT_ID[method]
    before = gateway.log.sent[answer]
    send(ib.client, contract)
    await gateway.log.wait_for(answer, before + 1)


async def test_what_the_client_makes_of_the_answers(ib: ib_async.IB, caplog: pytest.LogCaptureFixture) -> None:
    """ib_async reads each answer with a payload field by field."""
    async with asyncio.timeout(DEADLINE):
        symbols = await ib.reqMatchingSymbolsAsync("spy")
        steps = await ib.reqMarketRuleAsync(26)
        (details,) = await ib.reqContractDetailsAsync(ib_async.Stock("SPY", "SMART", "USD"))
        groups = await ib.reqNewsProvidersAsync(), await ib.reqSmartComponentsAsync("SIM")
        scanner = await ib.reqScannerParametersAsync()
    assert [(each.contract.symbol, each.derivativeSecTypes) for each in symbols] == [("SPY", ["OPT"])]
    assert symbols[0].contract.description.startswith("Simulated")
    assert [(each.lowEdge, each.increment) for each in steps] == [(0.0, 0.01), (3.0, 0.05)]
    assert details.marketRuleIds == "27"
    assert groups == ([], [])
    assert scanner.startswith("<Scan")
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


@pytest.mark.parametrize("method", ["reqHistoricalDataAsync", "reqHeadTimeStampAsync"])
async def test_a_refusal_ends_the_wait_of_a_client(ib: ib_async.IB, contract: ib_async.Contract, method: str) -> None:
    """IB's own codes end ib_async's future; 321 would leave it waiting."""
    arguments: dict[str, Any] = {"whatToShow": "TRADES", "useRTH": True, "formatDate": 1}
    if method == "reqHistoricalDataAsync":
        arguments |= {"endDateTime": "", "durationStr": "1 D", "barSizeSetting": "1 min"}
    async with asyncio.timeout(DEADLINE):
        assert not await getattr(ib, method)(contract, **arguments)


async def test_what_would_change_something_is_refused(
    gateway: SimulatedGateway, ib: ib_async.IB, contract: ib_async.Contract
) -> None:
    """Orders, exercises, cancels and groups of accounts: nothing happens, and the client is told."""
    ib.client.placeOrder(ID, contract, ib_async.MarketOrder("BUY", 1))
    ib.client.cancelOrder(ID)
    ib.client.exerciseOptions(ID, contract, 1, 1, ACCOUNT, 0)
    ib.client.replaceFA(ID, 1, "<xml/>")
    ib.client.reqGlobalCancel()
    await round_trip(ib)
    codes = [each.named["code"] for each in gateway.log.answers("ERROR") if not each.named["code"].startswith("21")]
    assert codes == ["201", "10147", "201", "321"]
    assert gateway.log.refused == {201: 2, 10147: 1, 321: 1}
