"""A lake that is moved: its files hold no address of their own, so a copy of them is the lake."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from v6kit.clock import FakeClock
from v6kit.history import TableHistory
from v6kit.ledger import upkeep
from v6kit.queue import PositionQueue


def copy_to_bucket(folder: Path, place) -> None:
    """Copy every file below a folder into a bucket, as `aws s3 sync` does."""
    bucket, _, prefix = place.lake.removeprefix("s3://").partition("/")
    client = boto3.client(
        "s3",
        endpoint_url=place.options["aws_endpoint_url"],
        region_name=place.options["aws_region"],
        aws_access_key_id=place.options["aws_access_key_id"],
        aws_secret_access_key=place.options["aws_secret_access_key"],
    )
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")


@pytest.mark.parametrize("place", ["s3"], indirect=True)
async def test_a_lake_that_is_copied_into_a_bucket_goes_on_there_with_its_past(place, tmp_path, clock: FakeClock):
    """Also after upkeep, whose snapshot of the current state comes along."""
    folder = tmp_path / "lake"
    async with PositionQueue(folder / "position_queue", clock=clock) as queue:
        first, second = await queue.insert_many([{"conid": 1, "symbol": "SPY"}, {"conid": 2, "symbol": "QQQ"}])
        await queue.mark_success((await queue.get_batch(1))[0])
        upkeep.run(queue.ledger._new_store(), queue.ledger._write_snapshot)
        current = queue.current()
    copy_to_bucket(folder, place)

    uri = place.table("position_queue")
    async with PositionQueue(uri, clock=clock, storage_options=place.options) as moved:
        assert moved.current().equals(current)
        await moved.mark_success(await moved.get_batch())
        assert set(moved.current()["status"]) == {"SUCCESS"}
    past = TableHistory(uri, storage_options=place.options)
    assert set(past.as_of(1)["request_id"]) == {first, second}
    assert set(past.as_of(1)["status"]) == {"PENDING"}
