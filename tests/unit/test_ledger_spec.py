"""Specs and upkeep's arithmetic: rows to frames and back, stamps, and what is due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl
import pytest
from v6kit.ledger import NO_INSTANT, STAMP, TableSpec, newest_per_key
from v6kit.ledger.files import stretches, with_ends
from v6kit.ledger.spec import UNTIL
from v6kit.ledger.upkeep import COMMITS_PER_TURN, is_due
from v6kit.queue.requests import SPEC as QUEUE_SPEC

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


class Row(NamedTuple):
    """A key and a number; in another order than the table's columns."""

    number: int | None
    key: str
    change: str
    seq: int = 0
    version: int = 0
    updated_at: datetime = NO_INSTANT
    updated_by: str = ""


SPEC: TableSpec[Row] = TableSpec("rows", ("key",), {"key": pl.String(), **STAMP, "number": pl.Int64()}, Row)


def test_rows_and_frames_are_the_same_thing_in_another_form():
    """Columns in the table's order, rows in their own; null stays null."""
    made = [Row(1, "a", "PUT", 1, 1, NOW, "me"), Row(None, "b", "PUT", 2, 1, NOW, "me")]
    frame = SPEC.to_frame(made)
    assert dict(frame.schema) == dict(SPEC.columns)
    assert SPEC.to_rows(frame) == made
    assert SPEC.to_frame([]).equals(SPEC.empty())


def test_a_stamp_sets_the_bookkeeping_and_leaves_the_domain_alone():
    """Numbered from seq; whatever stood there before is replaced."""
    stamped = SPEC.stamp([Row(1, "a", "PUT"), Row(2, "b", "TAKE", 99, 99, NOW, "them")], 7, 3, NOW, "me")
    assert stamped == [Row(1, "a", "PUT", 7, 3, NOW, "me"), Row(2, "b", "TAKE", 8, 3, NOW, "me")]


def test_batches_of_rows_and_frames_are_gathered_in_order():
    """Empty ones leave no trace."""
    one, two = Row(1, "a", "PUT"), Row(2, "b", "PUT")
    gathered = SPEC.gather([[one], [], SPEC.to_frame([two]), SPEC.empty()])
    assert SPEC.to_rows(gathered) == [one, two]
    assert SPEC.gather([]).equals(SPEC.empty())


def test_the_newest_row_per_key_wins_by_seq():
    """Whatever the order of the frame; the result is in seq order."""
    frame = SPEC.to_frame([Row(n, key, "PUT", seq) for n, key, seq in ((3, "a", 3), (1, "a", 1), (2, "b", 2))])
    assert newest_per_key(frame, SPEC.key)["number"].to_list() == [2, 3]


def test_the_queues_row_has_exactly_the_tables_columns():
    """The original eight come first in the table."""
    assert set(QUEUE_SPEC.row_fields()) == set(QUEUE_SPEC.columns)
    assert list(QUEUE_SPEC.columns)[:8] == [
        "request_id", "conid", "symbol", "priority", "status", "created_at", "updated_at", "error_message",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "last", "due"),
    [(0, 0, False), (COMMITS_PER_TURN - 1, 0, False), (COMMITS_PER_TURN, 0, True), (1_000, 950, False)],
)
def test_upkeep_is_due_after_so_many_commits(version, last, due):
    """Counted in versions, so all writers count together."""
    assert is_due(version, last) is due


def files(*sizes: int | None) -> pl.DataFrame:
    """Return a listing of neighbouring files with ten rows each; `None` is one without statistics."""
    return pl.DataFrame(
        [
            {"min.seq": None if size is None else 10 * n + 1, "max.seq": None if size is None else 10 * n + 10,
             "size_bytes": size or 1}
            for n, size in enumerate(sizes)
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1, 1, 1), [(1, 30)]),
        ((1,), []),
        ((9, 9), []),
        ((1, 1, 9, 1, 1, 1), [(1, 20), (31, 60)]),
        ((9, 1, 9, 1, 1), [(31, 50)]),
        ((3, 3, 3, 3, 3, 3), [(1, 20), (21, 40), (41, 60)]),
    ],
)
def test_neighbouring_small_files_are_compacted_up_to_the_target(sizes, expected):
    """Large files split the stretches and are left alone; a single small file waits for company."""
    assert stretches(files(*sizes), 5) == expected


def test_files_without_statistics_are_no_part_of_a_stretch():
    """Nobody knows what is in them."""
    assert stretches(pl.DataFrame({"path": ["a"], "size_bytes": [1]}), 5) == []


def test_rows_that_were_superseded_come_first_with_the_version_that_did_it():
    """Only as far as these rows tell; the last of each key stays open."""
    rows = pl.DataFrame({"name": ["A", "B", "A", "A"], "seq": [1, 2, 3, 4], "version": [1, 1, 2, 5], UNTIL: [None] * 4})
    noted = with_ends(rows, ["name"])
    assert noted["seq"].to_list() == [1, 3, 2, 4]
    assert noted[UNTIL].to_list() == [2, 5, None, None]
    assert with_ends(rows, ()).equals(rows)
