"""All three tables and the desk, in every place: the storage options reach each of them, and so does time travel."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest
import v6kit
from stores import EVERYWHERE
from tallies import SPEC, Tallies, count
from v6kit.contracts import AccountPosition, Instrument, Leg, PositionUpdate, Quality, Quote, Right, Source
from v6kit.errors import SchemaMismatchError
from v6kit.gateway import SimulatedGateway
from v6kit.history import TableHistory
from v6kit.ledger import Ledger
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry

pytestmark = EVERYWHERE

CALL = Instrument(
    conid=101, symbol="SPY", sec_type="OPT", right=Right.CALL, strike=595.0, expiry="20261218", multiplier=100.0
)


async def test_a_registry_is_the_same_for_every_handle_and_its_past_stays(place, uri, clock):
    """What one handle adds and removes, another has after a refresh, a third at opening, and the history keeps."""
    there = {"storage_options": place.options, "clock": clock}
    async with StrategyRegistry(uri, **there) as one, StrategyRegistry(uri, **there) as two:
        await one.add_strategy(1, [Leg.of(CALL, 1)], kind="COVERED_CALL")
        added = one.ledger.version
        await two.refresh()
        assert two.is_active(101)
        await two.remove_strategy(1)
        await one.refresh()
        assert not one.is_active(101)
        async with StrategyRegistry(uri, **there) as three:
            assert three.active_legs() == []
    past = TableHistory(uri, ("strategy_id", "account", "conid"), **there)
    assert past.as_of(added)["removed_at"].to_list() == [None]
    assert past.timeline("1", None, 101).height == 2


async def test_a_book_is_the_same_for_every_handle_and_its_past_stays(place, uri, clock):
    """A position, its price and its end, seen from elsewhere and later."""
    there = {"storage_options": place.options, "clock": clock}
    quote = Quote(
        conid=101, source=Source.SNAPSHOT, requested_at=clock.now(), received_at=clock.now(), quality=Quality.OK,
        bid=1.20, ask=1.24,
    )  # fmt: skip
    async with PositionBook(uri, **there) as one, PositionBook(uri, **there) as two:
        await one.sync([AccountPosition(account="DU1", instrument=CALL, position=2, avg_cost=118.0)])
        await two.record([PositionUpdate(account="DU1", instrument=CALL, quote=quote)])
        valued = two.ledger.version
        await one.refresh()
        assert one.current()["mark"].to_list() == [pytest.approx(1.22)]
        await one.sync([], accounts=["DU1"])
        async with PositionBook(uri, **there) as three:
            assert three.current().equals(one.current())
    past = TableHistory(uri, ("account", "conid"), **there)
    assert past.as_of(valued)["position"].to_list() == [2.0]
    assert past.diff(valued, valued + 1)["position"].to_list() == [0.0]


async def test_a_table_of_another_kind_is_refused_and_left_alone(place, uri, make_queue):
    """A queue does not open a ledger of tallies, wherever that is."""
    other = Ledger(uri, SPEC, Tallies, storage_options=place.options)
    await asyncio.to_thread(other.submit(count("SPY")).result)
    version = other.version
    with pytest.raises(SchemaMismatchError, match="nothing was touched"):
        await make_queue().initialize()
    await asyncio.to_thread(other.refresh().result)
    assert other.version == version
    await asyncio.to_thread(other.close)


async def test_a_desk_runs_on_the_place_and_comes_back_from_it(place):
    """Open, run a cycle, close; a second desk on the same lake finds all three tables as they were left."""
    gateway = SimulatedGateway(12, snapshot_hold=0.02, tick_interval=0.05)
    async with await v6kit.open(place.lake, "simulated", gateway=gateway, storage_options=place.options) as desk:
        legs = [Leg.of(each.instrument, each.quantity) for each in gateway.account.iron_condors[0]]
        await desk.registry.add_strategy(1, legs, kind="IRON_CONDOR")
        await desk.sync()
        report = await desk.run_cycle()
        assert report.settled == 12 - len(legs)
        assert place.secret == "" or place.secret not in repr(desk) + desk._repr_html_()
        finished = desk.queue.stats().by_status["SUCCESS"]
        past = await asyncio.to_thread(desk.history("position_queue").versions)
        assert past["changes"].str.contains("CLAIM").any()

    there = {"storage_options": place.options}
    async with (
        StrategyRegistry(place.table("active_strategies"), **there) as registry,
        PositionQueue(place.table("position_queue"), **there) as queue,
        PositionBook(place.table("position_updates"), **there) as book,
    ):
        assert {leg.conid for leg in registry.active_legs()} == {leg.conid for leg in legs}
        assert queue.stats().by_status["SUCCESS"] == finished >= report.settled
        assert book.current().filter(pl.col("bid").is_not_null()).height >= report.settled
