"""Option chains through TCP: what is listed, what a symbol costs, and which strike has a delta."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import v6kit
from broker_helpers import connected
from sync_helpers import FAST
from v6kit.contracts import OptionSeries
from v6kit.errors import GatewayUnavailableError, RequestFailedError
from v6kit.gateway import SimulatedGateway

if TYPE_CHECKING:
    from v6kit.desk import Desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk at a quick gateway."""
    gateway = SimulatedGateway(5, snapshot_hold=0.01, **FAST)
    async with await v6kit.open(tmp_path, "simulated", gateway=gateway) as opened:
        yield opened


async def test_the_series_are_those_that_the_market_lists(desk: Desk):
    """Each expiry once, although four exchanges list it; soonest first, and none that is over."""
    series = await desk.options.series("spy")
    listed = {each.expiry for each in desk.gateway.market.find(symbol="SPY", sec_type="OPT")}
    assert [each.expiry for each in series] == sorted(listed)
    assert {(each.trading_class, each.multiplier) for each in series} == {("SPY", 100.0)}


async def test_a_chain_has_every_option_of_one_series(desk: Desk):
    """Calls and puts of that expiry, by strike, each with its conid and where to ask for its price."""
    [_, series, *_] = await desk.options.series("SPY")
    chain = await desk.options.chain("SPY", series)
    listed = desk.gateway.market.find(symbol="SPY", sec_type="OPT", expiry=series.expiry)
    assert {each.conid for each in chain} == {each.conid for each in listed}
    assert [(each.strike, each.right) for each in chain] == sorted((each.strike, each.right) for each in chain)
    assert {each.exchange for each in chain} == {"SMART"}


async def test_another_class_is_another_chain(desk: Desk):
    """Options that settle at another time never get into one chain."""
    [series, *_] = await desk.options.series("SPY")
    with pytest.raises(RequestFailedError) as refused:
        await desk.options.chain("SPY", OptionSeries(expiry=series.expiry, trading_class="SPYW"))
    assert refused.value.code == 200


async def test_an_index_without_options_has_no_series(desk: Desk):
    """It is no stock, so it is asked for as an index; what is not listed is an empty list."""
    assert await desk.options.series("ES") == []


async def test_a_symbol_that_nobody_knows_is_said_to_be_unknown(desk: Desk):
    """IB's code 200, and the symbol in the sentence."""
    with pytest.raises(RequestFailedError, match="NOPE") as refused:
        await desk.options.series("nope")
    assert refused.value.code == 200


async def test_the_price_is_that_of_the_underlying(desk: Desk):
    """One snapshot of the stock, whose line is free again afterwards."""
    price = await desk.options.price("SPY")
    assert price == pytest.approx(desk.gateway.market.spot("SPY"), rel=0.01)
    assert desk.lines.used == 0


@pytest.mark.parametrize(("right", "delta"), [("P", 0.16), ("C", 0.16), ("C", 0.5), ("P", 0.9)])
async def test_the_strike_at_a_delta_is_the_nearest_of_all(desk: Desk, right: str, delta: float):
    """A few probes find what a look at every strike finds."""
    [_, series, *_] = await desk.options.series("SPY")
    chain = await desk.options.chain("SPY", series)
    found = await desk.options.at_delta(chain, right, delta)

    def distance(conid: int) -> float:
        return abs(abs(desk.gateway.market.quote(conid).greeks.delta) - delta)

    best = min(distance(each.conid) for each in chain if each.right == right)
    assert found.right == right
    assert distance(found.conid) == pytest.approx(best, abs=0.02)  # prices move while it looks


@pytest.mark.parametrize(("right", "delta"), [("X", 0.2), ("C", 0.0), ("C", 1.0)])
async def test_what_is_no_delta_is_refused(desk: Desk, right: str, delta: float):
    """Before anything is asked for."""
    [series, *_] = await desk.options.series("SPY")
    with pytest.raises(ValueError, match=r"right|delta"):
        await desk.options.at_delta(await desk.options.chain("SPY", series), right, delta)


async def test_a_link_that_is_down_says_so(gateway: SimulatedGateway):
    """No chain, and no empty one either."""
    async with connected(gateway) as broker:
        await broker.close()
        with pytest.raises(GatewayUnavailableError):
            await broker.option_series("SPY")


async def test_nothing_is_kept_of_a_question_that_was_answered(desk: Desk):
    """What ib_async remembers of requests does not grow."""
    [series, *_] = await desk.options.series("SPY")
    session = desk.broker._connection.session
    before = session.remembered()
    for _ in range(3):
        await desk.options.chain("SPY", series)
    assert session.remembered() == before
