"""The past of a plain Delta table wherever it is: a local disk, S3 and Azure."""

from __future__ import annotations

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from stores import EVERYWHERE, Place
from v6kit.errors import VersionUnavailableError
from v6kit.history import TableHistory

pytestmark = EVERYWHERE


async def test_a_plain_table_is_looked_at_and_restored_wherever_it_is(place: Place, uri: str):
    """The options reach the log, the listing, the files and the restore; what was vacuumed is told apart."""
    for value in ("a b", "c%20d", "e"):
        rows = pl.DataFrame({"n": [1, 2], "p": ["x", value], "v": [value, "same"]})
        write_deltalake(uri, rows, mode="overwrite", partition_by=["p"], storage_options=place.options)
    history = TableHistory(uri, "n", storage_options=place.options)
    assert history.versions()["readable"].all()
    assert history.as_of(1)["p"].to_list() == ["x", "c%20d"]
    assert history.timeline(1)["v"].to_list() == ["a b", "c%20d", "e"]
    assert history.blame().filter(n=2).select("column", "version").rows() == [("p", 2), ("v", 0)]
    assert await history.restore(0) == 3
    table = DeltaTable(uri, storage_options=place.options)
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert history.versions()["readable"].to_list() == [True, False, False, True, True, True]
    with pytest.raises(VersionUnavailableError, match="readable: 0, 3–5"):
        history.as_of(1)
    assert history.diff(0, 3).is_empty()
    assert history.timeline(2)["diff"].to_list() == ["+", "?", "="]
