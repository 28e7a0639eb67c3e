"""Putting requests in: one by one, many at once, twice, and wrong ones."""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from deltalake import DeltaTable
from v6kit.ledger import Decision
from v6kit.queue import PositionQueue, QueuedPosition, Status
from v6kit.queue.requests import SPEC


def version(queue: PositionQueue) -> int:
    """Return the table's version as a stranger sees it."""
    return DeltaTable(queue.uri).version()


async def test_an_inserted_request_is_durable_and_complete(make_queue, queue, clock):
    """Another object sees every field right after insert returned."""
    known = await queue.insert(265598, "AAPL", 1, account="U1", max_attempts=3)

    other = await make_queue().initialize()
    row = other.current().row(0, named=True)
    assert other.current().columns == list(SPEC.columns)
    assert {name: row[name] for name in ("request_id", "conid", "symbol", "priority", "status", "account")} == {
        "request_id": known, "conid": 265598, "symbol": "AAPL", "priority": 1, "status": "PENDING", "account": "U1",
    }  # fmt: skip
    assert (row["attempt"], row["max_attempts"], row["change"], row["error_message"]) == (0, 3, "INSERT", None)
    assert row["created_at"] == row["available_at"] == row["updated_at"] == clock.now()


async def test_first_use_opens_the_queue(make_queue):
    """initialize() is implied by the first call that awaits."""
    queue = make_queue()
    await queue.insert(1, "SPY")
    assert queue.stats().live == 1


async def test_the_same_contract_is_queued_once_while_it_is_live(queue):
    """The existing id comes back, and nothing is committed."""
    first = await queue.insert(1, "SPY")
    before = version(queue)
    assert await queue.insert(1, "SPY") == first
    assert version(queue) == before
    assert await queue.insert(1, "SPY", account="U2") != first, "another account is another position"

    await queue.mark_success(await queue.get_batch())
    assert await queue.insert(1, "SPY") != first, "what has finished may be queued again"


async def test_a_better_priority_is_taken_over_and_a_worse_one_is_not(queue):
    """The request that is queued already moves up; it never moves down."""
    known = await queue.insert(1, "SPY", 2)
    assert await queue.insert(1, "SPY", 1) == known
    assert await queue.insert(1, "SPY", 3) == known
    frame = queue.current()
    assert frame.select("priority", "change").rows() == [(1, "PRIORITISE")]


async def test_a_claimed_request_keeps_its_claim_when_it_is_wanted_again(queue):
    """A better priority for what is being fetched right now does not disturb the fetch."""
    await queue.insert(1, "SPY", 2)
    (item,) = await queue.get_batch()
    assert await queue.insert(1, "SPY", 1) == item.request_id
    await queue.mark_success(item)
    assert queue.stats().by_status[Status.SUCCESS] == 1


@pytest.mark.parametrize("rows", [5, 3_000])
@pytest.mark.parametrize("form", ["mappings", "frame", "generator"])
async def test_many_are_inserted_in_one_commit_in_order(queue, rows, form):
    """Ids come back in the order of the items, few or many, whatever they are given as."""
    items = [{"conid": number, "symbol": f"S{number}", "priority": 1 + number % 3} for number in range(rows, 0, -1)]
    before = version(queue)
    given = {"mappings": items, "frame": pl.DataFrame(items), "generator": (item for item in items)}[form]

    ids = await queue.insert_many(given)

    assert version(queue) == before + 1
    assert ids == sorted(set(ids))
    found = dict(queue.current().select("request_id", "conid").rows())
    assert [found[known] for known in ids] == [item["conid"] for item in items]


@pytest.mark.parametrize("rows", [3, 3_000])
async def test_duplicates_in_one_call_share_an_id_and_the_best_priority(queue, rows):
    """One call that names a contract twice queues it once."""
    items = [{"conid": 1 + number % (rows // 3), "symbol": "SPY", "priority": 3 - number % 3} for number in range(rows)]
    ids = await queue.insert_many(pl.DataFrame(items))
    assert len(set(ids)) == rows // 3
    frame = queue.current()
    best = {}
    for item in items:
        best[item["conid"]] = min(item["priority"], best.get(item["conid"], 9))
    assert dict(frame.select("conid", "priority").rows()) == best
    assert [ids.index(known) for known in ids[: rows // 3]] == list(range(rows // 3))


@pytest.mark.parametrize("rows", [10, 3_000])
async def test_a_bulk_insert_meets_live_requests(queue, rows):
    """Live ones keep their ids, better priorities are taken over, the rest is new: all in one commit."""
    old = await queue.insert_many([{"conid": conid, "symbol": "OLD"} for conid in (2, 4, 6)])
    before = version(queue)
    items = pl.DataFrame({"conid": range(1, rows + 1), "symbol": "NEW", "priority": 1})
    ids = await queue.insert_many(items)
    assert version(queue) == before + 1
    assert [ids[1], ids[3], ids[5]] == old
    assert len(set(ids)) == rows
    assert queue.stats().by_priority == {1: rows}
    assert queue.current().filter(change="PRIORITISE")["request_id"].sort().to_list() == sorted(old)


async def test_nothing_to_insert_commits_nothing(queue):
    """An empty list and an empty frame return an empty list."""
    before = version(queue)
    assert await queue.insert_many([]) == []
    assert await queue.insert_many(pl.DataFrame(schema={"conid": pl.Int64, "symbol": pl.String})) == []
    assert version(queue) == before


async def test_a_thousand_inserts_at_once_cost_a_handful_of_commits(queue):
    """Group commit: every caller gets its own id, and there are at most 25 versions."""
    before = version(queue)
    ids = await asyncio.gather(*(queue.insert(conid, "SPY") for conid in range(1, 1_001)))
    assert len(set(ids)) == 1_000
    assert version(queue) - before <= 25
    found = dict(queue.current().select("request_id", "conid").rows())
    assert [found[known] for known in ids] == list(range(1, 1_001))


GOOD = {"conid": 1, "symbol": "SPY"}
WRONG = [
    ({"conid": 0}, ValueError, "conid must be at least 1, got 0"),
    ({"conid": -5}, ValueError, "conid must be at least 1, got -5"),
    ({"conid": 2**63}, ValueError, "conid must be"),
    ({"conid": "1"}, TypeError, "conid must be an integer, got '1'"),
    ({"conid": 1.5}, TypeError, "conid must be an integer, got 1.5"),
    ({"conid": True}, TypeError, "conid must be an integer, got True"),
    ({"conid": None}, TypeError, "conid must be an integer, got None"),
    ({"symbol": ""}, ValueError, "symbol must not be empty"),
    ({"symbol": "  "}, ValueError, "symbol must not be empty"),
    ({"symbol": 5}, TypeError, "symbol must be a string, got 5"),
    ({"symbol": None}, TypeError, "symbol must be a string, got None"),
    ({"priority": 0}, ValueError, "priority must be at least 1, got 0"),
    ({"priority": 2**31}, ValueError, r"priority must be below 2\*\*31, got 2147483648"),
    ({"priority": "high"}, TypeError, "priority must be an integer, got 'high'"),
    ({"account": None}, TypeError, "account must be a string, got None"),
    ({"account": 7}, TypeError, "account must be a string, got 7"),
    ({"max_attempts": 0}, ValueError, "max_attempts must be at least 1, got 0"),
    ({"max_attempts": 2**40}, ValueError, "max_attempts must be below"),
    ({"available_at": "now"}, TypeError, "available_at must be a datetime, got 'now'"),
    ({"available_at": datetime(2026, 11, 20)}, ValueError, "available_at must be an aware datetime"),  # noqa: DTZ001
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
async def test_a_wrong_value_is_refused_with_its_name_and_nothing_is_queued(queue, change, error, text):
    """The argument and the value are named."""
    given = GOOD | change
    with pytest.raises(error, match=f"^{text}"):
        await queue.insert(given.pop("conid"), given.pop("symbol"), given.pop("priority", 2), **given)
    assert queue.current().is_empty()


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
@pytest.mark.parametrize("rows", [4, 2_000])
async def test_one_wrong_item_refuses_all_of_them_and_is_named(queue, change, error, text, rows):
    """All or none, and the message says which item it is."""
    items = [{"conid": number, "symbol": "SPY"} for number in range(1, rows)] + [GOOD | change]
    with pytest.raises(error, match=f"item {rows - 1}: {text}"):
        await queue.insert_many(items)
    assert queue.current().is_empty()


@pytest.mark.parametrize("wrong", [5, None, "SPY", GOOD, pl.LazyFrame([GOOD])])
async def test_what_are_not_several_items_is_refused(queue, wrong):
    """One item alone is the usual mistake, and a frame that was not collected."""
    with pytest.raises(TypeError, match="items must be a polars frame or several mappings with conid and symbol, got"):
        await queue.insert_many(wrong)


@pytest.mark.parametrize("rows", [2, 2_000])
@pytest.mark.parametrize(
    ("column", "error", "text"),
    [
        (pl.lit(datetime(2026, 11, 20)).alias("available_at"), ValueError, "must be an aware datetime"),  # noqa: DTZ001
        (pl.lit("2026-11-20T14:30:00Z").alias("available_at"), TypeError, "available_at must be a datetime"),
        (pl.lit(265598).alias("symbol"), TypeError, "symbol must be a string"),
        (pl.lit(1.0).alias("conid"), TypeError, "conid must be an integer"),
        (pl.lit("1").alias("conid"), TypeError, "conid must be an integer"),
        (pl.lit(2**40).alias("priority"), ValueError, "priority must be below"),
        (pl.lit(None).alias("symbol"), TypeError, "symbol must be a string"),
        (pl.lit(None, pl.Int64).alias("conid"), TypeError, "conid must be an integer"),
        (pl.lit(True).alias("conid"), TypeError, "conid must be an integer"),
    ],
)
async def test_a_wrong_column_of_a_frame_is_refused_however_long_the_frame(queue, rows, column, error, text):
    """A long frame is checked as strictly as a short one."""
    frame = pl.DataFrame({"conid": range(1, rows + 1), "symbol": "SPY"}).with_columns(column)
    with pytest.raises(error, match=text):
        await queue.insert_many(frame)
    assert queue.current().is_empty()


@pytest.mark.parametrize("rows", [2, 2_000])
async def test_a_frame_is_brought_into_shape_however_long_it_is(queue, rows, clock):
    """Blanks are cut, narrow integers, categories and other zones accepted, nulls mean now."""
    later = clock.now() + timedelta(minutes=5)
    frame = pl.DataFrame(
        {"conid": range(1, rows + 1), "symbol": " SPY ", "account": " U1", "available_at": [later, None] * (rows // 2)},
        schema={
            "conid": pl.Int32, "symbol": pl.Categorical, "account": pl.String,
            "available_at": pl.Datetime("ms", "Europe/Zurich"),
        },
    )  # fmt: skip
    await queue.insert_many(frame)
    found = queue.current().sort("conid")
    assert set(found["symbol"]) == {"SPY"}
    assert set(found["account"]) == {"U1"}
    assert found["available_at"].to_list() == [later, clock.now()] * (rows // 2)
    assert len(await queue.get_batch(rows)) == rows // 2


@pytest.mark.parametrize(
    ("items", "error", "text"),
    [
        ([5], TypeError, "item 0 must be a mapping with conid and symbol, got 5"),
        ([GOOD, {"conid": 2}], ValueError, "item 1: 'symbol' is missing, got 'conid'"),
        ([{**GOOD, "prio": 1}], ValueError, "item 0: unknown column 'prio'; known are conid, symbol"),
        (pl.DataFrame({"conid": [1]}), ValueError, "items: 'symbol' is missing"),
        (pl.DataFrame({"conid": [1], "symbol": ["A"], "Priority": [1]}), ValueError, "unknown column 'Priority'"),
    ],
)
async def test_items_of_the_wrong_shape_are_refused(queue, items, error, text):
    """A missing or unknown column is named."""
    with pytest.raises(error, match=text):
        await queue.insert_many(items)


async def test_a_value_that_no_table_takes_fails_its_own_caller_only(queue):
    """A symbol that is no valid text does not take down the inserts that share its commit."""
    results = await asyncio.gather(
        queue.insert(1, "SPY"), queue.insert(2, "\ud800"), queue.insert(3, "QQQ"), return_exceptions=True
    )
    assert isinstance(results[1], UnicodeEncodeError)
    assert queue.current()["conid"].sort().to_list() == [1, 3]


async def test_available_at_keeps_a_request_back(queue, clock):
    """It is not claimed before its time, in any zone."""
    await queue.insert(1, "SPY", available_at=clock.now().astimezone(UTC) + timedelta(seconds=30))
    assert await queue.get_batch() == []
    clock.advance(30)
    assert [item.conid for item in await queue.get_batch()] == [1]


@pytest.mark.parametrize("rows", [6, 3_000])
async def test_within_a_priority_what_is_due_first_is_claimed_first(make_queue, queue, clock, rows):
    """Whatever the order of inserting; without a due_at, it is the moment of the insert. Another handle agrees."""
    items = [
        {"conid": conid, "symbol": "SPY", "due_at": clock.now() - timedelta(seconds=conid * 7919 % rows)}
        for conid in range(1, rows + 1)
    ]
    await queue.insert_many(items)
    await queue.insert(rows + 1, "LAST")
    await queue.insert(rows + 2, "FIRST", 1)
    expected = [rows + 2, *(item["conid"] for item in sorted(items, key=lambda item: item["due_at"])), rows + 1]
    assert queue.current()["conid"].to_list() == expected
    first, *rest = await make_queue().get_batch(4)
    assert [item.conid for item in (first, *rest, *await queue.get_batch(rows))] == expected


@pytest.mark.parametrize("rows", [6, 3_000])
async def test_an_earlier_due_at_is_taken_over_and_a_later_one_is_not(queue, clock, rows):
    """So what has become urgent moves up; a claim is not disturbed by it."""
    ids = await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, rows + 1)])
    early, late = (clock.now() + timedelta(seconds=seconds) for seconds in (-5, 5))
    again = [
        {"conid": conid, "symbol": "SPY", "due_at": early if conid % 3 == 0 else late} for conid in range(1, rows + 1)
    ]
    assert await queue.insert_many(again) == ids
    hastened = queue.current().filter(change="PRIORITISE")
    assert (hastened["conid"] % 3).unique().to_list() == [0]
    assert hastened.height == rows // 3
    (item,) = await queue.get_batch(1)
    assert (item.conid, item.due_at) == (3, early)
    before = version(queue)
    await queue.insert_many(again)
    assert version(queue) == before, "nothing is sooner than it was"
    await queue.insert(3, "SPY", due_at=early - timedelta(seconds=1))
    await queue.mark_retry(item, "timed out", timedelta(seconds=1))
    clock.advance(1)
    (item,) = await queue.get_batch(1)
    assert (item.conid, item.due_at) == (3, early - timedelta(seconds=1)), "it is overdue all the more"


async def test_a_due_at_without_zone_is_refused(queue, clock):
    """As every other instant."""
    with pytest.raises(ValueError, match="due_at must be an aware datetime"):
        await queue.insert(1, "SPY", due_at=clock.now().replace(tzinfo=None))


class OldState:
    """Holds nothing: these rows are only written."""

    def apply(self, _rows: object) -> Callable[[], None]:
        """Take rows in."""
        return lambda: None

    def held(self) -> list[object]:
        """Return nothing."""
        return []


@pytest.mark.parametrize("rows", [5, 3_000])
async def test_a_queue_from_before_due_at_is_migrated(make_ledger, make_queue, clock, rows):
    """By adding the column: old requests count as due since they were inserted, and what had failed can be redriven."""
    old_row = namedtuple("OldRow", [name for name in QueuedPosition._fields if name != "due_at"])  # noqa: PYI024
    columns = {name: kind for name, kind in SPEC.columns.items() if name != "due_at"}
    old = make_ledger(spec=replace(SPEC, version=1, columns=columns, row=old_row), new_state=OldState)
    template = make_queue(uri=f"{old.uri}-template")
    await template.insert_many([{"conid": conid, "symbol": "OLD"} for conid in range(1, rows + 1)])
    (failed,) = await template.get_batch(1)
    await template.mark_failed(failed, "no such contract")
    written = [old_row(**{name: row[name] for name in old_row._fields}) for row in template.current().to_dicts()]
    old.submit(lambda _state, _moment: Decision(written, None)).result()
    old.close()
    clock.advance(10)
    queue = make_queue()
    await queue.insert(9_999, "NEW", due_at=clock.now() - timedelta(seconds=11))
    assert [item.conid for item in await queue.get_batch(3)] == [9_999, 2, 3]
    (again,) = await queue.redrive()
    assert (again.conid, again.due_at) == (1, again.created_at)
    assert DeltaTable(queue.uri).metadata().configuration["v6kit.schema"] == "position_queue/2"
