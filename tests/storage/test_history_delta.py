"""The past of Delta tables that are no ledgers: as deltalake, Polars, pandas and Spark-like writers leave them."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import handmade
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from IPython.lib.pretty import pretty
from polars.testing import assert_frame_equal
from v6kit.clock import FakeClock
from v6kit.errors import StorageError, TableMissingError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.ledger.moments import VERSIONS_SCHEMA

NASTY = 'O\'Neil "<b>&amp;</b>" ; DROP TABLE x --'


def vacuum(table: Path) -> None:
    """Remove every file that the newest version does not need."""
    DeltaTable(table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table that went through an insert, an append, an update, a delete, a merge and an overwrite."""
    place = tmp_path / "legs"
    write_deltalake(place, pl.DataFrame({"conid": [1, 2, 3], "symbol": ["SPY", "QQQ", "IWM"]}))
    who = CommitProperties(custom_metadata={"userName": "ann", "userMetadata": "one more"})
    write_deltalake(place, pl.DataFrame({"conid": [4], "symbol": ["DIA"]}), mode="append", commit_properties=who)
    DeltaTable(place).update(new_values={"symbol": "QQQM"}, predicate="conid = 2")
    DeltaTable(place).delete("conid = 1")
    source = pa.table({"conid": [4, 9], "symbol": ["DIA2", "TLT"]})
    merge = DeltaTable(place).merge(source, "t.conid = s.conid", "s", "t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()
    write_deltalake(place, pl.DataFrame({"conid": [9], "symbol": ["TLT"]}), mode="overwrite")
    return place


@pytest.fixture
def history(table: Path) -> TableHistory:
    """Its past, by key."""
    return TableHistory(table, "conid")


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_tell_what_each_commit_did_and_who_made_it(history: TableHistory):
    """Counts come from the writer's own metrics, and where it has none from the files."""
    versions = history.versions()
    assert dict(versions.schema) == dict(VERSIONS_SCHEMA)
    assert versions.select("version", "operation", "changes", "added", "changed", "removed").rows() == [
        (0, "WRITE", "WRITE 3", 3, 0, 0),
        (1, "WRITE", "WRITE 1", 1, 0, 0),
        (2, "UPDATE", "UPDATE 1", 0, 1, 0),
        (3, "DELETE", "DELETE 1", 0, 0, 1),
        (4, "MERGE", "MERGE 2", 1, 1, 0),
        (5, "WRITE", "WRITE 5", 1, 0, 4),
    ]
    assert versions["readable"].all()
    assert versions["updated_at"].is_sorted()
    assert versions["updated_by"][1] == "ann (one more)"
    assert versions["updated_by"][0].startswith("delta-rs")


def test_a_vacuumed_version_is_listed_but_not_readable(table: Path, history: TableHistory):
    """Delta lists it like any other; asked for, it is refused with what is left, and nothing is shown in its place."""
    vacuum(table)
    assert history.versions().filter("readable")["version"].to_list() == [5, 6, 7]
    with pytest.raises(VersionUnavailableError, match=r"version 2 .* removed \(vacuum.*readable: 5–7") as caught:
        history.as_of(2)
    assert (caught.value.oldest, caught.value.newest) == (5, 7)
    with pytest.raises(VersionUnavailableError, match="version 4"):
        history.diff(4, 5)


def test_a_log_that_was_cleaned_begins_at_its_checkpoint(tmp_path: Path):
    """Versions before it are refused, that of the checkpoint is listed although its entry is gone."""
    place = tmp_path / "table"
    for number in range(6):
        write_deltalake(place, pl.DataFrame({"p": ["a b"], "n": [number]}), mode="append", partition_by=["p"])
    DeltaTable(place, version=3).create_checkpoint()
    for version in range(4):
        (place / "_delta_log" / f"{version:020}.json").unlink()
    history = TableHistory(place, "n")
    assert history.versions().select("version", "operation", "rows", "readable").rows() == [
        (3, None, None, True),
        (4, "WRITE", 1, True),
        (5, "WRITE", 1, True),
    ]
    assert history.as_of(3)["n"].to_list() == [0, 1, 2, 3]
    with pytest.raises(VersionUnavailableError, match="readable: 3–5"):
        history.as_of(2)
    with pytest.raises(VersionUnavailableError, match="its log begins at"):
        history.as_of(datetime(2020, 1, 1, tzinfo=UTC))
    assert history.timeline(1)["diff"].to_list() == ["="]
    assert history.timeline(5).select("diff", "version").rows() == [("+", 5)]
    blame = history.blame().select("n", "version", "change", "or_earlier").rows()
    assert blame[:2] == [(0, 3, None, True), (1, 3, None, True)]
    assert blame[-1] == (5, 5, "WRITE", False)


def test_commits_without_any_description_are_listed(tmp_path: Path):
    """The protocol does not ask for one: then the entry's own time counts, and nobody is named."""
    place = tmp_path / "table"
    rows = handmade.file(place, "a.parquet", {"n": [1, 2]}, stats=False)
    handmade.entry(place, 0, handmade.protocol(), handmade.metadata({"n": "long"}), rows)
    handmade.entry(place, 1, {"txn": {"appId": "x", "version": 1}})
    history = TableHistory(place, "n")
    assert history.versions().select("version", "rows", "changes", "operation", "updated_by").rows() == [
        (0, None, None, None, None),
        (1, 0, None, None, None),
    ]
    assert history.as_of(1)["n"].to_list() == [1, 2]
    assert history.summary().rows is None


def test_instants_never_decrease_although_writers_clocks_differ(tmp_path: Path):
    """A later version counts as made no earlier than those before it, so an instant leads to one version."""
    place = tmp_path / "table"
    first = handmade.file(place, "a.parquet", {"n": [1]})
    handmade.entry(place, 0, handmade.info("WRITE", 5), handmade.protocol(), handmade.metadata({"n": "long"}), first)
    handmade.entry(place, 1, handmade.info("WRITE", 2), handmade.file(place, "b.parquet", {"n": [2]}))
    handmade.entry(place, 2, handmade.info("WRITE", 9), handmade.file(place, "c.parquet", {"n": [3]}))
    history = TableHistory(place, "n")
    begin = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    minutes = [(at - begin) / timedelta(minutes=1) for at in history.versions()["updated_at"]]
    assert minutes == [5, 5, 9]
    assert history.as_of(begin + timedelta(minutes=5))["n"].to_list() == [1, 2]
    assert history.as_of((begin + timedelta(minutes=8)).isoformat())["n"].to_list() == [1, 2]
    with pytest.raises(VersionUnavailableError, match="the first version was made at 2023-11-14 22:18:20"):
        history.as_of(begin)


@pytest.mark.parametrize("when", [-1, 6, 99])
def test_a_version_that_never_was_is_refused(history: TableHistory, when: int):
    """Delta's own loader says it in other ways, or not at all."""
    with pytest.raises(VersionUnavailableError, match="does not exist; there are 0 to 5"):
        history.as_of(when)


def test_a_key_may_be_a_list(tmp_path: Path):
    """As the legs of a spread are."""
    for price in (1.0, 2.0):
        spreads = pl.DataFrame({"conids": [[1, 2], [3]], "price": [price, 5.0]})
        spreads.write_delta(tmp_path / "spreads", mode="overwrite")
    history = TableHistory(tmp_path / "spreads", "conids")
    assert history.timeline([1, 2])["diff", "price"].rows() == [("+", 1.0), ("~", 2.0)]
    assert history.timeline([3]).height == 1
    assert history.timeline([4]).is_empty()


def test_the_future_is_refused(table: Path):
    """Delta would silently give the newest version."""
    clock = FakeClock(datetime(2020, 1, 1, tzinfo=UTC))
    history = TableHistory(table, "conid", clock=clock)
    newest = history.versions()["updated_at"][-1]
    assert history.as_of(newest)["conid"].to_list() == [9]
    with pytest.raises(VersionUnavailableError, match="is in the future"):
        history.as_of(newest + timedelta(seconds=1))
    with pytest.raises(ValueError, match="when must say how far it is from UTC"):
        history.as_of("2026-11-22 14:00:00")


# --- differences and single keys ---------------------------------------------------------------------------------


def test_diff_by_key_puts_old_and_new_side_by_side(history: TableHistory):
    """As on a ledger: signs, the key, then pairs."""
    assert history.diff(0, 4).rows(named=True) == [
        {"diff": "+", "conid": 4, "symbol": "DIA2", "symbol_old": None},
        {"diff": "+", "conid": 9, "symbol": "TLT", "symbol_old": None},
        {"diff": "-", "conid": 1, "symbol": None, "symbol_old": "SPY"},
        {"diff": "~", "conid": 2, "symbol": "QQQM", "symbol_old": "QQQ"},
    ]
    nothing = history.diff(3, 3)
    assert nothing.is_empty()
    assert nothing.schema == history.diff(0, 4).schema


def test_without_a_key_whole_rows_are_compared(tmp_path: Path):
    """Rows that come more than once are counted."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [1, 1, 1, 2, None]}))
    write_deltalake(place, pl.DataFrame({"n": [1, 2, 3, None]}), mode="overwrite")
    diff = TableHistory(place).diff(0, 1)
    assert diff.rows() == [("+", 1, 3), ("-", 2, 1)]
    assert diff.columns == ["diff", "count", "n"]
    assert TableHistory(place).diff(1, 1).schema == diff.schema


def test_timeline_shows_every_state_and_when_it_was_gone(history: TableHistory):
    """States that are the same in several versions are one row."""
    line = history.timeline(4)
    assert line.select("diff", "symbol", "version", "change", "updated_by").rows()[:1] == [
        ("+", "DIA", 1, "WRITE", "ann (one more)")
    ]
    assert line.select("diff", "symbol", "version").rows() == [("+", "DIA", 1), ("~", "DIA2", 4), ("-", None, 5)]
    assert line["lasted"].is_null().to_list() == [False, False, True]
    assert history.timeline(9).select("diff", "version").rows() == [("+", 4)]
    never = history.timeline(77)
    assert never.is_empty()
    assert never.schema == line.schema


def test_timeline_says_from_when_to_when_nobody_can_tell(table: Path, history: TableHistory):
    """What lies in a vacuumed range is a row with `?`; what is found after it may have come earlier."""
    vacuum(table)
    assert history.timeline(9).select("diff", "symbol", "version").rows() == [("?", None, 0), ("=", "TLT", 5)]
    assert history.timeline(1).select("diff", "conid", "version").rows() == [("?", 1, 0), ("-", 1, 5)]


def test_a_gap_in_the_middle_is_said_as_well(tmp_path: Path):
    """A version that was restored keeps its files alive, while those after it are vacuumed."""
    place = tmp_path / "table"
    for value in ("a", "b", "c"):
        write_deltalake(place, pl.DataFrame({"n": [1], "x": [value]}), mode="overwrite")
    history = TableHistory(place, "n")
    assert asyncio.run(history.restore(0)) == 3
    vacuum(place)
    assert history.versions()["readable"].to_list() == [True, False, False, True, True, True]
    line = history.timeline(1).select("diff", "x", "version")
    assert line.rows() == [("+", "a", 0), ("?", None, 1), ("=", "a", 3)]
    assert history.blame().select("value", "version", "or_earlier").rows() == [("a", 3, True)], "it was b and c between"
    assert "2 are not any more" in history._repr_html_()


def test_blame_names_version_and_actor_of_every_value(history: TableHistory):
    """Each value by itself: what an update left alone keeps its older origin."""
    blame = history.blame(4)
    assert blame.columns == ["conid", "column", "value", "version", "updated_at", "change", "updated_by", "or_earlier"]
    assert blame.select("conid", "value", "version", "change").sort("conid").rows() == [
        (2, "QQQM", 2, "UPDATE"),
        (3, "IWM", 0, "WRITE"),
        (4, "DIA2", 4, "MERGE"),
        (9, "TLT", 4, "MERGE"),
    ]
    assert history.blame().select("conid", "version").rows() == [(9, 4)]


def test_blame_says_what_may_be_older_than_can_be_read(table: Path, history: TableHistory):
    """At or before: the version that still shows it, and nobody's name."""
    vacuum(table)
    row = history.blame().row(0, named=True)
    assert (row["version"], row["change"], row["updated_by"], row["or_earlier"]) == (5, None, None, True)


# --- odd tables --------------------------------------------------------------------------------------------------


def test_a_key_with_quotes_and_html_is_a_key_like_any_other(tmp_path: Path):
    """It is data, never a piece of SQL or of a page."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({'na"me': [NASTY, "x"], "n": [1, 2]}))
    write_deltalake(place, pl.DataFrame({'na"me': [NASTY, "x"], "n": [3, 2]}), mode="overwrite")
    history = TableHistory(place, 'na"me')
    assert history.timeline(NASTY)["n"].to_list() == [1, 3]
    assert history.diff(0, 1)['na"me'].to_list() == [NASTY]
    assert history.blame().filter(pl.col('na"me') == NASTY)["version"].to_list() == [1]
    shown = TableHistory(tmp_path / "<script>alert(1)</script>", "n")._repr_html_()
    assert "<script>" not in shown


def test_a_schema_that_changed_on_the_way_is_followed(tmp_path: Path):
    """A column that came, one that went by an overwrite, and one whose type grew wider."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [1, 2], "old": ["a", "b"], "v": pl.Series([1, 2], dtype=pl.Int32)}))
    added = pl.DataFrame({"n": [3], "old": ["c"], "v": pl.Series([3], dtype=pl.Int32), "new": [1.5]})
    write_deltalake(place, added, mode="append", schema_mode="merge")
    last = pl.DataFrame({"n": [1, 2, 3], "v": [1.0, 2.5, 3.0], "new": [None, 7.0, 1.5]})
    write_deltalake(place, last, mode="overwrite", schema_mode="overwrite")
    history = TableHistory(place, "n")
    assert [set(history.as_of(version).columns) for version in range(3)] == [
        {"n", "old", "v"},
        {"n", "old", "v", "new"},
        {"n", "v", "new"},
    ]
    changed = history.diff(1, 2).filter(pl.col("n") == 2).row(0, named=True)
    assert changed == {
        "diff": "~", "n": 2, "v": 2.5, "v_old": 2.0, "new": 7.0, "new_old": None, "old": None, "old_old": "b",
    }  # fmt: skip
    assert history.timeline(2).select("diff", "old", "v", "new").rows() == [
        ("+", "b", 2.0, None),
        ("~", None, 2.5, 7.0),
    ]
    blame = history.blame().select("n", "column", "value", "version")
    assert blame.filter(pl.col("n") == 1).rows() == [(1, "v", "1.0", 0), (1, "new", None, 0)]
    assert blame.filter(pl.col("n") == 2).rows() == [(2, "v", "2.5", 2), (2, "new", "7.0", 2)]


def test_a_version_without_the_keys_column_is_a_gap_of_its_own(tmp_path: Path):
    """Nobody can tell what became of a key while there were none."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [1], "x": ["a"]}))
    write_deltalake(place, pl.DataFrame({"x": ["a"]}), mode="overwrite", schema_mode="overwrite")
    write_deltalake(place, pl.DataFrame({"n": [1], "x": ["a"]}), mode="overwrite", schema_mode="overwrite")
    history = TableHistory(place, "n")
    assert history.timeline(1).select("diff", "x", "version").rows() == [("+", "a", 0), ("?", None, 1), ("=", "a", 2)]
    assert history.blame().select("value", "version", "or_earlier").rows() == [("a", 2, False)]
    with pytest.raises(ValueError, match=r"version 1 .* has no column 'n' of the key"):
        history.diff(0, 1)
    assert history.diff(0, 2).is_empty()


def test_a_table_whose_columns_are_named_like_ours_keeps_them(tmp_path: Path):
    """Ours get a `_` in front."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"version": [1], "diff": ["x"], "column": [2], "count": [1]}))
    write_deltalake(place, pl.DataFrame({"version": [1], "diff": ["y"], "column": [2], "count": [1]}), mode="overwrite")
    history = TableHistory(place, "version")
    assert history.diff(0, 1).select("_diff", "version", "diff", "diff_old").rows() == [("~", 1, "y", "x")]
    assert history.timeline(1).select("_diff", "diff", "version", "_version").rows() == [
        ("+", "x", 1, 0),
        ("~", "y", 1, 1),
    ]
    assert history.blame().select("version", "column", "_version").rows() == [
        (1, "diff", 1),
        (1, "column", 0),
        (1, "count", 0),
    ]
    assert TableHistory(place).diff(0, 1).columns == ["_diff", "_count", "version", "diff", "column", "count"]


def test_an_empty_table_has_a_past_with_columns(tmp_path: Path):
    """No row in it, ever: every answer is empty, and has the columns that it would have."""
    place = tmp_path / "table"
    DeltaTable.create(place, pa.schema([("n", pa.int64()), ("x", pa.string())]))
    history = TableHistory(place, "n")
    assert history.versions().select("version", "operation", "rows").rows() == [(0, "CREATE TABLE", 0)]
    for frame in (history.as_of(0), history.diff(0, 0), history.timeline(1), history.blame()):
        assert frame.is_empty()
        assert "n" in frame.columns
    assert history.blame().schema == _with_row(place).blame().schema


def _with_row(place: Path) -> TableHistory:
    write_deltalake(place, pl.DataFrame({"n": [1], "x": ["a"]}), mode="append")
    return TableHistory(place, "n")


def test_values_of_any_type_can_be_compared_and_shown(tmp_path: Path):
    """Lists, structs, bytes, dates, decimals and not-a-number: the same is the same, and blame shows them as text."""
    place = tmp_path / "table"
    rows = pl.DataFrame(
        {
            "n": [1, 2],
            "list": [[1, 2], None],
            "struct": [{"a": 1, "b": "x"}, {"a": 2, "b": None}],
            "bytes": [b"\xff\x00", None],
            "day": [datetime(2026, 1, 2, tzinfo=UTC).date(), None],
            "nan": [float("nan"), 1.0],
            "flag": [True, False],
        }
    )
    write_deltalake(place, rows)
    write_deltalake(place, rows.with_columns(flag=pl.lit(value=True)), mode="overwrite")
    history = TableHistory(place, "n")
    assert history.diff(0, 1).select("n", "flag", "flag_old").rows() == [(2, True, False)]
    assert history.timeline(1).height == 1
    blame = history.blame().filter(pl.col("n") == 1)
    assert dict(blame.select("column", "value").iter_rows()) == {
        "list": "[1,2]", "struct": '{"a":1,"b":"x"}', "bytes": "ff00",
        "day": "2026-01-02", "nan": "NaN", "flag": "true",
    }  # fmt: skip
    assert history.blame().filter(pl.col("version") == 1).select("n", "column").rows() == [(2, "flag")]
    assert TableHistory(place).diff(0, 1).height == 2


def test_partitions_with_odd_values_are_read(tmp_path: Path):
    """Blanks, slashes, percent signs and none at all, in text and in numbers."""
    place = tmp_path / "table"
    values = ["a b", "c/d", "e%20f", "ü", None]
    for step in range(3):
        rows = pl.DataFrame({"n": range(5), "p": values, "q": [1, 2, 3, 4, None], "x": [step, 0, 0, 0, step]})
        write_deltalake(place, rows, mode="overwrite", partition_by=["p", "q"])
    history = TableHistory(place, "n")
    assert history.versions()["readable"].all()
    assert_frame_equal(history.as_of(2).select("n", "p", "q", "x"), rows, check_dtypes=False)
    assert history.timeline(0).select("p", "q", "x").rows() == [("a b", 1, 0), ("a b", 1, 1), ("a b", 1, 2)]
    assert history.timeline(2).select("p", "q", "x").rows() == [("e%20f", 3, 0)]
    assert history.blame().filter(column="x")["version"].to_list() == [2, 0, 0, 0, 2]
    assert TableHistory(place, ["p", "n"]).timeline("c/d", 1).height == 1


def test_tables_of_polars_and_pandas_have_a_past(tmp_path: Path):
    """Whoever wrote it by deltalake."""
    place = tmp_path / "table"
    pl.DataFrame({"n": [1], "x": ["a"]}).write_delta(place)
    write_deltalake(place, pd.DataFrame({"n": [2], "x": ["b"]}), mode="append")
    write_deltalake(place, pa.table({"n": [3], "x": ["c"]}), mode="append")
    history = TableHistory(place, "n")
    assert [history.as_of(version).height for version in range(3)] == [1, 2, 3]
    assert history.blame()["version"].to_list() == [0, 1, 2]


def test_compaction_changes_no_row(tmp_path: Path):
    """Other files, the same rows: nobody is blamed for it, and no state begins."""
    place = tmp_path / "table"
    for number in range(3):
        write_deltalake(place, pl.DataFrame({"n": [number], "x": ["a"]}), mode="append")
    DeltaTable(place).optimize.compact()
    write_deltalake(place, pl.DataFrame({"n": [9], "x": ["a"]}), mode="append")
    history = TableHistory(place, "n")
    assert history.versions().row(3, named=True)["rows"] == 0
    assert history.blame()["version"].to_list() == [0, 1, 2, 4]
    assert history.timeline(1)["version"].to_list() == [1]
    assert history.diff(2, 3).is_empty()
    vacuum(place)
    found = history.blame().select("n", "version", "or_earlier").rows()
    assert found == [(0, 3, True), (1, 3, True), (2, 3, True), (9, 4, False)]


def test_what_is_deleted_after_a_compaction_is_gone(tmp_path: Path):
    """The commit removes a file that the compaction made, not those that were read before it."""
    place = tmp_path / "table"
    for number in range(3):
        write_deltalake(place, pl.DataFrame({"n": [number], "x": ["a"]}), mode="append")
    DeltaTable(place).optimize.compact()
    DeltaTable(place).delete("n = 1")
    history = TableHistory(place, "n")
    assert history.timeline(1).select("diff", "version").rows() == [("+", 1), ("-", 4)]
    assert history.blame().select("n", "version").rows() == [(0, 0), (2, 2)]


def test_deletion_vectors_are_obeyed(tmp_path: Path):
    """As Spark deletes: the file stays, a vector says which of its rows are gone."""
    place = tmp_path / "table"
    rows = handmade.file(place, "a.parquet", {"n": [1, 2, 3, 4], "x": list("abcd")})
    features = handmade.protocol(3, 7, ["deletionVectors"])
    columns = handmade.metadata({"n": "long", "x": "string"}, {"delta.enableDeletionVectors": "true"})
    handmade.entry(place, 0, handmade.info("WRITE", 0, userName="ann"), features, columns, rows)
    fewer = {"add": rows["add"] | {"deletionVector": handmade.deletion_vector(1, 3)}}
    handmade.entry(place, 1, handmade.info("DELETE", 1), handmade.removal("a.parquet"), fewer)
    history = TableHistory(place, "n")
    assert history.versions().select("added", "changed", "removed").rows() == [(4, 0, 0), (0, 0, 2)]
    assert history.as_of(1)["n"].to_list() == [1, 3]
    assert history.diff(0, 1).select("diff", "n", "x_old").rows() == [("-", 2, "b"), ("-", 4, "d")]
    assert history.timeline(2)["diff"].to_list() == ["+", "-"]
    assert history.blame().select("n", "version", "updated_by").rows() == [(1, 0, "ann"), (3, 0, "ann")]
    assert asyncio.run(history.restore(0)) == 2
    assert history.as_of(2).height == 4
    assert history.timeline(2)["diff"].to_list() == ["+", "-", "+"]


def test_column_mapping_is_obeyed(tmp_path: Path):
    """As Databricks renames: the files keep names that nobody sees."""
    place = tmp_path / "table"
    columns = handmade.metadata(
        {"n": "long", "x y": "string"},
        {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "2"},
        **{"n": "col-1", "x y": "col-2"},
    )
    first = handmade.file(place, "a.parquet", {"col-1": [1, 2], "col-2": ["a", "b"]})
    handmade.entry(place, 0, handmade.info("WRITE", 0), handmade.protocol(2, 5), columns, first)
    second = handmade.file(place, "b.parquet", {"col-1": [2], "col-2": ["c"]})
    third = handmade.file(place, "c.parquet", {"col-1": [1], "col-2": ["a"]})
    handmade.entry(place, 1, handmade.info("UPDATE", 1), handmade.removal("a.parquet"), second, third)
    history = TableHistory(place, "n")
    assert history.timeline(2)["x y"].to_list() == ["b", "c"]
    assert history.blame().sort("n").select("n", "column", "version").rows() == [(1, "x y", 0), (2, "x y", 1)]
    assert history.versions()["rows"].to_list() == [2, None]


def test_a_checkpoint_of_version_2_is_read(tmp_path: Path):
    """As Databricks writes it: its name has a UUID, and its entries may be JSON."""
    place = tmp_path / "table"
    described = [handmade.protocol(3, 7, ["v2Checkpoint"]), handmade.metadata({"n": "long"})]
    files = [handmade.file(place, f"{name}.parquet", {"n": [n]}) for n, name in enumerate("abc")]
    handmade.entry(place, 2, handmade.info("WRITE", 2), files[2])
    checkpoint = [{"checkpointMetadata": {"version": 1}}, *described, *files[:2]]
    name = f"{1:020}.checkpoint.{uuid.uuid4()}.json"
    (place / "_delta_log" / name).write_text("".join(json.dumps(action) + "\n" for action in checkpoint))
    history = TableHistory(place, "n")
    assert history.versions().select("version", "rows", "readable").rows() == [(1, None, True), (2, 1, True)]
    assert history.as_of(1)["n"].to_list() == [0, 1]
    assert history.blame().schema == history.blame(1).schema
    assert history.timeline(2).select("diff", "version").rows() == [("+", 2)]


def test_a_shallow_clone_counts_as_readable(tmp_path: Path):
    """Its files lie elsewhere, so no listing of the table tells whether they are there; reading does."""
    origin, place = tmp_path / "origin", tmp_path / "clone"
    added = handmade.file(origin, "a.parquet", {"n": [1, 2]})
    added["add"]["path"] = (origin / "a.parquet").as_uri()
    handmade.entry(place, 0, handmade.info("CLONE", 0), handmade.protocol(), handmade.metadata({"n": "long"}), added)
    history = TableHistory(place, "n")
    assert history.versions()["readable"].to_list() == [True]
    assert history.as_of(0)["n"].to_list() == [1, 2]
    assert history.timeline(1)["diff"].to_list() == ["+"]
    (origin / "a.parquet").unlink()
    with pytest.raises(StorageError, match="reading version 0 failed"):
        history.as_of(0)


def test_a_table_that_nobody_here_can_read_says_so(tmp_path: Path):
    """A feature that deltalake does not know is an error of ours, with its name."""
    place = tmp_path / "table"
    features = handmade.protocol(3, 7, ["rowsOnTheMoon"])
    rows = handmade.file(place, "a.parquet", {"n": [1]})
    handmade.entry(place, 0, handmade.info("WRITE", 0), features, handmade.metadata({"n": "long"}), rows)
    with pytest.raises(StorageError, match="rowsOnTheMoon"):
        TableHistory(place, "n").versions()


@pytest.mark.parametrize("damage", ['{"add": ', '{"add": {"size": 1}}', '["add"]', '{"add": 1}'])
def test_a_log_entry_that_is_damaged_says_so(table: Path, history: TableHistory, damage: str):
    """It is neither guessed nor passed over."""
    (table / "_delta_log" / f"{2:020}.json").write_text(damage)
    with pytest.raises(StorageError):
        history.versions()


def test_a_table_that_was_made_anew_has_its_own_past(tmp_path: Path):
    """The same history object does not mix the entries of the two."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [1, 2, 3]}))
    history = TableHistory(place, "n")
    assert history.versions()["rows"].to_list() == [3]
    place.rename(tmp_path / "away")
    with pytest.raises(TableMissingError):
        history.versions()
    write_deltalake(place, pl.DataFrame({"n": [7]}))
    assert history.versions()["rows"].to_list() == [1]
    assert history.as_of(0)["n"].to_list() == [7]


# --- keys --------------------------------------------------------------------------------------------------------


def test_the_key_is_asked_for_where_it_is_needed(table: Path):
    """The error says how to give it, and which columns there are."""
    history = TableHistory(table)
    assert history.key == ()
    assert history.as_of(0).height == 3
    for ask in (lambda: history.timeline(1), history.blame):
        with pytest.raises(ValueError, match=r"key=\[…\]\); there are conid, symbol"):
            ask()


@pytest.mark.parametrize("key", [["conid", "nope"], ["nope"]])
def test_a_key_that_is_no_column_is_refused(table: Path, key: list[str]):
    """With the name, and those that there are."""
    history = TableHistory(table, key)
    asked = (lambda: history.as_of(0), lambda: history.diff(0, 1), lambda: history.timeline(*key), history.blame)
    for ask in asked:
        with pytest.raises(ValueError, match="no column 'nope' of the key; there are conid, symbol"):
            ask()


def test_a_key_that_names_several_rows_is_refused(tmp_path: Path):
    """Rather than a difference that multiplies them."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [1, 1], "x": ["a", "b"]}))
    history = TableHistory(place, "n")
    for ask in (lambda: history.diff(0, 0), lambda: history.timeline(1), history.blame):
        with pytest.raises(ValueError, match=r"does not name one row each: version 0 .* more than once"):
            ask()


@pytest.mark.parametrize("value", ["one", 1.5, b"1", [1]])
def test_a_key_of_another_type_is_refused(history: TableHistory, value: object):
    """Rather than an empty answer."""
    with pytest.raises(ValueError, match="conid must be Int64, got"):
        history.timeline(value)


def test_a_key_may_be_null(tmp_path: Path):
    """It names the row whose key is null."""
    place = tmp_path / "table"
    write_deltalake(place, pl.DataFrame({"n": [None, 1], "x": ["a", "b"]}))
    write_deltalake(place, pl.DataFrame({"n": [None, 1], "x": ["c", "b"]}), mode="overwrite")
    history = TableHistory(place, "n")
    assert history.timeline(None)["x"].to_list() == ["a", "c"]
    assert history.diff(0, 1).select("diff", "n", "x").rows() == [("~", None, "c")]
    assert history.blame().filter(pl.col("n").is_null())["version"].to_list() == [1]


# --- display -----------------------------------------------------------------------------------------------------


def test_a_cell_shows_from_where_to_where_it_reaches(table: Path, history: TableHistory):
    """In words, in both forms; a plain repr asks nobody."""
    assert repr(history) == f"TableHistory({str(table)!r}, key=['conid'])"
    html = history._repr_html_()
    for text in ("Delta table", "0 to 5", "conid", "all"):
        assert text in html
    assert "there is no Delta table" in TableHistory(table / "none")._repr_html_()
    assert "  versions  0 to 5\n" in pretty(history)
