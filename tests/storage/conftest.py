"""Real Delta tables below a temporary folder or in an object store, and handles on them that are closed afterwards."""

from __future__ import annotations

import hashlib
import multiprocessing
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores import Place, Proxy, ProxyServer, servers
from tallies import SPEC, Tallies
from v6kit.clock import FakeClock
from v6kit.ledger import Ledger, upkeep
from v6kit.ledger.store import Store
from v6kit.queue import PositionQueue

LedgerMaker = Callable[..., Ledger[Any, Any]]
QueueMaker = Callable[..., PositionQueue]


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still at 2026-11-20 14:30 UTC until a test moves it."""
    return FakeClock()


@pytest.fixture(scope="session")
def s3() -> Iterator[Place]:
    """An S3 server for the whole run."""
    with servers.s3() as place:
        yield place


@pytest.fixture(scope="session")
def azure() -> Iterator[Place]:
    """An Azure server for the whole run."""
    with servers.azure() as place:
        yield place


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A lake of the test's own: a local folder, or in the stores that a mark such as `EVERYWHERE` asks for."""
    name = getattr(request, "param", "local")
    if name == "local":
        return Place("local", str(tmp_path / "lake"))
    store: Place = request.getfixturevalue(name)
    return replace(store, lake=f"{store.lake}/{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def proxy_server() -> Iterator[ProxyServer]:
    """The process in which proxies run."""
    with ProxyServer(ctx=multiprocessing.get_context("spawn")) as server:
        yield server


@pytest.fixture
def proxy(place: Place, proxy_server: ProxyServer) -> Iterator[Proxy]:
    """A proxy in front of the place's store, which does no harm until a test asks for it."""
    started = Proxy(proxy_server, place.port)
    yield started
    started.stop()


@pytest.fixture
def uri(place: Place) -> str:
    """The place of a table that does not exist yet."""
    return place.table("table")


@pytest.fixture(scope="module")
def no_turns() -> Iterator[None]:
    """Let writers of a local table meet, as they do in an object store, or when one waits too long for its turn."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Store, "turn", lambda _store: nullcontext())
        yield


@pytest.fixture
def only_asked_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let upkeep come only where a test asks for it; by itself it may come at any of a ledger's first versions."""
    monkeypatch.setattr(upkeep, "is_due", lambda *_versions: False)


@pytest.fixture
def make_ledger(place: Place, uri: str, clock: FakeClock) -> Iterator[LedgerMaker]:
    """Make handles on one ledger of tallies, as several processes would have."""
    made: list[Ledger[Any, Any]] = []

    def make(**options: Any) -> Ledger[Any, Any]:
        wanted = {
            "uri": uri, "spec": SPEC, "new_state": Tallies, "clock": clock, "storage_options": place.options
        } | options  # fmt: skip
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
async def make_queue(place: Place, uri: str, clock: FakeClock) -> AsyncIterator[QueueMaker]:
    """Make handles on one queue, as several processes would have."""
    made: list[PositionQueue] = []

    def make(**options: Any) -> PositionQueue:
        wanted = {"uri": uri, "clock": clock, "storage_options": place.options} | options
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
