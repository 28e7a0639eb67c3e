"""Strategies in several accounts, their priority, amendments, and tables from before there was any of this."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pytest
from deltalake import DeltaTable
from v6kit.errors import ContractConflictError, RegistryError, StrategyNotFoundError
from v6kit.history import TableHistory
from v6kit.ledger import NO_INSTANT, Decision, Ledger, TableSpec, upkeep
from v6kit.registry import Amendment, StrategyRegistry
from v6kit.registry.rows import SPEC

if TYPE_CHECKING:
    from v6kit.clock import FakeClock

CALL = {"conid": 101, "symbol": "SPY", "right": "C", "strike": 595.0, "expiry": "20261218"}
PUT = {"conid": 102, "symbol": "SPY", "right": "P", "strike": 480.0, "expiry": "20261218"}
QUERY = "SELECT * FROM t WHERE seq IN (SELECT max(seq) FROM t GROUP BY strategy_id, account, conid)"


@pytest.fixture
async def registry(uri: str, clock: FakeClock) -> AsyncIterator[StrategyRegistry]:
    """An open, empty registry."""
    async with StrategyRegistry(uri, clock=clock) as made:
        yield made


def brief(registry: StrategyRegistry) -> list[tuple[Any, ...]]:
    """Return the active legs in short."""
    return [(leg.strategy_id, leg.account, leg.conid, leg.quantity, leg.priority) for leg in registry.active_legs()]


# --- accounts -------------------------------------------------------------------------------------------------------


async def test_one_strategy_id_in_two_accounts_is_two_sets_of_legs(registry: StrategyRegistry):
    """Each set has its own quantities, and the same conid may be in both and in one without an account."""
    await registry.add_strategy(1, [CALL], account="DU1")
    await registry.add_strategy(1, [CALL | {"quantity": -2}, PUT], account=" DU2 ")
    await registry.add_strategy(1, [PUT])
    assert brief(registry) == [
        ("1", None, 102, 1.0, 2),
        ("1", "DU1", 101, 1.0, 2),
        ("1", "DU2", 101, -2.0, 2),
        ("1", "DU2", 102, 1.0, 2),
    ]
    assert len(registry[1]) == 4
    assert registry.strategies().select("strategy_id", "account", "legs").rows() == [
        ("1", None, 1), ("1", "DU1", 1), ("1", "DU2", 2),
    ]  # fmt: skip
    assert registry._ipython_key_completions_() == ["1", ("1", ""), ("1", "DU1"), ("1", "DU2")]
    assert registry.summary() == "3 active strategies, 4 legs"


async def test_a_strategy_is_removed_in_all_accounts_or_in_one(registry: StrategyRegistry):
    """By default together; with an account only there; with an empty one what is bound to none."""
    for account in (None, "DU1", "DU2", "DU3"):
        await registry.add_strategy(1, [CALL], account=account)
    heard: list[tuple[int, int]] = []
    registry.on_change(lambda added, removed: heard.append((len(added), len(removed))))
    assert [leg.account for leg in await registry.remove_strategy(1, account="DU2")] == ["DU2"]
    assert [leg.account for leg in await registry.remove_strategy(1, account="")] == [None]
    assert [leg.account for leg in await registry.remove_active(101, 1, account="DU3")] == ["DU3"]
    assert registry.is_active(101)
    assert heard == []
    await registry.add_strategy(1, [CALL])
    assert [leg.account for leg in await registry.remove_strategy(1)] == [None, "DU1"]
    assert not registry.is_active(101)
    assert heard == [(0, 1)]
    with pytest.raises(StrategyNotFoundError, match="no active strategy '1' in DU9; active are none"):
        await registry.remove_strategy(1, account="DU9")
    with pytest.raises(StrategyNotFoundError, match="conid 101 was never a leg of strategy '1' in DU9"):
        await registry.remove_active(101, 1, account="DU9")


async def test_a_conid_names_one_contract_in_all_accounts(registry: StrategyRegistry):
    """Another strike is a conflict, whichever account holds it."""
    await registry.add_strategy(1, [CALL], account="DU1")
    with pytest.raises(ContractConflictError, match="with strike"):
        await registry.add_active(**CALL | {"strike": 600}, strategy_id=1, account="DU2")


async def test_wrong_accounts_and_priorities_are_named(registry: StrategyRegistry):
    """An empty account, a number for one, a priority below 1 or of another type."""
    for wrong, error, says in (
        ({"account": " "}, ValueError, "account must not be empty"),
        ({"account": 5}, TypeError, "account must be a string, got 5"),
        ({"priority": 0}, ValueError, "priority must be at least 1, got 0"),
        ({"priority": 2**31}, ValueError, r"priority must be below 2\*\*31"),
        ({"priority": 1.0}, TypeError, "priority must be an integer"),
    ):
        with pytest.raises(error, match=says):
            await registry.add_strategy(1, [CALL], **wrong)
    assert registry.ledger.version == 0


# --- priority -------------------------------------------------------------------------------------------------------


async def test_a_priority_holds_for_the_whole_strategy(registry: StrategyRegistry):
    """A leg that joins takes the one that is there, another one is an update of all legs, of this account only."""
    await registry.add_strategy(1, [CALL], "VERTICAL", account="DU1", priority=1)
    await registry.add_strategy(1, [CALL], account="DU2")
    await registry.add_active(**PUT, strategy_id=1, account="DU1")
    assert [leg.priority for leg in registry.active_legs()] == [1, 1, 2]
    await registry.add_active(**PUT, strategy_id=1, account="DU1", priority=3)
    assert [leg.priority for leg in registry.active_legs()] == [3, 3, 2]
    assert {leg.strategy for leg in registry[1] if leg.account == "DU1"} == {"VERTICAL"}
    past = TableHistory(registry.uri, SPEC.key)
    assert past.timeline("1", "DU1", 101)["change"].to_list() == ["ADD", "UPDATE"]
    assert past.timeline("1", "DU1", 101)["priority"].to_list() == [1, 3]
    version = registry.ledger.version
    await registry.add_strategy(1, [CALL, PUT], account="DU1", priority=3)
    assert registry.ledger.version == version


# --- amending -------------------------------------------------------------------------------------------------------


async def test_legs_are_amended_in_one_commit(registry: StrategyRegistry, clock: FakeClock):
    """One takes another quantity, one goes; the answer says how they are now."""
    await registry.add_strategy(1, [CALL, PUT], account="DU1")
    clock.advance(60)
    version = registry.ledger.version
    one, gone = await registry.amend([Amendment("1", "DU1", 101, 1.0, -3.0), Amendment("1", "DU1", 102, 1.0, 0.0)])
    assert (one.quantity, one.removed_at, gone.removed_at) == (-3.0, None, clock.now())
    assert brief(registry) == [("1", "DU1", 101, -3.0, 2)]
    assert registry.ledger.version == version + 1


@pytest.mark.parametrize(
    "outdated", [("1", "DU1", 102, 2.0), ("1", None, 102, 1.0), ("2", "DU1", 102, 1.0), ("1", "DU1", 103, 1.0)]
)
async def test_a_leg_that_is_no_longer_as_it_was_seen_keeps_all_amendments_out(registry: StrategyRegistry, outdated):
    """Another quantity, account or strategy, or a leg that was removed: nothing changes, and the error names it."""
    await registry.add_strategy(1, [CALL, PUT, PUT | {"conid": 103}], account="DU1")
    await registry.remove_active(103)
    before = registry.current()
    with pytest.raises(RegistryError, match=f"conid {outdated[2]} .* no longer as it was seen.*nothing was changed"):
        await registry.amend([Amendment("1", "DU1", 101, 1.0, 5.0), Amendment(*outdated, 4.0)])
    assert registry.current().equals(before)
    with pytest.raises(ValueError, match="must name each leg once"):
        await registry.amend([Amendment("1", "DU1", 101, 1.0, 5.0), Amendment("1", "DU1", 101, 1.0, 4.0)])


# --- tables of the first schema -------------------------------------------------------------------------------------


class FirstRow(NamedTuple):
    """A leg as the first schema had it."""

    strategy_id: str
    strategy: str
    conid: int
    symbol: str
    sec_type: str
    right: str | None
    strike: float | None
    expiry: str | None
    quantity: float
    added_at: datetime
    removed_at: datetime | None
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""


FIRST = TableSpec(
    name="active_strategies",
    key=("strategy_id", "conid"),
    columns={name: kind for name, kind in SPEC.columns.items() if name not in {"account", "priority"}},
    row=FirstRow,
)


class FirstState:
    """The rows of the first schema."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def apply(self, rows: Any) -> Callable[[], None]:
        """Take rows in."""
        before = list(self.rows)
        self.rows += FIRST.to_rows(rows) if isinstance(rows, pl.DataFrame) else rows
        return lambda: setattr(self, "rows", before)

    def held(self) -> list[Any]:
        """Return all rows."""
        return [self.rows]


@pytest.fixture(params=["without a snapshot", "with a snapshot"])
def first_schema(request, uri: str, clock: FakeClock) -> pl.DataFrame:
    """A table that was written by the first schema: two legs, one of them changed, another removed."""
    ledger = Ledger(uri, FIRST, FirstState, clock=clock)

    def put(conid: int, quantity: float, removed_at: datetime | None, change: str) -> None:
        row = FirstRow(
            "1", "IRON_CONDOR", conid, "SPY", "OPT", "C", 595.0, "20261218", quantity, clock.now(), removed_at, change
        )
        ledger.submit(lambda _state, _moment: Decision([row], None)).result()

    put(101, 1.0, None, "ADD")
    put(102, 1.0, None, "ADD")
    put(103, 1.0, None, "ADD")
    put(101, -2.0, None, "UPDATE")
    put(103, 1.0, clock.now(), "REMOVE")
    if request.param == "with a snapshot":
        upkeep.run(ledger._new_store(), ledger._write_snapshot)
    ledger.close()
    return pl.read_delta(uri)


async def test_a_table_of_the_first_schema_is_taken_over(first_schema: pl.DataFrame, uri: str, clock: FakeClock):
    """Its rows mean any account and the default priority; no file of it is rewritten, and it opens as ever after."""
    files = set(DeltaTable(uri).file_uris())
    for _ in range(2):
        async with StrategyRegistry(uri, clock=clock) as registry:
            assert brief(registry) == [("1", None, 101, -2.0, 2), ("1", None, 102, 1.0, 2)]
            assert registry.current()["priority"].to_list() == [2, 2]
            assert registry.strategies()["account"].to_list() == [None]
    assert files <= set(DeltaTable(uri).file_uris())
    old = pl.read_delta(uri).select(first_schema.columns).sort("seq")
    assert old.equals(first_schema.sort("seq"))


async def test_the_past_of_the_first_schema_goes_on(first_schema: pl.DataFrame, uri: str, clock: FakeClock):
    """As of, timelines, differences and the query for readers elsewhere: old and new rows are one history."""
    clock.advance(60)
    async with StrategyRegistry(uri, clock=clock) as registry:
        await registry.add_strategy(1, [CALL | {"conid": 102}], priority=1)  # an update of rows without an account
        await registry.add_strategy(1, [CALL | {"conid": 101}], account="DU1")
        current = registry.current()
    past = TableHistory(uri, SPEC.key, clock=clock)
    at = int(first_schema["version"].max())
    legs = pl.struct("account", "conid", "quantity", "priority")
    assert past.as_of(at).select(legs).to_series().to_list() == [
        {"account": None, "conid": 102, "quantity": 1.0, "priority": None},
        {"account": None, "conid": 101, "quantity": -2.0, "priority": None},
        {"account": None, "conid": 103, "quantity": 1.0, "priority": None},
    ]
    assert past.timeline("1", None, 101)["change"].to_list() == ["ADD", "UPDATE", "UPDATE"]
    assert past.timeline("1", "DU1", 101)["change"].to_list() == ["ADD"]
    changed = past.diff(at, past.versions()["version"][-1]).select("diff", "account", "conid", "priority_old")
    assert sorted(changed.rows(), key=str) == [
        ("+", "DU1", 101, None), ("~", None, 101, None), ("~", None, 102, None),
    ]  # fmt: skip
    for _ in range(2):  # before and after upkeep
        found = pl.SQLContext(t=pl.scan_delta(uri)).execute(QUERY, eager=True).filter(pl.col("removed_at").is_null())
        assert found.sort("seq").select(current.columns).equals(current.sort("seq"))
        async with StrategyRegistry(uri, clock=clock) as again:
            assert again.current().equals(current)
            store = again.ledger._new_store()
            upkeep.run(store, again.ledger._write_snapshot)
            store.compact(2**30)


async def test_what_two_accounts_hold_survives_compaction_and_pruning(registry: StrategyRegistry, clock: FakeClock):
    """The newest row of each key stays, null accounts included; superseded ones go."""
    for quantity in (1.0, 2.0):
        for account in (None, "DU1", "DU2"):
            await registry.add_strategy(1, [CALL | {"quantity": quantity}], account=account)
        clock.advance(60)
    current = registry.current()
    store = registry.ledger._new_store()
    store.open()
    store.compact(2**30)
    past = TableHistory(registry.uri, SPEC.key, clock=clock)
    assert past.as_of(3)["quantity"].to_list() == [1.0, 1.0, 1.0]
    assert past.as_of(6)["account"].to_list() == [None, "DU1", "DU2"]
    assert (await registry.prune(clock.now())).rows == 3
    assert registry.current().equals(current)
    assert past.as_of(6)["account"].to_list() == [None, "DU1", "DU2"]


def test_two_that_migrate_a_table_at_once_both_open_it(first_schema: pl.DataFrame, uri: str, clock: FakeClock):
    """A notebook and a worker that start together on an old lake: both get on, and the columns come once."""
    registries = [StrategyRegistry(uri, clock=clock) for _ in range(4)]
    together = threading.Barrier(len(registries))
    opened: list[list[tuple[Any, ...]]] = []

    def opens(registry: StrategyRegistry) -> None:
        together.wait(30)
        registry.ledger.open().result(60)
        opened.append(brief(registry))

    threads = [threading.Thread(target=opens, args=(registry,)) for registry in registries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for registry in registries:
        registry.ledger.close()
    assert opened == [[("1", None, 101, -2.0, 2), ("1", None, 102, 1.0, 2)]] * len(registries)
    assert len(DeltaTable(uri).schema().fields) == len(SPEC.columns) + 1
    assert first_schema.height == pl.read_delta(uri).height
