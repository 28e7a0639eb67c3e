"""Upkeep: costs do not grow with age, by itself, and never at the expense of a user's call."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable
from tallies import SPEC, count, look
from v6kit.errors import StorageError
from v6kit.ledger import Past, upkeep
from v6kit.ledger import store as store_module
from v6kit.ledger.faults import OvertakenError
from v6kit.ledger.spec import UNTIL
from v6kit.ledger.store import Store

COMMITS = 600


@pytest.fixture
def _no_retention(monkeypatch):
    """Let log entries expire at once; else those of 600 quick commits would all be young."""
    monkeypatch.setattr(store_module, "_RETENTION", {"delta.logRetentionDuration": "interval 0 seconds"})


@pytest.mark.usefixtures("_no_retention")
def test_files_and_log_stay_few_over_600_commits(make_ledger):
    """Upkeep runs by itself: compaction, checkpoints, a short log; the content and its whole past remain."""
    ledger = make_ledger()
    for number in range(COMMITS):
        ledger.submit(count(f"N{number % 7}")).result()
    ledger.close()

    folder = Path(ledger.uri)
    table = DeltaTable(folder)
    log = [path.name for path in (folder / "_delta_log").iterdir()]
    assert len(table.file_uris()) < 2 * upkeep.COMMITS_PER_TURN
    assert len(log) < 3 * upkeep.COMMITS_PER_TURN
    assert any(name.endswith(".checkpoint.parquet") for name in log)
    assert (folder / "_snapshot" / "_delta_log").is_dir()

    # Nobody writes now, so replaced files may go at once.
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    upkeep.run(Store(ledger.uri))
    assert len(list(folder.glob("*.parquet"))) == len(DeltaTable(folder).file_uris())

    again = make_ledger()
    again.open().result()
    assert sum(again.read(look).values()) == COMMITS
    past = Past(ledger.uri, ["name"])
    assert past.timeline("N0").height == len(range(0, COMMITS, 7))
    assert past.as_of(1)["count"].to_list() == [1], "time travel goes beyond what the log still has"


@pytest.mark.usefixtures("only_asked_turns")
def test_what_upkeep_notes_of_superseded_rows_changes_no_answer(make_ledger, clock):
    """Every version and every instant, before a compaction and after it, and of changes that came later."""
    ledger = make_ledger()
    instants = []
    for number in range(60):
        ledger.submit(count(f"N{number % 7}")).result()
        instants.append(clock.now())
        clock.advance(1)
    past = Past(ledger.uri, ["name"], clock=clock)
    before = [past.as_of(when) for when in (*range(61), *instants)]
    upkeep.run(ledger._new_store(), ledger._write_snapshot)
    noted = pl.read_delta(ledger.uri)[UNTIL]
    assert noted.null_count() == 7, "all but the newest of each key were superseded"
    assert all(past.as_of(when).equals(frame) for when, frame in zip((*range(61), *instants), before, strict=True))
    ledger.submit(count("N0")).result()
    assert past.as_of(Store(ledger.uri).version)["count"].sort().to_list() == [8, 8, 8, 9, 9, 9, 10]


def test_a_table_from_before_the_notes_gets_their_column(make_ledger, uri, monkeypatch):
    """Opening adds the column; rows and answers stay as they are."""
    with monkeypatch.context() as earlier:
        earlier.setattr(store_module, "on_disk", lambda frame: frame)
        earlier.setattr(store_module, "UNTIL", "name")
        old = make_ledger()
        old.submit(count("SPY")).result()
        old.close()
    assert UNTIL not in pl.read_delta(uri).columns
    ledger = make_ledger()
    assert ledger.submit(count("SPY")).result() == 2
    assert UNTIL in pl.read_delta(uri).columns
    upkeep.run(ledger._new_store(), ledger._write_snapshot)
    assert Past(uri, ["name"]).timeline("SPY")["count"].to_list() == [1, 2]


def test_upkeep_beside_busy_writers_loses_nothing(make_ledger):
    """Turns of upkeep run one after the other while two handles write."""
    one, two = make_ledger(), make_ledger()
    stop = threading.Event()

    def keep() -> None:
        while not stop.is_set():
            try:
                upkeep.run(Store(one.uri), one._write_snapshot)
            except StorageError:
                continue

    one.open().result()
    keeper = threading.Thread(target=keep)
    keeper.start()
    futures = []
    for _ in range(60):
        futures += [one.submit(count("SPY")), two.submit(count("SPY"))]
        futures[-1].result()
    stop.set()
    keeper.join()

    assert sorted(future.result() for future in futures) == list(range(1, 121))
    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"SPY": 120}


def test_two_compactions_at_once_never_double_a_row(make_ledger):
    """The second one is refused, appends go on beside both; deltalake's own compaction would leave every row twice."""
    ledger = make_ledger()
    for _ in range(10):
        ledger.submit(count("SPY")).result()
    one, two = Store(ledger.uri), Store(ledger.uri)
    one.open()
    two.open()
    ledger.submit(count("SPY")).result()

    one.compact(upkeep.TARGET_BYTES)
    with pytest.raises(StorageError, match="compacting failed"):
        two.compact(upkeep.TARGET_BYTES)

    store = Store(ledger.uri)
    assert store.rows_since(0, SPEC.empty())["seq"].to_list() == list(range(1, 12))
    assert store.files().height == 2
    assert ledger.submit(count("SPY")).result() == 12


def test_files_that_belong_to_no_version_are_removed_when_they_are_old(make_ledger):
    """A writer that lost a race or was killed leaves a data file behind; it does not stay for ever."""
    ledger = make_ledger()
    ledger.submit(count("SPY")).result()
    orphan = Path(ledger.uri) / "part-00000-of-a-lost-race.snappy.parquet"
    orphan.write_bytes(b"")
    Store(ledger.uri).vacuum()
    assert orphan.exists(), "it is young, so its commit may be under way"
    long_ago = time.time() - store_module.FILE_RETENTION.total_seconds() - 60
    os.utime(orphan, (long_ago, long_ago))
    Store(ledger.uri).vacuum()
    assert not orphan.exists()
    assert ledger.submit(count("SPY")).result() == 2


@pytest.mark.parametrize("name", ["notes.txt", "book/part-00000-of-another-table.snappy.parquet", "mine.parquet"])
def test_what_others_keep_below_the_table_is_left_alone(make_ledger, name):
    """Another table in a folder below, or somebody's notes: however old, they are not ours to remove."""
    ledger = make_ledger()
    ledger.submit(count("SPY")).result()
    foreign = Path(ledger.uri) / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"")
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(foreign, (long_ago, long_ago))
    upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    assert foreign.exists()
    assert list((Path(ledger.uri) / "_snapshot").glob("*.parquet"))


def test_large_files_are_left_alone(make_ledger):
    """Compaction merges what is small; a file at the target size is never rewritten."""
    ledger = make_ledger()
    for _ in range(6):
        ledger.submit(count("SPY")).result()
    store = Store(ledger.uri)
    sizes = store.files()["size_bytes"]
    store.compact(int(sizes.min()))
    assert store.files().height == 6
    store.compact(upkeep.TARGET_BYTES)
    assert store.files().height == 1


def test_a_failed_upkeep_is_logged_and_fails_nobody(make_ledger, monkeypatch, caplog):
    """Storage that refuses every kind of upkeep leaves the changes alone."""
    monkeypatch.setattr(upkeep, "COMMITS_PER_TURN", 5)
    monkeypatch.setattr(upkeep, "SMALL_FILES_DUE", 1)

    def refuse(*_args: object) -> None:
        raise StorageError("compacting failed")

    monkeypatch.setattr(Store, "compact", refuse)
    ledger = make_ledger()
    for number in range(1, 21):
        assert ledger.submit(count("SPY")).result() == number
    ledger.close()
    assert "put off to the next turn" in caplog.text


def test_an_upkeep_that_another_process_has_overtaken_alarms_nobody(make_ledger, monkeypatch, caplog):
    """Two writers may do it at once; the one that comes second has nothing to complain about."""
    monkeypatch.setattr(upkeep, "COMMITS_PER_TURN", 5)
    monkeypatch.setattr(upkeep, "SMALL_FILES_DUE", 1)
    ledger, replace, overtaken = make_ledger(), Store.replace, threading.Event()

    def second(store: Store, low: int, high: int, *rest: object) -> None:
        other = Store(store.uri)
        other.open()
        replace(other, low, high, *rest)
        overtaken.set()
        replace(store, low, high, *rest)

    monkeypatch.setattr(Store, "replace", second)
    with caplog.at_level("DEBUG", "v6kit.ledger"):
        for number in range(1, 13):
            assert ledger.submit(count("SPY")).result() == number
        assert overtaken.wait(10)
        ledger.close()
    assert "another process does the upkeep" in caplog.text
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_snapshot_that_another_process_has_just_written_will_do(make_ledger, monkeypatch):
    """Of two that replace it at once, the second is overtaken and not broken."""
    ledger = make_ledger()
    ledger.submit(count("SPY")).result()
    store = Store(ledger.uri)
    upkeep.run(store, ledger._write_snapshot)
    write = store_module.write_deltalake

    def second(uri: object, *rest: object, **options: object) -> None:
        if str(uri).endswith("_snapshot"):
            held = DeltaTable(uri)  # as it was when this one looked
            write(uri, *rest, **options)
            write(held, *rest, **options | {"commit_properties": CommitProperties(max_commit_retries=0)})
        else:
            write(uri, *rest, **options)

    monkeypatch.setattr(store_module, "write_deltalake", second)
    with pytest.raises(OvertakenError):
        upkeep.run(store, ledger._write_snapshot)


def test_an_upkeep_that_meets_a_bug_says_so(make_ledger, monkeypatch, caplog):
    """An error that is no storage error is logged with its traceback, not lost on the thread."""
    monkeypatch.setattr(upkeep, "COMMITS_PER_TURN", 5)

    def stumble(*_args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Store, "checkpoint", stumble)
    ledger = make_ledger()
    for _ in range(12):
        ledger.submit(count("SPY")).result()
    ledger.close()
    assert "RuntimeError: a bug" in caplog.text


def test_a_snapshot_that_cannot_be_written_does_not_keep_the_log_from_being_cleaned(make_ledger, monkeypatch):
    """The snapshot is the one step that can be done without, so it comes last."""
    ledger = make_ledger()
    ledger.submit(count("SPY")).result()

    def refuse(*_args: object) -> None:
        raise StorageError("writing the snapshot failed")

    monkeypatch.setattr(Store, "overwrite", refuse)
    with pytest.raises(StorageError, match="snapshot"):
        upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    assert list((Path(ledger.uri) / "_delta_log").glob("*.checkpoint.parquet"))
