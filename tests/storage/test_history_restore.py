"""Restoring and blame: what becomes of the present, and who made it what it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from polars.testing import assert_frame_equal
from tallies import count
from v6kit.clock import FakeClock
from v6kit.contracts import ActiveContract
from v6kit.errors import StorageError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.ledger import Ledger
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry

CALL = {"conid": 101, "symbol": "SPY", "right": "C", "strike": 600.0, "expiry": "20261218"}
PUT = {"conid": 102, "symbol": "SPY", "right": "P", "strike": 500.0, "expiry": "20261218"}
FLY = {"conid": 103, "symbol": "QQQ", "right": "C", "strike": 400.0, "expiry": "20261218"}


@pytest.fixture
async def registry(tmp_path: Path, clock: FakeClock) -> AsyncIterator[StrategyRegistry]:
    """An open registry."""
    async with StrategyRegistry(tmp_path / "registry", clock=clock) as opened:
        yield opened


def held(registry: StrategyRegistry) -> pl.DataFrame:
    """Return what the registry holds, without how it came to be so."""
    return registry.current().drop("change", "seq", "version", "updated_at", "updated_by").sort("strategy_id", "conid")


# --- the registry ------------------------------------------------------------------------------------------------


async def test_yesterdays_strategies_come_back(registry: StrategyRegistry, clock: FakeClock):
    """Legs that were removed are active again, changed ones as they were, and those added since are removed."""
    await registry.add_strategy(1, [CALL, PUT], kind="SPREAD")
    yesterday, then = registry.ledger.version, held(registry)
    clock.advance(86_400)
    await registry.add_strategy(1, [CALL | {"quantity": -5}])
    await registry.remove_active(102)
    await registry.add_strategy("fly", [FLY])
    history = TableHistory(registry.uri, clock=clock, table=registry)
    version = await history.restore(yesterday)
    assert version == registry.ledger.version
    assert_frame_equal(held(registry), then)
    assert [registry.is_active(conid) for conid in (101, 102, 103)] == [True, True, False]
    assert history.versions().row(-1, named=True)["changes"] == "RESTORE 3"
    assert history.timeline("fly", None, 103)["change"].to_list() == ["ADD", "RESTORE"]
    assert history.timeline("fly", None, 103)["removed_at"].to_list() == [None, clock.now()]
    assert history.as_of(version - 1)["removed_at"].is_null().sum() == 2, "what was before the restore is kept"


async def test_a_restore_can_itself_be_taken_back(registry: StrategyRegistry, clock: FakeClock):
    """It is a version like any other."""
    await registry.add_strategy(1, [CALL])
    await registry.remove_strategy(1)
    await registry.add_strategy(2, [PUT])
    before, then = registry.ledger.version, held(registry)
    history = TableHistory(registry.uri, clock=clock, table=registry)
    await history.restore(1)
    assert registry.is_active(101)
    assert not registry.is_active(102)
    await history.restore(before)
    assert_frame_equal(held(registry), then)


async def test_restoring_to_before_the_first_leg_removes_all(registry: StrategyRegistry, clock: FakeClock):
    """The registry was empty then, so it is again; nothing is erased."""
    await registry.add_strategy(1, [CALL, PUT])
    history = TableHistory(registry.uri, clock=clock, table=registry)
    await history.restore(0)
    assert registry.active_legs() == []
    assert history.as_of(1)["removed_at"].to_list() == [None, None]


async def test_restoring_what_is_already_so_commits_nothing(registry: StrategyRegistry, clock: FakeClock):
    """The newest version is returned."""
    await registry.add_strategy(1, [CALL])
    history = TableHistory(registry.uri, clock=clock, table=registry)
    assert await history.restore(1) == 1
    assert await history.restore(1) == registry.ledger.version == 1


async def test_who_follows_the_registry_hears_of_a_restore(registry: StrategyRegistry, clock: FakeClock):
    """Streams begin and end by it, in this process at once and in another at its next refresh."""
    await registry.add_strategy(1, [CALL])
    await registry.add_strategy(2, [PUT])
    await registry.remove_strategy(1)
    async with StrategyRegistry(registry.uri, clock=clock) as other:
        heard: dict[str, list[tuple[list[int], list[int]]]] = {"own": [], "other": []}

        def note(whose: str, added: list[ActiveContract], removed: list[ActiveContract]) -> None:
            heard[whose].append(([leg.conid for leg in added], [leg.conid for leg in removed]))

        registry.on_change(lambda added, removed: note("own", added, removed))
        other.on_change(lambda added, removed: note("other", added, removed))
        await TableHistory(registry.uri, clock=clock, table=registry).restore(1)
        assert await other.refresh()
        assert heard == {"own": [([101], [102])], "other": [([101], [102])]}


async def test_a_restore_is_decided_on_what_others_changed_meanwhile(registry: StrategyRegistry, clock: FakeClock):
    """A leg that another process has just added is not overlooked."""
    await registry.add_strategy(1, [CALL])
    async with StrategyRegistry(registry.uri, clock=clock) as other:
        await other.add_strategy(2, [PUT])
        await TableHistory(registry.uri, clock=clock, table=registry).restore(1)
    assert [leg.conid for leg in registry.active_legs()] == [101]


async def test_a_restored_registry_opens_as_it_was_left(registry: StrategyRegistry, clock: FakeClock):
    """The rows say it all: a new process folds the same state from them."""
    await registry.add_strategy(1, [CALL, PUT])
    await registry.remove_active(101)
    await TableHistory(registry.uri, clock=clock, table=registry).restore(1)
    async with StrategyRegistry(registry.uri, clock=clock) as other:
        assert_frame_equal(held(other), held(registry))


# --- what is refused ---------------------------------------------------------------------------------------------


async def test_a_moment_that_cannot_be_looked_at_cannot_be_restored(registry: StrategyRegistry, clock: FakeClock):
    """The same words as for a look."""
    await registry.add_strategy(1, [CALL])
    history = TableHistory(registry.uri, clock=clock, table=registry)
    with pytest.raises(VersionUnavailableError, match="does not exist"):
        await history.restore(9)
    with pytest.raises(VersionUnavailableError, match="in the future"):
        await history.restore(clock.now() + timedelta(seconds=1))
    assert registry.ledger.version == 1


async def test_a_ledger_is_not_restored_behind_its_owners_back(registry: StrategyRegistry):
    """Without the open object, the error says where to get it."""
    await registry.add_strategy(1, [CALL])
    with pytest.raises(StorageError, match=r"desk\.history\(…\)\.restore\(…\)"):
        await TableHistory(registry.uri).restore(0)


async def test_the_queue_is_not_restored(queue: PositionQueue, clock: FakeClock):
    """A request ends exactly once; the error says what to do instead."""
    await queue.insert(1, "SPY")
    with pytest.raises(StorageError, match=r"position_queue is not restored: .* redrive\(\)"):
        await TableHistory(queue.uri, clock=clock, table=queue).restore(0)
    assert queue.stats().by_status["PENDING"] == 1


async def test_the_book_is_not_restored(tmp_path: Path, clock: FakeClock):
    """It says what the account holds; an old state of it would be wrong."""
    async with PositionBook(tmp_path / "book", clock=clock) as book:
        with pytest.raises(StorageError, match=r"position_updates is not restored: .* desk\.sync\(\)"):
            await TableHistory(book.uri, clock=clock, table=book).restore(0)


async def test_another_tables_object_is_refused(registry: StrategyRegistry, queue: PositionQueue):
    """A restore must not go to the wrong table."""
    with pytest.raises(ValueError, match="must be the open object of"):
        TableHistory(registry.uri, table=queue)


# --- any Delta table ---------------------------------------------------------------------------------------------


async def test_a_plain_table_is_restored_as_a_new_version(tmp_path: Path):
    """Rows and columns as they were; what was in between is still there, and the log says who did it."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [1, 2], "x": ["a", "b"]}))
    write_deltalake(place, pl.DataFrame({"n": [3], "y": [1.5]}), mode="overwrite", schema_mode="overwrite")
    history = TableHistory(place, "n")
    assert await history.restore(0) == 2
    assert history.as_of(2).rows() == [(1, "a"), (2, "b")]
    assert history.as_of(1).rows() == [(3, 1.5)]
    newest = history.versions().row(-1, named=True)
    assert (newest["operation"], newest["added"], newest["removed"]) == ("RESTORE", 2, 1)
    assert ":" in newest["updated_by"]
    assert [field.name for field in DeltaTable(place).schema().fields] == ["n", "x"]
    assert history.blame().select("n", "version").rows() == [(1, 2), (2, 2)]


async def test_a_vacuumed_version_is_not_restored(tmp_path: Path):
    """Delta would leave a table behind whose files are gone, if it is told not to mind."""
    place = tmp_path / "table"
    for number in range(3):
        write_deltalake(place, pl.DataFrame({"n": [number]}), mode="overwrite")
    DeltaTable(place).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    version = DeltaTable(place).version()
    with pytest.raises(VersionUnavailableError, match=r"version 0 .* cannot be read any more"):
        await TableHistory(place).restore(0)
    assert DeltaTable(place).version() == version


# --- blame on a ledger -------------------------------------------------------------------------------------------


async def test_blame_tells_who_last_changed_each_field_of_a_leg(registry: StrategyRegistry, clock: FakeClock):
    """Field by field: a new quantity does not make the strike newer."""
    await registry.add_strategy(1, [CALL, PUT], kind="SPREAD")
    added_at = clock.now()
    clock.advance(60)
    await registry.add_strategy(1, [CALL | {"quantity": -5}])
    blame = TableHistory(registry.uri, clock=clock).blame().filter(conid=101)
    origin = {row["column"]: row for row in blame.iter_rows(named=True)}
    assert (origin["quantity"]["value"], origin["quantity"]["version"], origin["quantity"]["change"]) == (
        "-5.0",
        2,
        "UPDATE",
    )
    assert origin["quantity"]["updated_at"] == clock.now()
    assert (origin["strike"]["version"], origin["strike"]["change"]) == (1, "ADD")
    assert origin["strike"]["updated_at"] == added_at
    assert {row["updated_by"] for row in origin.values()} == {registry.ledger.actor}
    earlier = TableHistory(registry.uri, clock=clock).blame(1).filter(conid=101, column="quantity")
    assert earlier.select("value", "version").rows() == [("1.0", 1)]


def test_blame_on_an_empty_ledger_has_its_columns(ledger: Ledger, clock: FakeClock):
    """As it has with rows."""
    history = TableHistory(ledger.uri, clock=clock)
    empty = history.blame()
    assert empty.is_empty()
    ledger.submit(count("SPY")).result()
    assert history.blame().schema == empty.schema
    assert history.blame().drop("updated_at", "updated_by").rows() == [("SPY", "count", "1", 1, "COUNT", False)]


async def test_blame_says_what_may_be_older_than_a_ledgers_horizon(registry: StrategyRegistry, clock: FakeClock):
    """Of states that were pruned nobody knows which field they changed."""
    await registry.add_strategy(1, [CALL])
    clock.advance(60)
    await registry.add_strategy(1, [CALL | {"quantity": 2}])
    clock.advance(60)
    await registry.prune(clock.now())
    await registry.add_strategy(1, [CALL | {"quantity": 3}])
    blame = TableHistory(registry.uri, clock=clock).blame()
    assert TableHistory(registry.uri, clock=clock).timeline("1", None, 101)["diff"].to_list() == ["=", "~"]
    told = {row["column"]: (row["version"], row["change"], row["or_earlier"]) for row in blame.iter_rows(named=True)}
    assert told["strike"] == (2, None, True)
    assert told["quantity"] == (registry.ledger.version, "UPDATE", False)


# --- what a ledger tells of itself -------------------------------------------------------------------------------


async def test_a_ledger_knows_its_own_key(registry: StrategyRegistry, clock: FakeClock):
    """So nobody has to give it, and a wrong one is refused."""
    await registry.add_strategy(1, [CALL])
    history = TableHistory(registry.uri, clock=clock)
    assert history.is_ledger
    assert history.key == ("strategy_id", "account", "conid")
    assert history.timeline("1", None, 101).height == 1
    with pytest.raises(ValueError, match=r"key of the ledger at .* is strategy_id, account, conid, got conid"):
        TableHistory(registry.uri, "conid").versions()
    with pytest.raises(ValueError, match="conid must be Int64, got 'x'"):
        history.timeline("1", None, "x")


def test_a_ledger_that_does_not_say_its_key_is_asked_for_it(ledger: Ledger, clock: FakeClock):
    """One that was made before ledgers did: as soon as the key is given, it is like any other."""
    ledger.submit(count("SPY")).result()
    entry = Path(ledger.uri, "_delta_log", f"{0:020}.json")
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        action.get("metaData", {"configuration": {"v6kit.key": ""}})["configuration"].pop("v6kit.key")
    entry.write_text("".join(json.dumps(action) + "\n" for action in actions))
    with pytest.raises(ValueError, match=r"does not say its key; give it: TableHistory\(uri, key="):
        TableHistory(ledger.uri, clock=clock).versions()
    assert TableHistory(ledger.uri, "name", clock=clock).timeline("SPY").height == 1


async def test_versions_of_a_ledger_count_as_diff_does(queue: PositionQueue, clock: FakeClock):
    """Added, changed and removed of each version are the signs of its difference to the one before."""
    await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 6)])
    batch = await queue.get_batch(2)
    await asyncio.gather(queue.mark_success(batch), queue.insert(9, "QQQ"))
    history = TableHistory(queue.uri, clock=clock)
    versions = history.versions()
    assert versions["readable"].all()
    assert versions["operation"].to_list()[:2] == ["INSERT", "CLAIM"]
    for row in versions.iter_rows(named=True):
        signs = history.diff(row["version"] - 1, row["version"])["diff"].to_list()
        assert (row["added"], row["changed"], row["removed"]) == tuple(map(signs.count, "+~-"))


async def test_a_cell_shows_what_a_ledger_reaches_to(registry: StrategyRegistry, clock: FakeClock):
    """Kind, key, versions and rows."""
    await registry.add_strategy(1, [CALL, PUT])
    html = TableHistory(registry.uri, clock=clock)._repr_html_()
    for text in ("ledger of v6kit", "strategy_id, account, conid", "0 to 1", "2026-11-20 14:30:00 UTC"):
        assert text in html
