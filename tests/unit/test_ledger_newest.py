"""`newest_per_key` against the same said in plain words: the row with the highest seq of each key, by seq."""

from __future__ import annotations

import random

import polars as pl
import pytest
from v6kit.ledger import newest_per_key

ROWS = 100_000


def plainly(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Return the same by a dictionary."""
    newest = {tuple(row[name] for name in key): row for row in rows.sort("seq").iter_rows(named=True)}
    return pl.DataFrame(list(newest.values()), schema=rows.schema).sort("seq")


def ledger_of(keys: int, *, near: int) -> pl.DataFrame:
    """Return a ledger whose keys come again within `near` rows."""
    chance = random.Random(keys)
    numbers = [(seq // near * 7 + chance.randrange(near)) % keys for seq in range(ROWS)]
    return pl.DataFrame(
        {
            "account": [None if number % 11 == 0 else f"DU{number % 3}" for number in numbers],
            "conid": numbers,
            "request_id": [f"request-{number}" for number in numbers],
            "seq": range(1, ROWS + 1),
        }
    )


@pytest.mark.parametrize("key", [["conid"], ["request_id"], ["account", "conid"], ["account"]])
@pytest.mark.parametrize(("keys", "near"), [(50, ROWS), (40_000, 50), (40_000, ROWS), (10**9, 1_000)])
def test_the_newest_row_of_each_key_is_found_however_far_apart_its_rows_are(key, keys, near):
    """Few keys and many, rows of a key next to each other and at both ends, null among them."""
    rows = ledger_of(keys, near=near)
    assert newest_per_key(rows, key).equals(plainly(rows, key))


def test_rows_in_any_order_come_back_in_the_order_of_seq():
    """Files of a table have no order among them."""
    rows = ledger_of(40_000, near=50)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=7)
    assert newest_per_key(shuffled, ["request_id"]).equals(newest_per_key(rows, ["request_id"]))


def test_a_ledger_without_rows_has_no_newest_ones():
    """The columns stay."""
    rows = ledger_of(5, near=5).clear()
    assert newest_per_key(rows, ["account", "conid"]).equals(rows)
