"""After a power cut: what was torn goes aside, the longest whole prefix of the history opens, nothing else moves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl
import psutil
import pytest
from deltalake import DeltaTable, write_deltalake
from tallies import count, look
from v6kit.errors import SchemaMismatchError, StorageError
from v6kit.ledger import durability, snapshot, upkeep
from v6kit.ledger.store import Store

CHANGES = 5


@pytest.fixture
def folder(make_ledger, monkeypatch) -> Path:
    """A ledger that counted to five, one commit each (versions 1 to 5), closed; upkeep waits to be called."""
    monkeypatch.setattr(upkeep, "is_due", lambda *_: False)
    ledger = make_ledger()
    for _ in range(CHANGES):
        ledger.submit(count("SPY")).result()
    ledger.close()
    return Path(ledger.uri)


def entry(folder: Path, version: int) -> Path:
    """Return the log entry of a version."""
    return folder / "_delta_log" / f"{version:020}.json"


def data_file(folder: Path, version: int) -> Path:
    """Return the file that a version added."""
    (add,) = durability._adds(durability._parsed(entry(folder, version)))
    return folder / add["path"]


def after_restart(folder: Path) -> Path:
    """Make the log look as if this machine had started since."""
    before = psutil.boot_time() - 60
    for path in (folder / "_delta_log").iterdir():
        os.utime(path, (before, before))
    return folder


def empty(path: Path) -> None:
    """Lose what a file held."""
    path.write_bytes(b"")


def halve(path: Path) -> None:
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def keep_first_line(path: Path) -> None:
    """Lose all but the first line, which parses."""
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def zero(path: Path) -> None:
    """Lose what a file held, but not its size."""
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path) -> None:
    """Lose a file and its name."""
    path.unlink()


@pytest.mark.parametrize("version", [1, 3, CHANGES])
@pytest.mark.parametrize(
    ("part", "damage"),
    [
        (entry, empty), (entry, halve), (entry, keep_first_line), (entry, zero),
        (data_file, empty), (data_file, halve), (data_file, zero), (data_file, remove),
    ],
)  # fmt: skip
def test_a_torn_commit_and_all_after_it_go_aside(make_ledger, folder, caplog, version, part, damage):  # noqa: PLR0917
    """The counts before it are there, nothing of it or after it is; the warning names the table and the entry."""
    damage(part(folder, version))
    after_restart(folder)
    ledger = make_ledger()
    ledger.open().result()
    assert ledger.read(look) == ({"SPY": version - 1} if version > 1 else {})
    assert "torn by a power cut" in caplog.text
    assert entry(folder, version).name in caplog.text
    assert entry(folder, version).with_suffix(".json.torn").exists()
    assert ledger.submit(count("SPY")).result() == version
    assert pl.read_delta(str(folder))["seq"].sort().to_list() == list(range(1, version + 1))


@pytest.mark.parametrize("damage", [halve, remove])
def test_damage_of_any_other_cause_is_an_error_and_moves_nothing(make_ledger, folder, fingerprint, damage):
    """This machine has not started anew since, so no power cut did it: somebody must look."""
    damage(data_file(folder, 3))
    before = fingerprint(folder)
    with pytest.raises(StorageError, match="reading new rows failed"):
        make_ledger().open().result()
    assert fingerprint(folder) == before


def test_a_missing_entry_leaves_no_hole(make_ledger, folder):
    """What stands above a gap cannot be read without what is missing."""
    remove(entry(folder, 3))
    after_restart(folder)
    ledger = make_ledger()
    ledger.open().result()
    assert ledger.read(look) == {"SPY": 2}


@pytest.mark.parametrize("damage", [empty, halve, zero])
def test_a_torn_checkpoint_goes_aside_while_the_log_has_it_all(make_ledger, folder, damage):
    """Deltalake would not open the table, though every entry is there."""
    table = DeltaTable(folder)
    table.create_checkpoint()
    damage(next((folder / "_delta_log").glob("*.checkpoint.parquet")))
    after_restart(folder)
    ledger = make_ledger()
    ledger.open().result()
    assert ledger.read(look) == {"SPY": CHANGES}
    assert ledger.submit(count("SPY")).result() == CHANGES + 1


def test_entries_below_a_checkpoint_may_be_torn(make_ledger, folder, fingerprint):
    """Nobody reads them, so nothing is moved."""
    DeltaTable(folder).create_checkpoint()
    empty(entry(folder, 2))
    after_restart(folder)
    before = fingerprint(folder)
    ledger = make_ledger()
    ledger.open().result()
    assert ledger.read(look) == {"SPY": CHANGES}
    assert fingerprint(folder) == before


def test_a_snapshot_that_knows_more_than_the_log_is_not_believed(make_ledger, folder):
    """Memory would hold what the table does not."""
    ledger = make_ledger()
    ledger.open().result()
    upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    ledger.submit(count("SPY")).result()
    snapshot.write(opened(folder), snapshot.Snapshot(*held(ledger)), {})
    ledger.close()
    empty(max((folder / "_delta_log").glob("*.json")))
    after_restart(folder)
    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"SPY": CHANGES}


def opened(folder: Path) -> Store:
    """Return a store at the newest version."""
    store = Store(folder)
    store.open()
    return store


def held(ledger):
    """Return what a snapshot of the ledger consists of."""
    rows, seq, updated_at = ledger._fold.held()
    return ledger.spec.gather(rows), seq, updated_at


def test_a_torn_snapshot_costs_time_and_is_made_anew(make_ledger, folder):
    """It is a cache: the ledger is folded, and the next turn of upkeep writes a whole one."""
    ledger = make_ledger()
    ledger.open().result()
    for _ in range(2):
        upkeep.run(Store(ledger.uri), ledger._write_snapshot)
    for path in (folder / snapshot.FOLDER / "_delta_log").iterdir():
        empty(path)
    again = make_ledger()
    again.open().result()
    assert again.read(look) == {"SPY": CHANGES}
    upkeep.run(Store(ledger.uri), again._write_snapshot)
    assert snapshot.read(opened(folder), ledger.spec, {}).seq == CHANGES


def test_a_foreign_table_is_never_mended(make_ledger, uri, fingerprint):
    """Torn or not, it is not ours to move."""
    write_deltalake(uri, pl.DataFrame({"a": [1]}))
    write_deltalake(uri, pl.DataFrame({"a": [2]}), mode="append")
    halve(entry(Path(uri), 1))
    after_restart(Path(uri))
    before = fingerprint(uri)
    with pytest.raises(StorageError) as refused:
        make_ledger().open().result()
    assert not isinstance(refused.value, SchemaMismatchError)
    assert fingerprint(uri) == before


def test_a_log_without_ground_to_stand_on_is_left_alone(make_ledger, folder, fingerprint):
    """More is missing than a power cut takes: an error that names the place, and nothing moves."""
    remove(entry(folder, 0))
    after_restart(folder)
    before = fingerprint(folder)
    with pytest.raises(StorageError, match="opening the table failed"):
        make_ledger().open().result()
    assert fingerprint(folder) == before


def test_a_clean_up_under_way_is_not_taken_for_damage(folder, monkeypatch, fingerprint):
    """Entries that go while somebody looks at the log have been replaced by a checkpoint."""
    real = durability._parsed

    def cleaned_up_meanwhile(path: Path):
        DeltaTable(folder).create_checkpoint()
        entry(folder, 1).unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(durability, "_parsed", cleaned_up_meanwhile)
    after_restart(folder)
    before = fingerprint(folder).keys()
    durability.mend(folder)
    assert not list((folder / "_delta_log").glob("*.torn"))
    assert before - fingerprint(folder).keys() == {f"_delta_log/{entry(folder, 1).name}"}


def test_a_table_whose_creation_was_torn_is_made_anew(make_ledger, folder):
    """Nothing is in it, so nothing is lost: the empty entry goes aside."""
    for version in range(1, CHANGES + 1):
        remove(entry(folder, version))
    empty(entry(folder, 0))
    after_restart(folder)
    ledger = make_ledger()
    assert ledger.submit(count("SPY")).result() == 1


def test_a_lock_that_was_left_behind_stops_nobody(make_ledger, folder):
    """A process that was killed while it mended does not keep the next one from doing it."""
    halve(entry(folder, CHANGES))
    (folder / "_delta_log" / "_mend.lock").touch()
    after_restart(folder)
    ledger = make_ledger()
    ledger.open().result()
    assert ledger.read(look) == {"SPY": CHANGES - 1}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("durable", ["process", "power"])
def test_both_kinds_of_durability_open_each_others_tables(make_ledger, durable):
    """It is a promise of the handle, not a format."""
    ledger = make_ledger(durable=durable)
    assert ledger.submit(count("SPY")).result() == CHANGES + 1


def test_power_syncs_each_commit_before_its_caller_hears_of_it(make_ledger, monkeypatch):
    """Data file, log entry and both folders; what others committed in between as well."""
    other, ledger = make_ledger(), make_ledger(durable="power")
    ledger.submit(count("SPY")).result()
    other.submit(count("SPY")).result()
    synced: list[Path] = []
    real = durability._sync_file
    monkeypatch.setattr(durability, "_sync_file", lambda path: (synced.append(path), real(path)))
    ledger.submit(count("SPY")).result()
    folder = Path(ledger.uri)
    assert synced == [path for version in (2, 3) for path in (data_file(folder, version), entry(folder, version))]


def test_a_disk_that_refuses_to_sync_is_told_to_the_caller(make_ledger, monkeypatch):
    """The change stands in the table, but nobody may believe that it is durable."""
    ledger = make_ledger(durable="power")
    ledger.open().result()

    def refuse(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(durability, "_sync_file", refuse)
        with pytest.raises(StorageError, match=r"syncing a commit, which stands, to the disk failed .*Input/output"):
            ledger.submit(count("SPY")).result()
    assert ledger.submit(count("SPY")).result() == 2


def test_a_folder_above_that_may_be_passed_but_not_read_stops_nobody(make_ledger, monkeypatch):
    """Whoever owns it: the lake's own folders are synced, and neither a change nor upkeep fails for it."""
    ledger = make_ledger(durable="power")
    above, opened = Path(ledger.uri).parent, os.open

    def refuse(path: str | Path, *args: object, **kwargs: object) -> int:
        if path in (above, str(above)):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert ledger.submit(count("SPY")).result() == 1
    upkeep.run(ledger._new_store())


def test_an_unknown_kind_of_durability_is_refused(make_ledger):
    """With the two that there are."""
    with pytest.raises(ValueError, match=r"durable must be 'process' .* or 'power' .*, got 'yes'"):
        make_ledger(durable="yes")


def test_a_table_that_is_moved_away_and_put_back_is_found(make_ledger, folder):
    """An idle look notices that the table is gone."""
    ledger = make_ledger()
    ledger.open().result()
    aside = folder.with_name("aside")
    shutil.move(folder, aside)
    with pytest.raises(StorageError, match="is gone; put it back"):
        ledger.refresh().result()
    shutil.move(aside, folder)
    assert ledger.refresh().result() is False
