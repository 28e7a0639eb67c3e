"""Real Delta tables below a temporary folder, and handles on them that are closed after the test."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tallies import SPEC, Tallies
from v6kit.clock import FakeClock
from v6kit.ledger import Ledger
from v6kit.queue import PositionQueue

LedgerMaker = Callable[..., Ledger[Any, Any]]
QueueMaker = Callable[..., PositionQueue]


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still at 2026-11-20 14:30 UTC until a test moves it."""
    return FakeClock()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The place of a table that does not exist yet."""
    return str(tmp_path / "lake" / "table")


@pytest.fixture
def make_ledger(uri: str, clock: FakeClock) -> Iterator[LedgerMaker]:
    """Make handles on one ledger of tallies, as several processes would have."""
    made: list[Ledger[Any, Any]] = []

    def make(**options: Any) -> Ledger[Any, Any]:
        wanted = {"uri": uri, "spec": SPEC, "new_state": Tallies, "clock": clock} | options
        made.append(Ledger(wanted.pop("uri"), wanted.pop("spec"), wanted.pop("new_state"), **wanted))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture
def ledger(make_ledger: LedgerMaker) -> Ledger[Any, Any]:
    """An open ledger of tallies."""
    opened = make_ledger()
    opened.open().result()
    return opened


@pytest.fixture
async def make_queue(uri: str, clock: FakeClock) -> AsyncIterator[QueueMaker]:
    """Make handles on one queue, as several processes would have."""
    made: list[PositionQueue] = []

    def make(**options: Any) -> PositionQueue:
        wanted = {"uri": uri, "clock": clock} | options
        made.append(PositionQueue(wanted.pop("uri"), **wanted))
        return made[-1]

    yield make
    for queue in made:
        await queue.close()


@pytest.fixture
async def queue(make_queue: QueueMaker) -> PositionQueue:
    """An open, empty queue."""
    return await make_queue().initialize()


@pytest.fixture
def fingerprint() -> Callable[[str | Path], dict[str, str]]:
    """Tell what is below a folder: every path with a digest of its content."""

    def take(folder: str | Path) -> dict[str, str]:
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return take
