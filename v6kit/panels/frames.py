"""What the panels show, as polars frames; "copy as code" leads here.

What is now comes without I/O, as this process knows the tables; what was, is read from the lake.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from v6kit.contracts import DEFAULT_STRATEGY_PRIORITY, Quality, Source
from v6kit.errors import VersionUnavailableError
from v6kit.ledger import INSTANT, LedgerTable, When
from v6kit.queue import Status

if TYPE_CHECKING:
    from v6kit.desk import Desk
    from v6kit.sync import CycleReport

# What to look at first: what was refused, what never came, what may be out of date, what came in part.
_NEED = {Quality.ERROR.value: 0, None: 1, Quality.STALE.value: 2, Quality.PARTIAL.value: 3, Quality.OK.value: 4}
_LINE_KINDS = {"stream": 0, "snapshot": 1, "waiting": 2}

_CYCLES: dict[str, pl.DataType] = {
    "cycle": pl.Int64(),
    "started_at": INSTANT,
    "seconds": pl.Float64(),
    **dict.fromkeys(
        ("claimed", "settled", "retried", "failed", "cancelled", "released", "stale", "in_flight"), pl.Int64()
    ),
    "versions": pl.String(),
    "why": pl.String(),
    "key": pl.String(),
}
_QUOTE: dict[str, pl.DataType] = {
    "conid": pl.Int64(),
    **dict.fromkeys(("bid", "ask", "mark", "delta"), pl.Float64()),
    "received_at": INSTANT,
    "quality": pl.String(),
}
Read = Callable[["Desk", When | None], pl.DataFrame]
_READ: weakref.WeakKeyDictionary[Desk, dict[Read, tuple[tuple[int, ...], pl.DataFrame]]] = weakref.WeakKeyDictionary()
_OF_A_CYCLE = [name for name in _CYCLES if name not in ("versions", "why", "key")]


def contract() -> pl.Expr:
    """Return the contract as a trader writes it, `SPY 261218 C 595`, from symbol, expiry, right and strike.

    The same as `v6kit.contracts.label`, for a whole column.
    """
    strike = pl.col("strike").cast(pl.String).str.replace(r"\.0$", "")
    return pl.concat_str(
        pl.col("symbol"), pl.col("expiry").str.slice(2), pl.col("right"), strike, separator=" ", ignore_nulls=True
    ).alias("contract")


def contains(text: str, columns: Sequence[str]) -> pl.Expr:
    """Return whether a row has every word of a text somewhere in these columns, in any case.

    Args:
        text: Words, apart by spaces; each is looked for as it is, not as a pattern.
        columns: Where to look.
    """
    hay = pl.concat_str([pl.col(name).cast(pl.String) for name in columns], separator=" ", ignore_nulls=True)
    hay = hay.str.to_lowercase()
    return pl.all_horizontal(pl.lit(True), *(hay.str.contains(word, literal=True) for word in text.lower().split()))


def queue(desk: Desk, at: When | None = None) -> pl.DataFrame:
    """Return the queue: the columns of `desk.queue.current()`, `contract` and `lease`.

    Live requests first, by priority and age. `lease` is `lease_until` while it counts, in PROCESSING.

    Args:
        desk: Whose queue.
        at: As of when, as in `TableHistory.as_of`; default now. The past is read from the lake.
    """
    return _once(_queue, desk, at, desk.queue, desk.positions)


def _queue(desk: Desk, at: When | None) -> pl.DataFrame:
    return (
        _requests(desk, at)
        .join(_names(desk, at), on="conid", how="left", maintain_order="left")
        .with_columns(
            pl.col("contract").fill_null(pl.col("symbol")),
            lease=pl.when(pl.col("status") == Status.PROCESSING.value).then("lease_until"),
        )
    )


def book(desk: Desk, at: When | None = None) -> pl.DataFrame:
    """Return the book: the columns of `desk.positions.current()`, `contract`, `key` and `known`, in order of need.

    Need: refused, then never quoted, stale, partial and good ones; among equals the oldest quote first. `at` as in
    `queue`.
    """
    return _once(_book, desk, at, desk.positions)


def _book(desk: Desk, at: When | None) -> pl.DataFrame:
    return (
        _positions(desk, at)
        .with_columns(
            contract(),
            key=pl.concat_str("account", pl.col("conid").cast(pl.String), separator=":"),
            known=pl.col("quality").fill_null("never"),
        )
        .sort(
            pl.col("quality").replace_strict(_NEED, default=0, return_dtype=pl.Int8),
            "received_at",
            "account",
            "conid",
            nulls_last=False,
        )
    )


def strategies(desk: Desk, at: When | None = None) -> pl.DataFrame:
    """Return one row per strategy and account, removed ones included, the active ones first; `at` as in `queue`.

    Columns: strategy_id, account, kind, priority, state (`active`, or `removed` when no leg is left), symbols, legs
    (active ones, or those that were), lines (how many of them stream), since, by, key.
    """
    state = pl.col("removed_at").is_null()
    counted = pl.when(state.any()).then(state.sum()).otherwise(pl.len()).cast(pl.Int64)
    streaming = pl.col("conid").is_in(sorted(_streams(desk, at))) & state
    last = pl.col("updated_at").arg_max()
    return (
        _legs(desk, at)
        .group_by("strategy_id", "account")
        .agg(
            pl.col("strategy").get(last).alias("kind"),
            pl.col("priority").get(last).fill_null(DEFAULT_STRATEGY_PRIORITY),
            pl.when(state.any()).then(pl.lit("active")).otherwise(pl.lit("removed")).alias("state"),
            pl.col("symbol").unique().sort().str.join(", ").alias("symbols"),
            counted.alias("legs"),
            pl.when(state.any()).then(streaming.sum()).cast(pl.Int64).alias("lines"),
            pl.when(state.any())
            .then(pl.col("added_at").filter(state).min())
            .otherwise(pl.col("removed_at").max())
            .alias("since"),
            pl.col("updated_by").get(last).alias("by"),
        )
        .with_columns(key=strategy_key())
        .sort(pl.col("state") != "active", pl.col("strategy_id").cast(pl.Int64, strict=False), "strategy_id", "account")
    )


def legs(desk: Desk, key: str, at: When | None = None) -> pl.DataFrame:
    """Return the legs of one strategy with their quotes, by expiry and strike; `at` as in `queue`.

    Args:
        desk: Whose strategies.
        key: As in `strategies`.
        at: See `queue`.

    Returns:
        conid, contract, quantity, how (`stream`, or `queue` while there is no line for it, or `removed`), bid, ask,
        mark, delta, received_at, quality. The legs are those that are active; of a removed strategy, those that were.
    """
    wanted = _legs(desk, at).filter(strategy_key() == key)
    active = wanted.filter(pl.col("removed_at").is_null())
    how = pl.when(pl.col("conid").is_in(sorted(_streams(desk, at)))).then(pl.lit("stream")).otherwise(pl.lit("queue"))
    known = _or_nothing(_positions, desk, at).select(*_QUOTE).sort("received_at").unique("conid", keep="last")
    streamed = _streamed(desk, wanted["conid"]) if at is None else known.clear()
    quotes = pl.concat([streamed, known]).unique("conid", keep="first", maintain_order=True)
    return (
        (active if active.height else wanted)
        .with_columns(contract(), how=pl.when(pl.col("removed_at").is_null()).then(how).otherwise(pl.lit("removed")))
        .sort("expiry", "strike", "right", "conid")
        .select("conid", "contract", "quantity", "how")
        .join(
            quotes,
            on="conid",
            how="left",
            maintain_order="left",
        )
    )


def _streamed(desk: Desk, conids: Iterable[int]) -> pl.DataFrame:
    """Return the newest quotes of streams: a leg may be registered before it is held, and the book has what is held."""
    quotes = filter(None, map(desk.broker.latest, conids))
    rows = [
        (each.conid, each.bid, each.ask, each.mark()[0], each.delta, each.received_at, each.quality.value)
        for each in quotes
    ]
    return pl.DataFrame(rows, schema=_QUOTE, orient="row")


def strategy_key() -> pl.Expr:
    """Return what names a strategy in one text: its id, and the account if it is bound to one."""
    return pl.concat_str("strategy_id", "account", separator="@", ignore_nulls=True)


def lines(desk: Desk, at: When | None = None) -> pl.DataFrame:
    """Return who holds a market data line, then who waits: kind, contract, strategies, users, since, why, conid.

    `at` as in `queue`; of the past, only the streams of strategies are known.
    """
    names = _names(desk, at)
    users = (
        _legs(desk, at)
        .filter(pl.col("removed_at").is_null())
        .with_columns(name=pl.concat_str("strategy_id", "strategy", separator=" "))
        .group_by("conid")
        .agg(contract().first().alias("leg"), pl.col("name").unique().sort().str.join(", ").alias("strategies"))
    )
    return (
        _holders(desk, at)
        .join(names, on="conid", how="left")
        .join(users, on="conid", how="left")
        .with_columns(
            contract=pl.coalesce("contract", "leg", pl.col("conid").cast(pl.String)),
            key=pl.concat_str("kind", "conid", "since", separator=":", ignore_nulls=True),
        )
        .drop("leg")
        .sort(pl.col("kind").replace_strict(_LINE_KINDS), "strategies", "contract", "since", nulls_last=True)
    )


# --- the tables, now and then ---------------------------------------------------------------------------------------


def _requests(desk: Desk, at: When | None) -> pl.DataFrame:
    if at is None:
        return desk.queue.current()
    then = desk.history("position_queue").as_of(at)
    done = pl.col("status").is_in([Status.PENDING.value, Status.PROCESSING.value]).not_()
    return then.sort(done, "priority", "due_at", "request_id")


def _positions(desk: Desk, at: When | None) -> pl.DataFrame:
    if at is None:
        return _once(_held, desk, at, desk.positions)
    return desk.history("position_updates").as_of(at).filter(pl.col("position") != 0)


def _held(desk: Desk, _at: When | None) -> pl.DataFrame:
    return desk.positions.current()


def _legs(desk: Desk, at: When | None) -> pl.DataFrame:
    """Return every leg that ever was by then, removed ones with `removed_at`."""
    return desk.registry.every_leg() if at is None else desk.history("active_strategies").as_of(at)


def _once(read: Read, desk: Desk, at: When | None, *tables: LedgerTable[Any, Any]) -> pl.DataFrame:
    """Return what is now as it was read last, if no table has changed: several panels, and figures, show the same."""
    if at is not None or not all(table.ledger.is_open for table in tables):
        return read(desk, at)
    versions, known = tuple(table.ledger.version for table in tables), _READ.setdefault(desk, {})
    if read not in known or known[read][0] != versions:
        known[read] = versions, read(desk, None)
    return known[read][1].clone()


def _or_nothing(table: Read, desk: Desk, at: When | None) -> pl.DataFrame:
    """Return a table that others are only joined with; nothing, where it had not begun yet."""
    try:
        return table(desk, at)
    except VersionUnavailableError:
        return table(desk, None).clear()


def _names(desk: Desk, at: When | None) -> pl.DataFrame:
    return _once(_named, desk, at, desk.positions)


def _named(desk: Desk, at: When | None) -> pl.DataFrame:
    return _or_nothing(_positions, desk, at).select("conid", contract()).unique("conid", keep="any")


def _streams(desk: Desk, at: When | None) -> frozenset[int]:
    """Return what streams; of the past, what had its price from a stream."""
    if at is None:
        return desk.broker.streaming
    streamed = _or_nothing(_positions, desk, at).filter(pl.col("source") == Source.STREAM.value)
    return frozenset(streamed["conid"])


def _holders(desk: Desk, at: When | None) -> pl.DataFrame:
    """Return the lines in use and who waits: what stays of a holder, without how long it has been one."""
    use = desk.lines
    now = use.holders.select("kind", "conid", "since", "why", "users")
    if at is None:
        waiting = use.waiting.select(pl.lit("waiting").alias("kind"), "conid", "why")
        return pl.concat([now, waiting], how="diagonal")
    streams = sorted(_streams(desk, at))
    legs = _legs(desk, at).filter(pl.col("removed_at").is_null(), pl.col("conid").is_in(streams)).group_by("conid")
    held = legs.agg(pl.col("added_at").min().alias("since"), pl.len().cast(pl.Int64).alias("users"))
    told = held.with_columns(kind=pl.lit("stream"), why=pl.lit("a strategy's leg, streamed as the book tells"))
    return told.select(pl.col(name).cast(kind) for name, kind in now.schema.items())


def cycles(reports: Iterable[CycleReport]) -> pl.DataFrame:
    """Return one row per cycle, newest first: what its report says, and in `why` what held it back or went wrong."""
    rows = [
        {name: getattr(report, name) for name in _OF_A_CYCLE}
        | {"key": str(report.cycle), "versions": "v{} → v{}".format(*report.versions), "why": _why(report)}
        for report in reports
    ]
    return pl.DataFrame(rows, schema=_CYCLES).reverse()


def _why(report: CycleReport) -> str | None:
    problems = [f"{count} × {message}" for message, count in report.problems.items()]
    return "; ".join(filter(None, [report.held_back, *problems])) or None


def oldest(frame: pl.DataFrame, column: str, now: datetime) -> timedelta | None:
    """Return how long ago the earliest instant of a column is, or `None` if there is none."""
    first = frame[column].min()
    return now - first if isinstance(first, datetime) else None
