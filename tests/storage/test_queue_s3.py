"""The same promises on an object store: a real HTTP S3 interface with conditional put, on this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from v6kit.errors import StaleClaimError, StorageError
from v6kit.ledger import Past, snapshot, upkeep
from v6kit.ledger import store as store_module
from v6kit.ledger.store import Store
from v6kit.queue import PositionQueue
from v6kit.queue.requests import SPEC

INSTALL = "no S3 server to test with; install one with: uv pip install 'moto[server]'"


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    """Start an S3 server with an empty bucket `lake`, and return the storage options for it."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = shutil.which("moto_server", path=here)
    if server is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(INSTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [server, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            next(line for line in process.stderr if "Running on" in line)
            # It logs every request; a pipe that nobody empties would stop it after a few hundred.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            address = f"http://127.0.0.1:{port}"
            with urllib.request.urlopen(urllib.request.Request(f"{address}/lake", method="PUT")):  # noqa: S310 - ours
                pass
            yield {
                "aws_endpoint_url": address, "aws_allow_http": "true", "aws_region": "us-east-1",
                "aws_access_key_id": "key", "aws_secret_access_key": "secret",
            }  # fmt: skip
        finally:
            process.kill()


@pytest.fixture
def uri(request, options) -> str:  # noqa: ARG001 - the server must run
    """A table of the test's own."""
    return f"s3://lake/{request.node.name}/position_queue"


@pytest.fixture
def make_queue(make_queue, options):
    """Make handles on one queue in the bucket."""
    return lambda **more: make_queue(storage_options=options, **more)


async def test_two_handles_on_s3_never_claim_the_same_request(make_queue):
    """Conditional put keeps stale writers out: nothing twice, nothing lost, and it survives a restart."""
    one, two = make_queue(), make_queue()
    await asyncio.gather(one.initialize(), two.initialize())
    await one.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 101)])
    batches = await asyncio.gather(*(queue.get_batch(5) for _ in range(10) for queue in (one, two)))
    assert sorted(item.conid for batch in batches for item in batch) == list(range(1, 101))
    for queue, batch in zip((one, two) * 10, batches, strict=True):
        await queue.mark_success(batch)
    three = await make_queue().initialize()
    await one.refresh()
    assert three.current().equals(one.current())
    assert three.stats().by_status["SUCCESS"] == 100


async def test_a_late_worker_on_s3_changes_nothing(make_queue, clock):
    """Leases and fencing are the ledger's, whatever is below it."""
    late, other = make_queue(), make_queue()
    await late.insert(1, "SPY")
    (item,) = await late.get_batch(lease=timedelta(seconds=60))
    clock.advance(60)
    (again,) = await other.get_batch()
    with pytest.raises(StaleClaimError):
        await late.mark_success(item)
    await other.mark_success(again)


async def test_a_commit_on_s3_whose_answer_was_lost_counts_once(make_queue, monkeypatch):
    """The put went through, the connection broke: the insert is there, once."""
    queue = await make_queue().initialize()
    real = store_module.write_deltalake

    def commit(*args, **kwargs) -> None:
        real(*args, **kwargs)
        raise OSError(104, "Connection reset by peer")

    with monkeypatch.context() as broken:
        broken.setattr(store_module, "write_deltalake", commit)
        known = await queue.insert(1, "SPY")
    assert (await make_queue().initialize()).current()["request_id"].to_list() == [known]


async def test_upkeep_and_the_past_work_on_s3(make_queue, options):
    """Compaction, vacuum, checkpoint, snapshot and time travel; of two compactions one is refused."""
    queue = make_queue()
    for conid in range(1, upkeep.SMALL_FILES_DUE + 5):
        await queue.insert(conid, "SPY")
    one, two = Store(queue.uri, options), Store(queue.uri, options)
    two.open()
    upkeep.run(one, queue.ledger._write_snapshot)
    with pytest.raises(StorageError, match="compacting failed"):
        two.compact(upkeep.TARGET_BYTES)
    assert Store(queue.uri, options).files().height == 1
    assert snapshot.read(one, SPEC, options).seq == upkeep.SMALL_FILES_DUE + 4
    again: PositionQueue = await make_queue().initialize()
    assert again.stats().live == upkeep.SMALL_FILES_DUE + 4
    assert Past(queue.uri, ["request_id"], storage_options=options).as_of(3).height == 3
