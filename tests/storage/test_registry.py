"""The registry on real tables: what becomes active, what stops being so, and who hears of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import ib_async
import numpy as np
import polars as pl
import pytest
from v6kit.contracts import ActiveContract, Leg, Right
from v6kit.errors import ContractConflictError, StorageError, StrategyNotFoundError
from v6kit.history import TableHistory
from v6kit.registry import StrategyRegistry

if TYPE_CHECKING:
    from v6kit.clock import FakeClock

RegistryMaker = Callable[..., StrategyRegistry]
CALL = {"conid": 101, "symbol": "SPY", "right": "C", "strike": 595.0, "expiry": "20261218"}
PUT = {"conid": 102, "symbol": "SPY", "right": "P", "strike": 480.0, "expiry": "20261218"}
OTHER = {"conid": 103, "symbol": "QQQ", "right": "C", "strike": 520.0, "expiry": "20261120"}


@pytest.fixture
async def make_registry(uri: str, clock: FakeClock) -> AsyncIterator[RegistryMaker]:
    """Make handles on one registry, as several processes would have."""
    made: list[StrategyRegistry] = []

    def make(**options: Any) -> StrategyRegistry:
        made.append(StrategyRegistry(options.pop("uri", uri), **({"clock": clock} | options)))
        return made[-1]

    yield make
    for registry in made:
        await registry.close()


@pytest.fixture
async def registry(make_registry: RegistryMaker) -> StrategyRegistry:
    """An open, empty registry."""
    return await make_registry().initialize()


def heard(registry: StrategyRegistry) -> list[tuple[list[int], list[int]]]:
    """Collect what a registry announces, as conids."""
    changes: list[tuple[list[int], list[int]]] = []
    registry.on_change(lambda added, removed: changes.append(([a.conid for a in added], [r.conid for r in removed])))
    return changes


async def test_a_strategy_is_added_in_one_commit(registry: StrategyRegistry, clock: FakeClock):
    """All legs are active when the call returns, and they come back as they stand."""
    legs = await registry.add_strategy(1, [CALL, PUT], kind="IRON_CONDOR")
    assert registry.is_active(101)
    assert registry.is_active(102)
    assert not registry.is_active(103)
    assert registry.ledger.version == 1
    assert legs == await registry.get_all_active()
    assert legs[0] == ActiveContract(
        **(CALL | {"right": Right.CALL}), strategy_id="1", strategy="IRON_CONDOR", added_at=clock.now()
    )


async def test_one_wrong_leg_adds_none(registry: StrategyRegistry):
    """All or none: the error names leg, field and value, and nothing is active."""
    with pytest.raises(ValueError, match=r"leg 1: strike must be finite and greater than 0, got -1\.0"):
        await registry.add_strategy(1, [CALL, PUT | {"strike": -1}])
    assert not registry.is_active(101)
    assert registry.ledger.version == 0


async def test_a_conflict_adds_none(registry: StrategyRegistry):
    """One leg that contradicts what is active keeps out the others of its call, too."""
    await registry.add_strategy(1, [CALL])
    with pytest.raises(ContractConflictError, match=r"conid 101 is active in strategy '1' with strike 595\.0, got 600"):
        await registry.add_strategy(2, [PUT, CALL | {"strike": 600}])
    assert not registry.is_active(102)


@pytest.mark.parametrize(
    ("field", "value"),
    [("symbol", "QQQ"), ("right", "P"), ("strike", 596), ("expiry", "20261217"), ("sec_type", "FOP")],
)
async def test_a_conid_names_one_contract(registry: StrategyRegistry, field: str, value: object):
    """Any other detail of an active conid is an error, also within its own strategy."""
    await registry.add_strategy(1, [CALL])
    with pytest.raises(ContractConflictError, match=f"with {field}"):
        await registry.add_strategy(1, [CALL | {field: value}])


async def test_a_contract_that_was_let_go_may_come_back_corrected(registry: StrategyRegistry):
    """A wrong strike is mended by removing the leg and adding it again."""
    await registry.add_strategy(1, [CALL | {"strike": 59.5}])
    await registry.remove_active(101)
    (leg,) = await registry.add_strategy(1, [CALL])
    assert leg.strike == 595.0


async def test_adding_twice_changes_nothing(registry: StrategyRegistry):
    """The same legs again are no commit, and nobody is told."""
    await registry.add_strategy(1, [CALL, PUT], "VERTICAL")
    changes = heard(registry)
    again = await registry.add_strategy("1", [PUT, CALL], "VERTICAL")
    assert [leg.conid for leg in again] == [101, 102]
    assert (await registry.add_active(**CALL, strategy_id=1))[0].strategy == "VERTICAL"
    assert registry.ledger.version == 1
    assert changes == []


async def test_another_quantity_is_taken_over(registry: StrategyRegistry, clock: FakeClock):
    """It is one row more, of the same leg with the same age."""
    since = clock.now()
    await registry.add_strategy(1, [CALL, PUT], "VERTICAL")
    clock.advance(60)
    legs = await registry.add_strategy(1, [CALL | {"quantity": -3}])
    assert [(leg.conid, leg.quantity, leg.added_at, leg.strategy) for leg in legs] == [
        (101, -3.0, since, "VERTICAL"),
        (102, 1.0, since, "VERTICAL"),
    ]
    history = TableHistory(registry.uri, registry.SPEC.key)
    assert history.timeline("1", None, 101)["change"].to_list() == ["ADD", "UPDATE"]


async def test_a_strategy_is_of_one_kind(registry: StrategyRegistry):
    """A leg that joins takes the kind that is there; another kind holds for all legs."""
    await registry.add_strategy(1, [CALL], "VERTICAL")
    await registry.add_active(**PUT, strategy_id=1)
    assert {leg.strategy for leg in registry.active_legs()} == {"VERTICAL"}
    await registry.add_active(**PUT, strategy_id=1, kind="STRANGLE")
    assert {leg.strategy for leg in registry.active_legs()} == {"STRANGLE"}
    assert registry.strategies().height == 1


async def test_a_contract_in_two_strategies_stays_active_until_both_let_go(registry: StrategyRegistry):
    """Only the last holder's removal is announced."""
    await registry.add_strategy(1, [CALL])
    await registry.add_strategy(2, [CALL, PUT])
    changes = heard(registry)
    await registry.remove_strategy(1)
    assert registry.is_active(101)
    await registry.remove_active(101, 2)
    assert not registry.is_active(101)
    assert registry.is_active(102)
    assert changes == [([], [101])]


async def test_removing_from_all_strategies_is_one_commit(registry: StrategyRegistry):
    """`remove_active` without a strategy lets the contract go everywhere."""
    await registry.add_strategy(1, [CALL])
    await registry.add_strategy(2, [CALL, PUT])
    version = registry.ledger.version
    removed = await registry.remove_active(101)
    assert [leg.strategy_id for leg in removed] == ["1", "2"]
    assert registry.ledger.version == version + 1
    assert not registry.is_active(101)


async def test_removing_twice_is_harmless(registry: StrategyRegistry):
    """What was removed before is not removed again, and not an error."""
    await registry.add_strategy(1, [CALL, PUT])
    assert len(await registry.remove_strategy(1)) == 2
    assert await registry.remove_strategy(1) == []
    assert await registry.remove_active(101, 1) == []
    assert registry.ledger.version == 2


async def test_what_never_was_cannot_be_removed(registry: StrategyRegistry):
    """The errors say which strategies there are."""
    with pytest.raises(StrategyNotFoundError, match="no active strategy '9'; active are none"):
        await registry.remove_strategy(9)
    await registry.add_strategy("mine", [CALL])
    with pytest.raises(
        StrategyNotFoundError, match="no active strategy 'Mine'; did you mean 'mine'\\? active are mine"
    ):
        await registry.remove_strategy("Mine")
    with pytest.raises(StrategyNotFoundError, match="conid 5 was never a leg of any strategy"):
        await registry.remove_active(5)
    with pytest.raises(StrategyNotFoundError, match="conid 101 was never a leg of strategy 'x'"):
        await registry.remove_active(101, "x")


async def test_expired_legs_are_removed(registry: StrategyRegistry, clock: FakeClock):
    """The day of expiry itself still counts; stocks never expire."""
    stock = {"conid": 7, "symbol": "SPY", "sec_type": "STK"}
    await registry.add_strategy(1, [CALL, OTHER, stock])
    assert clock.now().date() == date(2026, 11, 20)
    assert await registry.expire() == []
    clock.advance(timedelta(days=1))
    assert [leg.conid for leg in await registry.expire()] == [103]
    assert [leg.conid for leg in await registry.expire(on=date(2027, 1, 1))] == [101]
    assert [leg.conid for leg in registry.active_legs()] == [7]
    assert TableHistory(registry.uri, registry.SPEC.key).timeline("1", None, 103)["change"].to_list() == [
        "ADD",
        "EXPIRE",
    ]


async def test_ib_async_contracts_are_taken_as_they_are(registry: StrategyRegistry):
    """Options, stocks and futures of the client library become legs, the quantity and kind beside them."""
    option = ib_async.Option("SPY", "20261218", 595.0, "C", "SMART", conId=101)
    (leg,) = await registry.add_contract(option, 1, quantity=-2, kind="SHORT_CALL")
    assert (leg.sec_type, leg.right, leg.strike, leg.expiry) == ("OPT", "C", 595.0, "20261218")
    assert (leg.quantity, leg.strategy) == (-2.0, "SHORT_CALL")
    future = ib_async.Future("ES", exchange="CME", conId=5, lastTradeDateOrContractMonth="20261218 08:30 US/Central")
    assert (await registry.add_contract(future, "f"))[0].expiry == "20261218"
    assert (await registry.add_contract(ib_async.Stock("SPY", conId=6), "s"))[0].right is None


async def test_a_contract_without_conid_is_refused(registry: StrategyRegistry):
    """A conId of 0 means that it was never qualified; the error says what to do."""
    with pytest.raises(ValueError, match="must be qualified"):
        await registry.add_contract(ib_async.Option("SPY", "20261218", 595.0, "C", "SMART"), 1)
    with pytest.raises(ValueError, match="must be qualified"):
        await registry.add_contract("SPY", 1)


async def test_legs_may_come_as_objects_mappings_or_a_frame(registry: StrategyRegistry):
    """What polars returns goes straight in; a frame's missing columns take the defaults."""
    await registry.add_strategy("objects", [Leg(**CALL)])
    await registry.add_strategy("mappings", iter([PUT]))
    frame = pl.DataFrame([OTHER, {"conid": 7, "symbol": "SPY", "sec_type": "STK"}]).with_columns(
        pl.col("sec_type").fill_null("OPT")
    )
    await registry.add_strategy("frame", frame)
    assert [leg.conid for leg in registry.active_legs()] == [103, 7, 102, 101]


@pytest.mark.parametrize(
    ("leg", "error", "says"),
    [
        (CALL | {"conid": 0}, ValueError, "leg 0: conid must be at least 1, got 0"),
        (CALL | {"conid": True}, TypeError, "conid must be an integer, got True"),
        (CALL | {"conid": "101"}, TypeError, r"conid must be an integer, got '101' \(str\)"),
        (CALL | {"right": "X"}, ValueError, "right must be 'C', 'P', 'CALL' or 'PUT', got 'X'"),
        (CALL | {"right": None}, ValueError, "right is needed for a leg of sec_type 'OPT', got None"),
        (CALL | {"strike": 0}, ValueError, r"strike must be finite and greater than 0, got 0\.0"),
        (CALL | {"strike": float("nan")}, ValueError, "strike must be finite and greater than 0, got nan"),
        (CALL | {"strike": "595"}, TypeError, r"strike must be a number, got '595' \(str\)"),
        (CALL | {"expiry": "20261332"}, ValueError, "expiry must be a real date written YYYYMMDD, got '20261332'"),
        (CALL | {"expiry": "2026-12-18"}, ValueError, "expiry must be a real date"),
        (CALL | {"symbol": " "}, ValueError, "symbol must not be empty, got ' '"),
        (CALL | {"sec_type": "OPTION"}, ValueError, "sec_type must be one of OPT, .*, got 'OPTION'"),
        (CALL | {"quantity": 0}, ValueError, "quantity must not be 0"),
        (CALL | {"sec_type": "STK"}, ValueError, "right belongs to options only, got 'C' for 'STK'"),
        (CALL | {"sec_type": "STK", "right": None, "strike": None}, ValueError, "expiry belongs to options and fut"),
        (CALL | {"strikes": 1}, ValueError, "unknown field 'strikes'; known are conid, symbol, right, strike"),
        ({"symbol": "SPY"}, ValueError, "leg 0: conid is missing"),
        (101, TypeError, "leg 0 must be a Leg or a mapping with its fields, got 101"),
    ],
)
async def test_a_wrong_field_is_named_with_its_value(
    registry: StrategyRegistry, leg: Any, error: type[Exception], says: str
):
    """Every check names the leg, the field and what it got."""
    with pytest.raises(error, match=says):
        await registry.add_strategy(1, [leg])


async def test_an_id_out_of_a_column_is_a_number_like_any_other(registry: StrategyRegistry):
    """As pandas and numpy have it; kept as text."""
    await registry.add_strategy(np.int64(7), [CALL])
    assert list(registry) == ["7"]
    assert registry[np.int64(7)].strategy_id == "7"


async def test_wrong_arguments_of_a_strategy_are_named(registry: StrategyRegistry):
    """No legs, one leg instead of several, the same conid twice, an id or kind that is none."""
    with pytest.raises(ValueError, match=r"legs must not be empty, got \[\]"):
        await registry.add_strategy(1, [])
    with pytest.raises(TypeError, match="legs must be several legs"):
        await registry.add_strategy(1, CALL)
    with pytest.raises(TypeError, match="legs must be several legs"):
        await registry.add_strategy(1, 5)
    with pytest.raises(ValueError, match="legs name conid 101 twice"):
        await registry.add_strategy(1, [CALL, CALL])
    with pytest.raises(TypeError, match="strategy_id must be text or a whole number, got True"):
        await registry.add_strategy(True, [CALL])
    with pytest.raises(ValueError, match="strategy_id must not be empty"):
        await registry.add_strategy("", [CALL])
    with pytest.raises(ValueError, match="on must be a real date written YYYYMMDD, got 'today'"):
        await registry.expire(on="today")
    with pytest.raises(ValueError, match="kind must not be empty"):
        await registry.add_strategy(1, [CALL], kind=" ")
    with pytest.raises(ValueError, match="conid must be at least 1, got -1"):
        await registry.remove_active(-1)


async def test_rights_and_expiries_are_brought_into_ibs_spelling(registry: StrategyRegistry):
    """`CALL` is `C`, a date is YYYYMMDD, symbols are upper case."""
    (leg,) = await registry.add_active(1, " spy ", "call", 595, date(2026, 12, 18), "x")
    assert (leg.symbol, leg.right, leg.strike, leg.expiry) == ("SPY", "C", 595.0, "20261218")


async def test_is_active_before_open_is_an_error_not_a_no(make_registry: RegistryMaker):
    """A wrong "no" would leave a live strategy unwatched."""
    registry = make_registry()
    with pytest.raises(StorageError, match="is not open; await its initialize"):
        registry.is_active(101)
    bound_before = registry.is_active
    await registry.initialize()
    assert registry.is_active(101) is bound_before(101) is False
    await registry.add_strategy(1, [CALL])
    assert registry.is_active(101) is bound_before(101) is True


async def test_is_active_costs_no_io_and_works_from_any_thread(registry: StrategyRegistry):
    """Readers on other threads see each change as soon as its call has returned."""
    await registry.add_strategy(1, [CALL])
    seen: list[bool] = []
    reader = threading.Thread(target=lambda: seen.extend([registry.is_active(101), registry.is_active(102)]))
    reader.start()
    reader.join()
    assert seen == [True, False]


async def test_everything_survives_a_restart(make_registry: RegistryMaker):
    """A new handle knows what is active without being told."""
    first = await make_registry().initialize()
    await first.add_strategy(1, [CALL, PUT])
    await first.add_strategy(2, [CALL])
    await first.remove_strategy(1)
    legs = first.active_legs()
    await first.close()
    again = await make_registry().initialize()
    assert again.active_legs() == legs
    assert (again.is_active(101), again.is_active(102)) == (True, False)


async def test_another_process_is_followed(make_registry: RegistryMaker):
    """What another process commits is active here after a refresh, and listeners hear of it."""
    here = await make_registry().initialize()
    changes = heard(here)
    code = (
        "import asyncio, sys; from v6kit.registry import StrategyRegistry\n"
        "async def main():\n"
        "    async with StrategyRegistry(sys.argv[1]) as r:\n"
        "        await r.add_active(101, 'SPY', 'C', 595.0, '20261218', 'theirs')\n"
        "asyncio.run(main())"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, here.uri)
    assert await child.wait() == 0
    assert not here.is_active(101)
    assert await here.refresh()
    assert here.is_active(101)
    assert changes == [([101], [])]
    there = await make_registry().initialize()
    await there.remove_strategy("theirs")
    assert await here.get_all_active() == []
    assert changes[1:] == [([], [101])]


async def test_two_handles_that_race_lose_no_strategy(make_registry: RegistryMaker):
    """Fifty strategies from two handles at once are fifty strategies."""
    one, two = make_registry(), make_registry()
    await asyncio.gather(
        *(
            handle.add_strategy(f"{name}{n}", [CALL | {"conid": 1000 + 2 * n + shift}])
            for n in range(25)
            for handle, name, shift in ((one, "a", 0), (two, "b", 1))
        )
    )
    assert len(await one.get_all_active()) == len(await two.get_all_active()) == 50


async def test_a_commit_that_adds_and_removes_is_told_as_its_sum(make_registry: RegistryMaker):
    """What was active and let go between two looks is no news; each conid comes once."""
    here, there = await make_registry().initialize(), await make_registry().initialize()
    await there.add_strategy(1, [CALL, PUT])
    await there.add_strategy(2, [PUT, OTHER])
    await there.remove_strategy(1)
    changes = heard(here)
    await here.refresh()
    assert [(sorted(added), removed) for added, removed in changes] == [([102, 103], [])]


async def test_a_listener_that_fails_disturbs_nobody(registry: StrategyRegistry, caplog: pytest.LogCaptureFixture):
    """The change stands, the other listeners hear of it, and the failure is logged."""

    def broken(_added: object, _removed: object) -> None:
        raise KeyError("mine")

    registry.on_change(broken)
    changes = heard(registry)
    await registry.add_strategy(1, [CALL])
    assert changes == [([101], [])]
    assert any(record.exc_info for record in caplog.records)


async def test_a_listener_may_be_ended_twice(registry: StrategyRegistry):
    """After the first time it hears nothing, and the second is no error."""
    changes: list[object] = []
    end = registry.on_change(lambda *args: changes.append(args))
    end()
    end()
    await registry.add_strategy(1, [CALL])
    assert changes == []


async def test_strategies_and_current_are_frames(registry: StrategyRegistry, clock: FakeClock):
    """One row per strategy, and one per leg with the table's columns; both with their columns when empty."""
    assert registry.strategies().columns == [
        "strategy_id",
        "strategy",
        "legs",
        "symbols",
        "expiries",
        "added_at",
        "account",
        "priority",
    ]
    assert registry.current().columns == list(registry.SPEC.columns)
    await registry.add_strategy(2, [CALL, PUT, OTHER], "MIX")
    await registry.add_strategy(1, [{"conid": 7, "symbol": "SPY", "sec_type": "STK"}])
    assert registry.strategies().rows() == [
        ("1", "CUSTOM", 1, "SPY", "", clock.now(), None, 2),
        ("2", "MIX", 3, "QQQ, SPY", "20261120, 20261218", clock.now(), None, 2),
    ]
    assert registry.current()["conid"].to_list() == [7, 101, 102, 103]


async def test_strategies_can_be_looked_up_and_completed(registry: StrategyRegistry):
    """`registry["1"]` and its tab completion know the active strategies; a wrong key names them."""
    await registry.add_strategy(1, [CALL])
    await registry.add_strategy("fly", [PUT])
    assert registry._ipython_key_completions_() == ["1", "fly"]
    assert [leg.conid for leg in registry[1]] == [101]
    with pytest.raises(KeyError, match="no active strategy 'x'; active are 1, fly"):
        registry["x"]


async def test_repr_counts_strategies_and_legs(make_registry: RegistryMaker):
    """Open it tells what is in it, closed it tells that it is not open."""
    registry = make_registry()
    assert repr(registry).endswith("not open)")
    await registry.add_strategy(1, [CALL, PUT])
    assert repr(registry).endswith("1 active strategy, 2 legs)")
    await registry.close()
    assert repr(registry).endswith("not open)")
    with pytest.raises(StorageError, match="is closed"):
        await registry.add_strategy(1, [CALL])


async def test_the_past_of_a_leg_is_kept(registry: StrategyRegistry, clock: FakeClock):
    """Removed is not forgotten: as of any version, and leg by leg."""
    await registry.add_strategy(1, [CALL])
    clock.advance(60)
    await registry.remove_strategy(1)
    history = TableHistory(registry.uri, registry.SPEC.key, clock=clock)
    assert history.as_of(1)["removed_at"].to_list() == [None]
    assert history.timeline("1", None, 101)["lasted"].to_list() == [timedelta(seconds=60), None]
