"""Reading without v6kit: one documented query gives the current state, in any reader of Delta tables."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import deltalake
import polars as pl
import pytest
from v6kit.contracts import AccountPosition, Instrument, Leg
from v6kit.ledger import upkeep
from v6kit.positions import PositionBook
from v6kit.queue import Outcome, PositionQueue
from v6kit.registry import StrategyRegistry

README = Path(__file__).parents[2] / "README.md"
QUERY = "SELECT * FROM {table} WHERE seq IN (SELECT max(seq) FROM {table} GROUP BY {key})"
READERS = {
    "polars": """
import polars as pl
frame = pl.SQLContext({table}=pl.scan_delta(uri)).execute(query, eager=True)
""",
    "duckdb": """
import deltalake, duckdb
{table} = deltalake.DeltaTable(uri).to_pyarrow_dataset()
frame = duckdb.sql(query).pl()
""",
    "pandas": """
import deltalake, polars as pl, pyarrow as pa
found = deltalake.QueryBuilder().register("{table}", deltalake.DeltaTable(uri)).execute(query)
frame = pl.from_pandas(pa.table(found).to_pandas(), nan_to_null=True)
""",
}


async def queue_table(uri, clock) -> pl.DataFrame:
    """Make a queue with every status in it, after upkeep and a prune; return its current state."""
    queue = await PositionQueue(uri, clock=clock).initialize()
    await queue.insert_many([{"conid": conid, "symbol": "SPY", "priority": 1 + conid % 2} for conid in range(1, 61)])
    await queue.mark_success(await queue.get_batch(10))
    clock.advance(timedelta(days=2))
    batch = await queue.get_batch(6, lease=timedelta(days=9))
    await queue.settle(
        [
            Outcome.success(batch[0]),
            Outcome.failed(batch[1], "no security definition"),
            Outcome.retry(batch[2], "slow"),
            Outcome.cancelled(batch[3], "closed"),
        ]
    )
    assert (await queue.prune(clock.now() - timedelta(days=1))).rows == 30
    upkeep.run(queue.ledger._new_store(), queue.ledger._write_snapshot)
    current = queue.current()
    await queue.close()
    return current


async def book_table(uri, clock) -> pl.DataFrame:
    """Make a book with positions that changed, and one that was closed."""
    instruments = [Instrument(conid=conid, symbol="SPY", sec_type="STK") for conid in range(1, 6)]
    async with PositionBook(uri, clock=clock) as book:
        for held, size in ((instruments, 10.0), (instruments[1:], -5.0)):
            await book.sync(
                [AccountPosition(account="DU1", instrument=one, position=size, avg_cost=1.5) for one in held]
            )
        return book.current()


async def registry_table(uri, clock) -> pl.DataFrame:
    """Make a registry with legs that were changed, and one that was removed."""
    async with StrategyRegistry(uri, clock=clock) as registry:
        legs = [
            Leg(conid=conid, symbol="SPY", right="C", strike=500.0 + conid, expiry="20261218") for conid in range(1, 5)
        ]
        await registry.add_strategy(1, legs, kind="CUSTOM")
        await registry.add_strategy(1, legs, kind="VERTICAL")
        await registry.remove_active(2)
        return registry.current()


TABLES = {
    "position_queue": (queue_table, "request_id", ""),
    "position_updates": (book_table, "account, conid", " AND position <> 0"),
    "active_strategies": (registry_table, "strategy_id, account, conid", " AND removed_at IS NULL"),
}


@pytest.fixture(params=TABLES)
async def table(request, uri, clock) -> tuple[str, str, pl.DataFrame]:
    """A table of ours: its name, the query for its key, and its current state."""
    make, key, condition = TABLES[request.param]
    return request.param, QUERY.format(table=request.param, key=key) + condition, await make(uri, clock)


@pytest.mark.parametrize("reader", READERS)
def test_the_current_state_is_one_query_in_any_reader(table, uri, tmp_path, reader):
    """The same rows and values as v6kit's own, in a process that never imports it."""
    name, query, current = table
    code = f"uri, query = {uri!r}, {query!r}\n{READERS[reader].format(table=name)}\n"
    code += f"import sys\nassert 'v6kit' not in sys.modules\nframe.write_parquet({str(tmp_path / 'found.parquet')!r})\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    found = pl.read_parquet(tmp_path / "found.parquet").sort("seq")
    expected = current.sort("seq")
    assert found.height == expected.height > 0
    assert found.select(pl.col(column).cast(kind) for column, kind in expected.schema.items()).equals(expected)


def test_the_readme_shows_these_very_queries():
    """What is documented is what is tested."""
    text = README.read_text("utf-8")
    assert QUERY.format(table="position_queue", key="request_id") in text
    for name, (_, key, condition) in TABLES.items():
        assert f"| `{name}` | `{key}` | {f'`{condition.strip()}`' if condition else ''}" in text


async def test_other_tools_may_compact_a_table_of_ours(queue: PositionQueue, make_queue):
    """The compaction and vacuum of deltalake itself, as a user may run them, change nothing that we see or do."""
    for conid in range(1, 11):
        await queue.insert(conid, "SPY")
    table = deltalake.DeltaTable(queue.uri)
    table.optimize.compact()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    await queue.insert(11, "SPY")
    upkeep.run(queue.ledger._new_store(), queue.ledger._write_snapshot)
    again = await make_queue().initialize()
    await queue.refresh()
    assert again.current().equals(queue.current())
    assert len(await again.get_batch(50)) == 11
    rows = pl.read_delta(queue.uri)
    assert rows["seq"].sort().to_list() == list(range(1, 23))
