"""Opening: what is ours, what is not, what is older, and the snapshot that saves folding the past."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from tallies import NEXT_SPEC, SPEC, NotedTallies, NotedTally, Tallies, count, look
from v6kit.errors import SchemaMismatchError, StorageError
from v6kit.ledger import Decision, snapshot, upkeep
from v6kit.ledger.spec import UNTIL
from v6kit.ledger.store import SCHEMA_PROPERTY, Store


def test_opening_creates_an_empty_table_with_every_column(ledger):
    """The first opening makes version 0; the second finds it."""
    table = DeltaTable(ledger.uri)
    assert table.version() == 0
    assert [field.name for field in table.schema().fields] == [*SPEC.columns, UNTIL]
    assert table.metadata().configuration[SCHEMA_PROPERTY] == "tally/1"
    assert ledger.open().result() is None
    assert DeltaTable(ledger.uri).version() == 0


def test_ten_handles_that_open_a_new_lake_at_once_share_one_table(make_ledger):
    """Only one of them creates it; the others find it, and all can write."""
    ledgers = [make_ledger() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda ledger: ledger.submit(count("SPY")).result(), ledgers))
    ledgers[0].refresh().result()
    assert ledgers[0].read(look) == {"SPY": 10}


def test_a_plain_delta_table_is_refused_and_not_touched(make_ledger, uri, fingerprint):
    """Somebody's own table in this place stays as it is, byte by byte."""
    write_deltalake(uri, pl.DataFrame({"name": ["SPY"], "count": [1]}))
    before = fingerprint(uri)

    with pytest.raises(SchemaMismatchError, match=r"is not one of v6kit's .columns: name, count.*nothing was touched"):
        make_ledger().open().result()
    assert fingerprint(uri) == before


def test_another_kind_of_ledger_is_refused_and_not_touched(make_ledger, ledger, fingerprint):
    """A ledger of another kind is recognised by what it says of itself."""
    ledger.submit(count("SPY")).result()
    before = fingerprint(ledger.uri)
    other = SPEC.__class__(name="other", key=SPEC.key, columns=SPEC.columns, row=SPEC.row)

    with pytest.raises(SchemaMismatchError, match="is a 'tally' ledger, not 'other'"):
        make_ledger(spec=other).open().result()
    assert fingerprint(ledger.uri) == before


def test_a_newer_schema_is_refused_and_not_touched(make_ledger, fingerprint):
    """A table that a later v6kit wrote is left alone by an older one, which says what to do."""
    newer = make_ledger(spec=NEXT_SPEC, new_state=NotedTallies)
    newer.open().result()
    before = fingerprint(newer.uri)

    with pytest.raises(SchemaMismatchError, match="schema 2 of 'tally', this v6kit knows up to 1; update v6kit"):
        make_ledger().open().result()
    assert fingerprint(newer.uri) == before


def test_a_table_that_lost_a_column_is_refused(make_ledger, uri):
    """A table that claims our schema but lacks a column is named as such."""
    columns = {name: kind for name, kind in SPEC.columns.items() if name != "count"}
    write_deltalake(uri, pl.DataFrame(schema=columns))
    DeltaTable(uri).alter.set_table_properties({SCHEMA_PROPERTY: "tally/1"}, raise_if_not_exists=False)

    with pytest.raises(SchemaMismatchError, match="lacks count"):
        make_ledger().open().result()


def test_an_older_schema_is_migrated_by_appending(make_ledger):
    """No file of the past is rewritten; the rows read null in the new column, and old and new rows are one ledger."""
    old = make_ledger()
    old.submit(count("SPY")).result()
    old.close()
    files = set(DeltaTable(old.uri).file_uris())

    ledger = make_ledger(spec=NEXT_SPEC, new_state=NotedTallies)
    ledger.submit(lambda _state, _moment: Decision([NotedTally("QQQ", 5, "a note", "COUNT")], None)).result()

    assert files <= set(DeltaTable(old.uri).file_uris())
    assert ledger.read(lambda state: {name: (row.count, row.note) for name, row in state.rows.items()}) == {
        "SPY": (1, None),
        "QQQ": (5, "a note"),
    }
    assert DeltaTable(old.uri).metadata().configuration[SCHEMA_PROPERTY] == "tally/2"
    again = make_ledger(spec=NEXT_SPEC, new_state=NotedTallies)
    again.open().result()
    assert again.read(look) == {"SPY": 1, "QQQ": 5}


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(make_ledger, uri):
    """Neither the file nor anything beside it is touched."""
    Path(uri).parent.mkdir()
    Path(uri).write_text("not a table")

    with pytest.raises(StorageError, match="is a file, so there can be no table"):
        make_ledger().open().result()
    assert Path(uri).read_text() == "not a table"
    with pytest.raises(StorageError, match="is a file"):
        make_ledger(uri=f"{uri}/below").open().result()


@pytest.mark.parametrize("name", ["a[1]", "a%20b"])
def test_a_path_that_deltalake_cannot_read_is_refused_before_anything_is_written(make_ledger, tmp_path, name):
    """The library panics at brackets and decodes per cent signs; the error says which character it is."""
    with pytest.raises(StorageError, match="rename the folder"):
        make_ledger(uri=tmp_path / name / "table").open().result()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my lake", "star*", "what?", "strategy=1", "Zürich", "it's", "{a,b}", "a#b"])
def test_unusual_paths_work(make_ledger, tmp_path, name):
    """Blanks, wildcards and quotes in a folder's name are only characters."""
    uri = tmp_path / name / "table"
    make_ledger(uri=uri).submit(count("SPY")).result()
    again = make_ledger(uri=uri)
    again.open().result()
    assert again.read(look) == {"SPY": 1}


def test_a_file_uri_is_the_path_that_it_names(make_ledger, tmp_path):
    """`file://` with an escaped blank leads to the folder with a blank."""
    ledger = make_ledger(uri=f"file://{tmp_path}/my%20lake")
    ledger.submit(count("SPY")).result()
    assert ledger.uri == str(tmp_path / "my lake")
    assert (tmp_path / "my lake" / "_delta_log").is_dir()


def test_a_storage_that_nobody_knows_is_a_storage_error(make_ledger):
    """An unknown scheme is a `StorageError`, not something of deltalake's own."""
    with pytest.raises(StorageError, match="nowhere"):
        make_ledger(uri="nowhere://lake/table").open().result()


def test_a_table_that_vanished_fails_changes_clearly_until_it_is_back(ledger):
    """The folder is gone: no change is made up on nothing; a backup that is put back is used again."""
    ledger.submit(count("SPY")).result()
    aside = Path(ledger.uri).with_name("aside")
    shutil.move(ledger.uri, aside)
    with pytest.raises(StorageError, match="is gone; put it back"):
        ledger.submit(count("SPY")).result()
    shutil.rmtree(ledger.uri)
    shutil.move(aside, ledger.uri)

    assert ledger.submit(count("SPY")).result() == 2


# --- the snapshot -------------------------------------------------------------------------------------------------


def with_snapshot(ledger) -> Store:
    """Do one turn of upkeep with a snapshot, and return the snapshot's table."""
    upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    return Store(f"{ledger.uri}/{snapshot.FOLDER}")


@pytest.mark.usefixtures("only_asked_turns")
def test_opening_starts_from_the_snapshot_and_reads_only_newer_files(make_ledger, monkeypatch):
    """What the snapshot has seen is not read again, even where its rows came from elsewhere."""
    first = make_ledger()
    for name in ("SPY", "QQQ", "IWM"):
        first.submit(count(name)).result()
    with_snapshot(first)
    first.submit(count("DIA")).result()
    asked: list[int] = []
    rows_since = Store.rows_since

    def watch(store: Store, seq: int, empty: pl.DataFrame) -> pl.DataFrame:
        asked.append(seq)
        return rows_since(store, seq, empty)

    monkeypatch.setattr(Store, "rows_since", watch)
    second = make_ledger()
    second.open().result()

    assert asked == [3]
    assert second.read(look) == {"SPY": 1, "QQQ": 1, "IWM": 1, "DIA": 1}
    assert second.submit(count("SPY")).result() == 2
    assert second.read(lambda state: state.rows["SPY"].seq) == 5


def test_the_snapshot_is_still_found_after_a_vacuum(ledger, monkeypatch):
    """Vacuum leaves commits of its own on top; the snapshot below them counts."""
    monkeypatch.setattr("v6kit.ledger.store._RETENTION", {"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    ledger.submit(count("SPY")).result()
    with_snapshot(ledger)
    beside = with_snapshot(ledger)
    assert beside.table.history(1)[0]["operation"] == "VACUUM END", "nothing was vacuumed, so this test shows nothing"

    assert snapshot.read(Store(ledger.uri), SPEC, {}).seq == 1


def test_a_state_that_dropped_its_newest_row_keeps_time_over_a_restart(make_ledger, clock):
    """updated_at never decreases along seq, even if the snapshot no longer holds the row that had the latest one."""

    class Forgetful(Tallies):
        """Holds nothing."""

        def held(self) -> list:
            return []

    ledger = make_ledger(new_state=Forgetful)
    clock.advance(3600)
    ledger.submit(count("SPY")).result()
    latest = clock.now()
    with_snapshot(ledger)
    ledger.close()
    clock.advance(1)
    clock.jump(type(clock)().now())

    again = make_ledger(new_state=Forgetful)
    again.submit(count("QQQ")).result()
    assert Store(again.uri).rows_since(0, SPEC.empty())["updated_at"].to_list() == [latest, latest]


def damage_log(folder: Path) -> None:
    """Leave a log that is no log."""
    for entry in (folder / "_delta_log").iterdir():
        entry.write_bytes(b"garbage")


def damage_files(folder: Path) -> None:
    """Take the data away."""
    for file in folder.glob("*.parquet"):
        file.unlink()


def replace_by_foreign(folder: Path) -> None:
    """Put the snapshot of another table there."""
    shutil.rmtree(folder)
    write_deltalake(folder, pl.DataFrame({"name": ["WRONG"]}))


def replace_by_file(folder: Path) -> None:
    """Put a file there."""
    shutil.rmtree(folder)
    folder.write_text("garbage")


@pytest.mark.parametrize("damage", [damage_log, damage_files, replace_by_foreign, replace_by_file])
def test_a_broken_or_foreign_snapshot_costs_time_and_nothing_else(make_ledger, ledger, damage):
    """The whole ledger is folded instead."""
    ledger.submit(count("SPY")).result()
    ledger.submit(count("QQQ")).result()
    damage(Path(with_snapshot(ledger).uri))

    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"SPY": 1, "QQQ": 1}
    assert again.submit(count("SPY")).result() == 2


def test_the_snapshot_of_a_table_that_was_made_anew_is_not_used(make_ledger, ledger):
    """The table's id tells that this snapshot belongs to another life of the folder."""
    ledger.submit(count("SPY")).result()
    with_snapshot(ledger)
    ledger.close()
    shutil.rmtree(Path(ledger.uri) / "_delta_log")

    anew = make_ledger()
    anew.open().result()
    assert anew.read(look) == {}


def test_the_snapshot_follows_a_migration(make_ledger, ledger):
    """After a new column came, the snapshot has it too."""
    ledger.submit(count("SPY")).result()
    with_snapshot(ledger)
    ledger.close()
    newer = make_ledger(spec=NEXT_SPEC, new_state=NotedTallies)
    newer.submit(lambda _state, _moment: Decision([NotedTally("QQQ", 5, "a note", "COUNT")], None)).result()
    with_snapshot(newer)

    again = make_ledger(spec=NEXT_SPEC, new_state=NotedTallies)
    again.open().result()
    assert again.read(lambda state: {name: row.note for name, row in state.rows.items()}) == {
        "SPY": None,
        "QQQ": "a note",
    }


def test_a_snapshot_that_is_replaced_while_it_is_read_is_read_as_one(make_ledger, ledger, monkeypatch):
    """The rows of one snapshot are never taken for those of the next one."""
    ledger.submit(count("SPY")).result()
    with_snapshot(ledger)
    scan = Store.scan
    pending = [lambda: ledger.submit(count("SPY")).result(), lambda: with_snapshot(ledger)]

    def replaced_meanwhile(store: Store, *args):
        while store.uri.endswith(snapshot.FOLDER) and pending:
            pending.pop(0)()
        return scan(store, *args)

    monkeypatch.setattr(Store, "scan", replaced_meanwhile)
    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"SPY": 2}
