"""What differs between states of a table, and since when: pure functions of frames.

A column that a state does not have counts as null there. Columns that changed their type are compared as the numbers
that they are, or else as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from v6kit.ledger.moments import SINCE
from v6kit.ledger.spec import STAMP

ADDED, CHANGED, GONE, FOUND, UNKNOWN = "+", "~", "-", "=", "?"


def own_name(name: str, taken: Sequence[str]) -> str:
    """Return a name for a column of ours: with `_` in front where the table has one of that name itself."""
    while name in taken:
        name = f"_{name}"
    return name


def aligned(older: pl.DataFrame, newer: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return both with the same columns and types, the newer one's columns first."""
    if older.schema == newer.schema:
        return older, newer
    names = [*newer.columns, *(name for name in older.columns if name not in newer.schema)]
    kinds = {name: _common(older.schema.get(name), newer.schema.get(name)) for name in names}
    left, right = (
        frame.select(
            _as(frame.schema[name], kind, name) if name in frame.schema else pl.lit(None, kind).alias(name)
            for name, kind in kinds.items()
        )
        for frame in (older, newer)
    )
    return left, right


def common_columns(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return a frame without rows that has every column of all of these, in types that hold all of theirs."""
    common = frames[0].clear()
    for frame in frames[1:]:
        _, common = aligned(frame.clear(), common)
    return common


def to_columns(frame: pl.DataFrame, columns: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with the columns and types of another, which has all of its own."""
    return aligned(frame, columns)[0].select(columns.columns)


def holding(state: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that have the values of the one row that is wanted."""
    have, want = aligned(state.select(wanted.columns), wanted)
    is_held = (pl.col(name).eq_missing(pl.lit(want[name]).first()) for name in want.columns)  # a value may be a list
    return state.filter(have.select(pl.all_horizontal(is_held)).to_series())


def as_text(name: str, kind: pl.DataType) -> pl.Expr:
    """Return a column as text: nested values as JSON, bytes in hexadecimal."""
    if kind == pl.Binary:
        return pl.col(name).bin.encode("hex")
    if kind.is_nested():
        text = pl.struct(pl.col(name).alias("v")).struct.json_encode()
        value = text.str.strip_prefix('{"v":').str.strip_suffix("}")
        return pl.when(pl.col(name).is_not_null()).then(value).alias(name)
    return pl.col(name).cast(pl.String)


def diff_by_key(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return what changed: one row per key that differs; `diff`, the key, then `name` and `name_old` of each column.

    Args:
        before: Each key once.
        after: Likewise.
        key: The columns that name one item.
    """
    before, after = aligned(before, after)
    others = [name for name in after.columns if name not in key]
    old = {name: own_name(f"{name}_old", after.columns) for name in others}
    was, held, sign = (own_name(name, [*after.columns, *old.values()]) for name in ("was", "held", "diff"))
    both = after.with_columns(pl.lit(value=True).alias(held)).join(
        before.rename(old).with_columns(pl.lit(value=True).alias(was)),
        on=list(key),
        how="full",
        coalesce=True,
        nulls_equal=True,
    )
    differs = pl.any_horizontal(pl.lit(value=False), *(pl.col(name).ne_missing(pl.col(old[name])) for name in others))
    signs = (
        pl.when(pl.col(was).is_null())
        .then(pl.lit(ADDED))
        .when(pl.col(held).is_null())
        .then(pl.lit(GONE))
        .when(differs)
        .then(pl.lit(CHANGED))
    )
    changed = both.with_columns(signs.alias(sign)).filter(pl.col(sign).is_not_null())
    pairs = [part for name in others for part in (name, old[name])]
    return changed.select(sign, *key, *pairs).sort(sign, *key)


def diff_by_row(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Return which whole rows came and went: `diff`, `count` (how many of the same), and the columns.

    The same rows in both, however often, are no difference.
    """
    before, after = aligned(before, after)
    columns = after.columns
    sign, count = own_name("diff", columns), own_name("count", columns)
    sided = [frame.with_columns(pl.lit(side, pl.Int64).alias(count)) for frame, side in ((before, -1), (after, 1))]
    net = pl.concat(sided).group_by(columns, maintain_order=True).agg(pl.col(count).sum())
    signs = pl.when(pl.col(count) > 0).then(pl.lit(ADDED)).otherwise(pl.lit(GONE)).alias(sign)
    return net.filter(pl.col(count) != 0).select(signs, pl.col(count).abs(), *columns).sort(sign, maintain_order=True)


def in_rows(state: pl.DataFrame, key: Sequence[str], since: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Return one row per value of a state: the key, `column`, `value` as text, and since when it is so.

    Args:
        state: What is held; each key once.
        key: The columns that name one item.
        since: What is to be said of each column's values, row by row: structs with the fields of `SINCE`.
    """
    column, value = own_name("column", key), own_name("value", key)
    fields = [own_name(name, [*key, column, value]) for name in SINCE]
    kinds = state.schema
    parts = [
        state.select(
            pl.int_range(pl.len()).alias("#row"),
            *key,
            pl.lit(name).alias(column),
            as_text(name, kinds[name]).alias(value),
            since[name].struct.rename_fields(fields).alias("#since"),
        )
        for name in since
    ]
    nothing = state.clear().select(
        pl.int_range(pl.len()).alias("#row"),
        *key,
        pl.lit("").alias(column),
        pl.lit("").alias(value),
        pl.lit(None, pl.Struct(dict(zip(fields, SINCE.values(), strict=True)))).alias("#since"),
    )
    return pl.concat([nothing, *parts]).sort("#row", maintain_order=True).drop("#row").unnest("#since")


def blamed(rows: pl.DataFrame, key: Sequence[str], horizon: int) -> pl.DataFrame:
    """Return the values of each key's newest row, and which row each has been the same since, as `in_rows` does.

    Args:
        rows: States of a ledger, each of which says its `seq`, `version` and the like itself.
        key: The columns that name one item.
        horizon: What the first state of a key up to this seq says may have been so before.
    """
    rows = rows.sort(*key, "seq")
    is_other = (pl.col(name).ne_missing(pl.col(name).shift()) for name in key)
    is_first = rows.select(pl.any_horizontal(pl.int_range(pl.len()) == 0, *is_other)).to_series()
    newest = rows.with_row_index("#n").filter(is_first.shift(-1, fill_value=True)).sort("seq")
    vague = is_first & (rows["seq"] <= horizon)
    said = rows.select(
        "version",
        "updated_at",
        *(pl.when(~vague).then(pl.col(name)).alias(name) for name in ("change", "updated_by")),
        vague.alias("or_earlier"),
    ).to_struct()
    others = [name for name in rows.columns if name not in key and name not in STAMP]
    starts = rows.select(
        pl.when(is_first | pl.col(name).ne_missing(pl.col(name).shift()))
        .then(pl.int_range(pl.len()))
        .forward_fill()
        .alias(name)
        for name in others
    )
    since = {name: said.gather(starts[name].gather(newest["#n"])) for name in others}
    return in_rows(newest.select(*key, *others), key, since)


class Since:
    """Since which version each value of each row is what it is; fed with one state after the other.

    Args:
        key: The columns that name one item.
    """

    def __init__(self, key: Sequence[str]) -> None:
        self._key = {name: f"k{n}" for n, name in enumerate(key)}
        self._names: dict[str, str] = {}  # of each column that ever was, the name that it has in here: v0, v1, …
        self._held: pl.DataFrame | None = None  # k0 …, v0 …; s0 …: since when; r: since when there is such a row
        self.state = pl.DataFrame()

    def feed(self, version: int, state: pl.DataFrame) -> None:
        """Take in the state of a later version; each key once."""
        for name in state.columns:
            if name not in self._key:
                self._names.setdefault(name, f"v{len(self._names)}")
        now = state.rename({name: self._key.get(name) or self._names[name] for name in state.columns})
        self.state = state
        values = list(self._names.values())
        if self._held is None:
            self._held = now.with_columns(pl.lit(version).alias(name) for name in ("r", *map(_since, values)))
            return
        was, now = aligned(self._held.select(name for name in self._held.columns if name[0] in "kv"), now)
        was = was.with_columns(column for column in self._held.select("^[rs].*$"))
        both = now.join(
            was, on=list(self._key.values()), how="left", nulls_equal=True, maintain_order="left", suffix="_was"
        )
        is_new, here = pl.col("r").is_null(), pl.lit(version)
        self._held = both.select(
            *now.columns,
            pl.col("r").fill_null(version),
            *(
                pl.when(is_new | pl.col(name).ne_missing(pl.col(f"{name}_was")))
                .then(here)
                .otherwise(pl.col(_since(name)) if _since(name) in both.columns else pl.col("r"))
                .alias(_since(name))
                for name in values
            ),
        )

    def versions(self) -> pl.DataFrame:
        """Return the versions, row by row and column by column beside `state`."""
        if self._held is None:
            return pl.DataFrame()
        ours = {name: _since(self._names[name]) for name in self.state.columns if name not in self._key}
        return self._held.select(pl.col(mine).cast(pl.Int64).alias(name) for name, mine in ours.items())


def _since(name: str) -> str:
    return f"s{name}"


def _common(one: pl.DataType | None, other: pl.DataType | None) -> pl.DataType:
    if one is None or other is None or one == other:
        return one or other or pl.Null()
    if one.is_numeric() and other.is_numeric():
        return pl.concat(
            [pl.Series(dtype=one).to_frame("x"), pl.Series(dtype=other).to_frame("x")], how="vertical_relaxed"
        )["x"].dtype
    return pl.String()


def _as(have: pl.DataType, kind: pl.DataType, name: str) -> pl.Expr:
    if have == kind:
        return pl.col(name)
    return as_text(name, have) if kind == pl.String else pl.col(name).cast(kind)
