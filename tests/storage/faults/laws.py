"""What must be true of a queue's history, whatever was killed while it was made; and of a queue that opens on it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from v6kit.clock import FakeClock
from v6kit.errors import VersionUnavailableError
from v6kit.ledger import Past, newest_per_key
from v6kit.ledger.retention import HORIZON, Horizon
from v6kit.queue import PAUSED, PositionQueue
from v6kit.queue.requests import SPEC
from v6kit.queue.state import QueueState

from faults.scenes import turn

Shapes = list[tuple[int, list[tuple[object, ...]]]]  # by version: what each row changed
ENDS = ["SUCCESS", "FAILED", "CANCELLED"]
_OF_A_CLAIM = ["SUCCESS", "FAILED", "RETRY", "RELEASE", "EXTEND"]
_ITEM = ["seq", "request_id", "conid", "version", "change", "before"]


def history(uri: str | Path) -> pl.DataFrame:
    """Return every row that a table has, as a reader without v6kit finds it."""
    return pl.scan_delta(str(uri)).select(list(SPEC.columns)).collect().sort("seq")


def horizon_of(queue: PositionQueue) -> Horizon | None:
    """Return where the history of a queue begins, or `None` where it is whole."""
    return Horizon.of({HORIZON: queue.ledger.property(HORIZON)})


def broken_laws(rows: pl.DataFrame, horizon: Horizon | None = None) -> list[str]:
    """Return what is wrong with a whole history; nothing, it is to be hoped.

    Every row is the next one; a request begins with its insertion, is claimed only while nobody holds it, changes only
    by the hand of who holds it, and ends once unless it is redriven. What lies before a horizon may be missing.
    """
    last = [pl.col(name).shift(1).over("request_id").alias(f"last_{name}") for name in ("status", "claim_id")]
    rows = rows.with_columns(
        pl.col("change").shift(1).over("request_id").alias("before"),
        pl.col("lease_until").shift(1).over("request_id").alias("leased_until"),
        *last,
    )
    begins = horizon.seq if horizon is not None else 0
    is_new = pl.col("seq") > begins
    is_first = pl.col("before").is_null()
    is_held = (pl.col("last_status") == "PROCESSING") & (pl.col("leased_until") > pl.col("updated_at"))
    laws = {
        "a request that does not begin with an INSERT": is_new & is_first & (pl.col("change") != "INSERT"),
        "a second INSERT of a request": ~is_first & (pl.col("change") == "INSERT"),
        "a change after the end": pl.col("last_status").is_in(ENDS) & (pl.col("change") != "REDRIVE"),
        "a redrive of what has not failed": (pl.col("change") == "REDRIVE") & (pl.col("last_status") != "FAILED"),
        "a claim on what is held": (pl.col("change") == "CLAIM") & is_held,
        "a change by somebody without the claim": (
            pl.col("change").is_in(_OF_A_CLAIM) & (~is_held | (pl.col("claim_id") != pl.col("last_claim_id")))
        ),
    }
    found = [f"{name}: {bad.select(_ITEM).rows()}" for name, law in laws.items() if (bad := rows.filter(law)).height]
    seqs = rows["seq"].to_list()
    new = [seq for seq in seqs if seq > begins]
    if len(set(seqs)) < len(seqs) or new != list(range(begins + 1, begins + 1 + len(new))):
        found.append(f"seq has gaps or doubles: {seqs}")
    found += [f"{name} goes back" for name in ("version", "updated_at") if not rows[name].is_sorted()]
    return found


def shapes(rows: pl.DataFrame) -> Shapes:
    """Return what each version changed, without what is random about it: ids, instants and who it was."""
    columns = ["conid", "change", "status", "attempt", "seq"]
    return [
        (version, part.select(columns).rows()) for (version,), part in rows.group_by("version", maintain_order=True)
    ]


async def opened(uri: str | Path) -> tuple[PositionQueue, list[str]]:
    """Open a queue an hour later, when every lease is over; return it, and where it differs from its table."""
    queue = await PositionQueue(
        uri, worker_id="survivor", clock=FakeClock(datetime.now(UTC) + timedelta(hours=1))
    ).initialize()
    rows = visible(queue)
    ours = queue.current().sort("request_id")
    state = QueueState()
    state.apply(rows)
    found = []
    if not SPEC.gather(state.held()).sort("request_id").equals(ours):
        found.append("the state from the snapshot is not the state from all rows")
    if not newest_per_key(rows, SPEC.key).sort("request_id").equals(ours):
        found.append("the state is not what the table says")
    return queue, found


def visible(queue: PositionQueue) -> pl.DataFrame:
    """Return the rows of a queue that its horizon leaves to be seen: those before it may be on the disk, or gone."""
    rows, horizon = history(queue.uri), horizon_of(queue)
    return rows if horizon is None else horizon.keep(rows.lazy(), SPEC.key).collect().sort("seq")


async def goes_on(queue: PositionQueue) -> list[str]:
    """Insert, claim and settle: everything that is live ends well; return what does not."""
    if queue.ledger.property(PAUSED):
        await queue.resume()
    wanted = await queue.insert(1_000_001, "NEW")
    claimed = await queue.get_batch(1_000)
    await queue.mark_success(claimed)
    if wanted not in {item.request_id for item in claimed}:
        return ["a new request is not claimed"]
    left = queue.current().filter(~pl.col("status").is_in(ENDS))
    return [f"not claimed: {left.rows()}"] if left.height else []


def mismatches(queue: PositionQueue) -> list[str]:
    """Return the versions at which time travel differs from the rows, or reaches behind the horizon."""
    rows, horizon, past = visible(queue), horizon_of(queue), Past(queue.uri, SPEC.key)
    begins = horizon.version if horizon is not None else 0
    found = []
    for version in [each for each in rows["version"].unique() if each >= begins]:
        wanted = newest_per_key(rows.filter(pl.col("version") <= version), SPEC.key)
        if not past.as_of(version).equals(wanted):
            found.append(f"time travel to {version}")
    if begins:
        with suppress(VersionUnavailableError):
            past.as_of(begins - 1)
            found.append("time travel reaches behind the horizon")
    return found


async def keeps(queue: PositionQueue) -> list[str]:
    """Look at every version, then do a turn of upkeep; return what is wrong, or different afterwards."""
    before = visible(queue)
    found = await asyncio.to_thread(mismatches, queue)
    await turn(queue)
    return found if visible(queue).equals(before) else [*found, "a turn of upkeep changed the history"]
