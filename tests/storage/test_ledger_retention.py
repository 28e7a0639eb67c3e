"""Retention: what was superseded or had finished goes, what is current stays, and nobody sees half of it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from tallies import SPEC, Tallies, count, look
from v6kit.errors import InvalidTransitionError, RequestNotFoundError, StorageError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.ledger import Past, retention, upkeep
from v6kit.ledger.retention import HORIZON, Horizon
from v6kit.ledger.store import Store
from v6kit.queue import Outcome, Status

DAY = timedelta(days=1)


@pytest.fixture
def aged(ledger, clock):
    """A ledger with one change of A per day for five days, and B on the first day only; the instants of the changes."""
    ledger.submit(count("B")).result()
    instants = []
    for _ in range(5):
        instants.append(clock.now())
        ledger.submit(count("A")).result()
        clock.advance(DAY)
    return ledger, instants


def rows_of(uri: str) -> pl.DataFrame:
    """Return what is in the table, by any reader."""
    return pl.read_delta(uri).sort("seq")


def test_what_was_superseded_goes_and_what_is_current_stays(aged):
    """The newest state before the instant remains, so everything from there on can be answered."""
    ledger, instants = aged
    pruned = ledger.prune(instants[3]).result()
    assert pruned.rows == 2, "A of the first two days"
    assert pruned.horizon.version == 4
    assert rows_of(ledger.uri).select("name", "count").rows() == [("B", 1), ("A", 3), ("A", 4), ("A", 5)]
    assert ledger.submit(count("A")).result() == 6


def test_time_travel_ends_at_the_horizon_and_says_so(aged, clock):
    """Older versions and instants are refused with the oldest that is left; from there on every answer is as before."""
    ledger, instants = aged
    past = Past(ledger.uri, SPEC.key, clock=clock)
    before = {version: past.as_of(version).drop("seq") for version in range(4, 7)}
    ledger.prune(instants[3]).result()

    for version, frame in before.items():
        assert past.as_of(version).drop("seq").equals(frame)
    with pytest.raises(VersionUnavailableError, match=r"version 3 of \S+ was pruned; there are 4 to 9") as refused:
        past.as_of(3)
    assert (refused.value.oldest, refused.value.newest) == (4, 9)
    with pytest.raises(VersionUnavailableError, match="was pruned") as refused:
        past.as_of(instants[1])
    assert refused.value.oldest == 4
    assert past.as_of(instants[2])["count"].sort().to_list() == [1, 3]
    assert past.versions()["version"].to_list() == [5, 6]
    assert past.timeline("A")["count"].to_list() == [3, 4, 5]


def test_pruning_again_or_earlier_changes_nothing(aged):
    """The horizon never moves back, and a second removal finds nothing to do."""
    ledger, instants = aged
    first = ledger.prune(instants[3]).result()
    version = Store(ledger.uri).version
    assert ledger.prune(instants[3]).result() == (0, first.horizon)
    assert ledger.prune(instants[1]).result() == (0, first.horizon)
    assert Store(ledger.uri).version == version


def test_nothing_is_old_enough(aged):
    """The history stays whole, and no version is written."""
    ledger, instants = aged
    version = Store(ledger.uri).version
    assert ledger.prune(instants[0] - DAY).result() == (0, None)
    assert Store(ledger.uri).version == version


@pytest.mark.parametrize(
    ("before", "error", "text"),
    [
        (datetime(2030, 1, 1), ValueError, "before must be an aware"),  # noqa: DTZ001 - that is the mistake
        (datetime.fromisoformat("2100-01-01T00:00:00+00:00"), ValueError, "before must not be in the future"),
        ("yesterday", TypeError, "before must be"),
    ],
)
def test_a_wrong_instant_is_refused(ledger, before, error, text):
    """Naive, in the future, or none at all: nothing is removed."""
    with pytest.raises(error, match=text):
        ledger.prune(before)


def test_every_handle_follows_a_horizon_that_another_set(make_ledger, clock):
    """A handle that was far behind does not keep what has gone; one that opens anew sees the same."""
    one, two = make_ledger(), make_ledger()
    for name in ("A", "B", "A"):
        one.submit(count(name)).result()
    two.open().result()
    clock.advance(DAY)
    one.submit(count("A")).result()
    one.prune(clock.now()).result()
    assert two.refresh().result()
    assert two.read(look) == one.read(look) == {"A": 3, "B": 1}
    three = make_ledger()
    three.open().result()
    assert three.read(look) == {"A": 3, "B": 1}
    assert three.submit(count("B")).result() == 2


def test_the_snapshot_of_before_is_used_where_it_still_holds(aged, make_ledger):
    """Opening after a prune starts from a snapshot that is newer than the horizon, and gives the same state."""
    ledger, instants = aged
    upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    ledger.prune(instants[3]).result()
    again = make_ledger()
    again.open().result()
    assert again.read(look) == ledger.read(look) == {"A": 5, "B": 1}
    ledger.submit(count("A")).result()
    ledger.prune(ledger.clock.now()).result()
    third = make_ledger()
    third.open().result()
    assert third.read(look) == {"A": 6, "B": 1}


def test_a_removal_that_was_broken_off_shows_nothing_and_is_finished_later(aged, make_ledger, clock):
    """Between the horizon and the removal of its rows, everybody sees the ledger as if they were gone."""
    ledger, instants = aged
    horizon = Horizon(4, 4, instants[2], "")
    Store(ledger.uri).set_property(HORIZON, horizon.text())
    past = Past(ledger.uri, SPEC.key, clock=clock)
    with pytest.raises(VersionUnavailableError):
        past.as_of(2)
    assert past.timeline("A")["count"].to_list() == [3, 4, 5]
    assert rows_of(ledger.uri).height == 6
    upkeep.run(Store(ledger.uri, spec=SPEC), forget=lambda store: retention.obey(store, SPEC, clock.now()))
    assert rows_of(ledger.uri).height == 4
    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"A": 5, "B": 1}


def test_history_days_are_kept_with_the_table_and_obeyed_by_upkeep(make_ledger, clock):
    """Any process's upkeep prunes by it; a handle that says nothing leaves it as it is."""
    ledger = make_ledger(history_days=2)
    for _ in range(5):
        ledger.submit(count("A")).result()
        clock.advance(DAY)
    other = make_ledger()
    other.open().result()
    assert other.property(retention.HISTORY_DAYS) == "2"
    upkeep.run(other._new_store(), other._write_snapshot, other._forget)
    assert rows_of(ledger.uri)["count"].to_list() == [3, 4, 5]
    version = Store(ledger.uri).version
    other._forget(opened(other))
    assert Store(ledger.uri).version == version, "once an hour is enough"
    changed = make_ledger(history_days=1)
    changed.open().result()
    changed._forget(opened(changed))
    assert rows_of(ledger.uri)["count"].to_list() == [4, 5]


def test_history_days_may_mean_for_ever(make_ledger):
    """A million days ago there was no calendar: nothing is pruned, and upkeep goes on to its next step."""
    ledger = make_ledger(history_days=1_000_000)
    for _ in range(3):
        ledger.submit(count("A")).result()
    ledger._forget(opened(ledger))
    assert rows_of(ledger.uri)["count"].to_list() == [1, 2, 3]


def opened(ledger) -> Store:
    """Return a store as upkeep has it."""
    store = ledger._new_store()
    store.open()
    return store


@pytest.mark.parametrize(("days", "error"), [(0, ValueError), (1.5, TypeError)])
def test_wrong_history_days_are_refused(make_ledger, days, error):
    """A whole number from 1."""
    with pytest.raises(error, match="history_days must be"):
        make_ledger(history_days=days)


def test_a_ledger_whose_rows_have_all_gone_goes_on_counting(make_ledger, uri, clock):
    """A seq belongs to a total order for ever: no number is given out twice, and other handles see what comes."""
    finishing = {"spec": replace(SPEC, finished="count = 3"), "new_state": Tallies}
    one, two = make_ledger(**finishing), make_ledger(**finishing)
    for _ in range(3):
        one.submit(count("A")).result()
    two.open().result()
    clock.advance(DAY)
    assert one.prune(clock.now()).result().rows == 3
    assert rows_of(uri).is_empty()
    three = make_ledger(**finishing)
    assert three.submit(count("B")).result() == 1
    assert rows_of(uri)["seq"].to_list() == [4]
    assert two.refresh().result()
    assert one.refresh().result()
    assert one.read(look) == two.read(look) == three.read(look) == {"B": 1}


def test_two_that_prune_beside_writers_and_compaction_lose_nothing(make_ledger, clock):
    """Removal, compaction and changes at once: every count is there, the horizon is the later one."""
    one, two = make_ledger(), make_ledger()
    for number in range(120):
        one.submit(count(f"N{number % 5}")).result()
        clock.advance(60)
    halfway, later = clock.now() - timedelta(minutes=60), clock.now() - timedelta(minutes=10)
    stop = threading.Event()

    def keep() -> None:
        while not stop.is_set():
            try:
                upkeep.run(Store(one.uri, spec=SPEC), one._write_snapshot)
            except StorageError:
                continue

    keeper = threading.Thread(target=keep)
    keeper.start()
    futures = [ledger.prune(before) for ledger, before in ((one, halfway), (two, later))]
    changes = [ledger.submit(count("N0")) for _ in range(20) for ledger in (one, two)]
    pruned = [future.result(timeout=60) for future in futures]
    counts = sorted(change.result(timeout=60) for change in changes)
    stop.set()
    keeper.join()
    assert counts == list(range(25, 65))
    assert max(result.horizon.at for result in pruned) < later
    assert Horizon.of(Store(one.uri).properties) == max(result.horizon for result in pruned)
    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"N0": 64} | {f"N{number}": 24 for number in range(1, 5)}
    table = rows_of(one.uri)
    assert table["seq"].is_unique().all()


def test_a_reader_beside_a_prune_never_gets_half_an_answer(aged, clock):
    """Whoever reads while rows go gets the whole state, or is told that it is unavailable."""
    ledger, instants = aged
    past, stop, wrong = Past(ledger.uri, SPEC.key, clock=clock), threading.Event(), []
    expected = {version: past.as_of(version).select("name", "count").rows() for version in range(2, 7)}

    def read() -> None:
        while not stop.is_set():
            for version, rows in expected.items():
                try:
                    found = past.as_of(version).select("name", "count").rows()
                except VersionUnavailableError:
                    continue
                if found != rows:
                    wrong.append((version, found))

    reader = threading.Thread(target=read)
    reader.start()
    for instant in instants[1:]:
        ledger.prune(instant).result()
    stop.set()
    reader.join()
    assert wrong == []


def test_vacuum_never_takes_what_a_live_reader_or_the_horizon_needs(aged, make_ledger, clock):
    """However short the files' retention: handles from before it go on, and the horizon's state can be read."""
    ledger, instants = aged
    past, sleeper = Past(ledger.uri, SPEC.key, clock=clock), make_ledger()
    sleeper.open().result()
    newest = past.as_of(6).select("name", "count")
    ledger.prune(instants[3]).result()
    table = DeltaTable(ledger.uri)
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    for _ in range(2):
        upkeep.run(Store(ledger.uri, spec=SPEC), ledger._write_snapshot)
    assert {Path(file).name for file in DeltaTable(ledger.uri).file_uris()} == {
        file.name for file in Path(ledger.uri).glob("*.parquet")
    }, "nothing is left on the disk but what the newest version needs"
    assert past.as_of(6).select("name", "count").equals(newest)
    assert past.as_of(4)["count"].sort().to_list() == [1, 3]
    assert sleeper.submit(count("A")).result() == 6


def test_files_that_are_replaced_stay_for_an_hour(aged):
    """A reader of another tool that began before a prune finishes undisturbed."""
    ledger, instants = aged
    begun = DeltaTable(ledger.uri).to_pyarrow_dataset()
    ledger.prune(instants[3]).result()
    for _ in range(2):
        upkeep.run(Store(ledger.uri, spec=SPEC), ledger._write_snapshot)
    assert begun.to_table().num_rows == 6


# --- the queue ----------------------------------------------------------------------------------------------------


async def test_finished_requests_go_and_waiting_ones_stay_however_old(queue, make_queue, clock):
    """The claim that a worker holds survives as well, and an id that has gone is not found."""
    ids = await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 5)])
    batch = await queue.get_batch(3, lease=timedelta(days=9))
    await queue.settle([Outcome.success(batch[0]), Outcome.failed(batch[1], "no")])
    clock.advance(DAY)
    pruned = await queue.prune(clock.now())
    assert pruned.rows == 7
    assert rows_of(queue.uri).select("request_id", "status").rows() == [
        (ids[3], Status.PENDING),
        (ids[2], Status.PROCESSING),
    ]
    again = await make_queue().initialize()
    for handle in (queue, again):
        assert sorted(handle.current()["request_id"]) == sorted(ids[2:])
        with pytest.raises(RequestNotFoundError):
            await handle.cancel(ids[0])
    await queue.mark_success(batch[2])
    assert (await queue.redrive()) == []
    history = TableHistory(queue.uri, ["request_id"], clock=clock)
    assert history.timeline(ids[2])["status"].to_list() == [Status.PROCESSING, Status.SUCCESS]


async def test_a_worker_that_slept_through_a_prune_cannot_bring_a_request_back(make_queue, clock):
    """Its memory says pending, the table says nothing any more: it claims nothing that has ended."""
    sleeper, other = make_queue(), make_queue()
    await sleeper.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 11)])
    await other.mark_success(await other.get_batch())
    clock.advance(DAY)
    await other.prune(clock.now())
    assert await sleeper.get_batch() == []
    assert sleeper.current().is_empty()


async def test_reading_the_past_for_one_caller_does_not_keep_others_waiting(make_queue, monkeypatch):
    """A request that memory has let go is read from storage, while `stats` answers at once."""
    monkeypatch.setattr("v6kit.queue.state.FINISHED_HELD", 0)
    queue = make_queue()
    known = await queue.insert(1, "SPY")
    await queue.mark_success(await queue.get_batch())
    real, reading, go_on = Store.scan, threading.Event(), threading.Event()

    def slow(self, *args):
        reading.set()
        assert go_on.wait(30)
        return real(self, *args)

    monkeypatch.setattr(Store, "scan", slow)
    asked = asyncio.ensure_future(queue.cancel(known))
    assert await asyncio.to_thread(reading.wait, 30)
    assert queue.stats().live == 0
    go_on.set()
    with pytest.raises(InvalidTransitionError, match="SUCCESS"):
        await asked
