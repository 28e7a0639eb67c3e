"""`TableHistory`: the past of a ledger, read beside those who write it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from v6kit.errors import TableMissingError, VersionUnavailableError
from v6kit.history import TableHistory
from v6kit.queue import PositionQueue

if TYPE_CHECKING:
    from v6kit.clock import FakeClock


async def test_what_did_we_know_and_why(queue: PositionQueue, clock: FakeClock):
    """Versions, the state as of each kind of moment, the difference of two, and one item's whole way."""
    first = await queue.insert(1, "SPY")
    clock.advance(41)
    batch = await queue.get_batch()
    then = clock.now()
    clock.advance(2)
    await queue.mark_success(batch)
    history = TableHistory(queue.uri, queue.SPEC.key, clock=clock)
    assert history.versions()["changes"].to_list() == ["INSERT 1", "CLAIM 1", "SUCCESS 1"]
    assert history.as_of(1)["status"].to_list() == ["PENDING"]
    assert history.as_of(then)["status"].to_list() == ["PROCESSING"]
    assert history.as_of(then.isoformat(" "))["status"].to_list() == ["PROCESSING"]
    assert history.diff(1, 3)["diff", "status", "status_old"].rows() == [("~", "SUCCESS", "PENDING")]
    timeline = history.timeline(first)
    assert timeline["status"].to_list() == ["PENDING", "PROCESSING", "SUCCESS"]
    assert timeline["lasted"].to_list() == [timedelta(seconds=41), timedelta(seconds=2), None]


async def test_moments_that_cannot_be_are_refused(queue: PositionQueue, clock: FakeClock):
    """Naive, in the future, before the beginning, or a version that there is not: each says so."""
    await queue.insert(1, "SPY")
    history = TableHistory(queue.uri, queue.SPEC.key, clock=clock)
    with pytest.raises(ValueError, match="naive"):
        history.as_of(datetime(2026, 11, 20, 14, 30))  # noqa: DTZ001 - that is the mistake
    with pytest.raises(VersionUnavailableError, match="future"):
        history.as_of(clock.now() + timedelta(hours=1))
    with pytest.raises(VersionUnavailableError):
        history.as_of(clock.now() - timedelta(days=1))
    with pytest.raises(VersionUnavailableError):
        history.as_of(9)


def test_a_table_that_is_not_there_is_said_so(tmp_path):
    """Looking at the past makes no table."""
    with pytest.raises(TableMissingError):
        TableHistory(tmp_path / "none", ["conid"]).versions()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"key": 5}, "key must be a column's name or several, got 5"),
        ({"key": ["conid", 5]}, r"key must be a column's name or several, got \['conid', 5\]"),
        ({"table": "registry"}, "table must be the open object of a ledger, e.g. desk.registry, got 'registry'"),
    ],
)
def test_a_key_or_table_that_is_none_is_refused_at_once(tmp_path, given, text):
    """Not when it is used first, in the words of somebody who does not know it."""
    with pytest.raises(TypeError, match=text):
        TableHistory(tmp_path, **given)


async def test_looking_does_not_disturb_a_writer(queue: PositionQueue, clock: FakeClock):
    """Reading the past writes nothing, and says where and by which key."""
    await queue.insert(1, "SPY")
    history = TableHistory(queue.uri, queue.SPEC.key, clock=clock)
    history.versions(), history.as_of(1)
    assert await queue.refresh() is False
    assert repr(history) == f"TableHistory({queue.uri!r}, key=['request_id'])"
    assert (history.uri, history.key) == (queue.uri, ("request_id",))
