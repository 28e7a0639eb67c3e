"""Bulk inserts that give up their rows block by block."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from v6kit.queue import bulk
from v6kit.queue.bulk import Bulk, split
from v6kit.queue.ids import RequestIds
from v6kit.queue.requests import SPEC, QueuedPosition

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(bulk, "BLOCK_ROWS", 4)


def rows(count: int, *, account: str = "", priority: int = 2) -> list[QueuedPosition]:
    """Return pending requests, oldest first."""
    return [
        QueuedPosition(
            known,
            conid,
            "SPY",
            priority,
            "PENDING",
            START,
            None,
            account,
            0,
            5,
            START,
            START,
            None,
            None,
            None,
            "INSERT",
        )
        for conid, known in enumerate(RequestIds().take(count, START), 1)
    ]


def test_blocks_come_out_in_turn():
    """The head tells which request is next without making a row."""
    made = rows(10)
    held = Bulk(SPEC.to_frame(made))
    assert len(held) == 10
    assert held.head == made[0].turn
    assert held.take_head() == made[:4]
    assert held.head == made[4].turn
    assert held.take_head() == made[4:8]
    assert held.take_head() == made[8:]
    assert (held.head, held.take_head(), len(held)) == (None, [], 0)


def test_the_block_around_a_request_can_be_taken_out():
    """Once; the rest stays in order."""
    made = rows(10)
    held = Bulk(SPEC.to_frame(made))
    assert held.take_around(made[5].request_id) == made[4:8]
    assert held.take_around(made[5].request_id) == []
    assert held.take_around("nobody") == []
    assert held.take_around("~") == []
    assert SPEC.to_rows(pl.concat(held.rest())) == made[:4] + made[8:]
    assert len(held) == 6
    assert held.take_head() == made[:4]
    assert held.head == made[8].turn


def test_a_frame_is_split_by_account_and_priority_and_sorted():
    """Each part is of one account and one priority, oldest first."""
    made = rows(3, account="U1") + rows(3, account="U2") + rows(3, account="U1", priority=1)
    parts = split(SPEC.to_frame(made[::-1]))
    assert {(part.account, part.priority, len(part)) for part in parts} == {("U1", 2, 3), ("U2", 2, 3), ("U1", 1, 3)}
    for part in parts:
        ids = [row.request_id for row in part.take_head()]
        assert ids == sorted(ids)
    assert split(SPEC.empty()) == []


def test_what_is_due_first_comes_out_first_and_is_found_by_its_id():
    """Whatever the order of the ids."""
    made = [row._replace(due_at=START - timedelta(seconds=number % 5)) for number, row in enumerate(rows(10))]
    (held,) = split(SPEC.to_frame(made))
    in_turn = sorted(made, key=lambda row: row.turn)
    assert held.head == in_turn[0].turn
    assert held.take_around(in_turn[5].request_id) == in_turn[4:8]
    assert held.take_head() == in_turn[:4]
    assert held.take_around("nobody") == held.take_around(in_turn[4].request_id) == []
    assert held.head == in_turn[8].turn
