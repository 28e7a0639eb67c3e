"""The desk: open, run, look, close; in every place that code runs from, and with everything that can go wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deltalake
import polars as pl
import pytest
import v6kit
from broker_helpers import DEADLINE
from sync_helpers import FAST, Breakage, eventually, legs_of, without_throttle
from v6kit.engine import Engine
from v6kit.errors import GatewayUnavailableError, SchemaMismatchError, StorageError, V6KitError
from v6kit.gateway import Answer, SimulatedGateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import GatewayMaker
    from v6kit.contracts import Quote
    from v6kit.desk import Desk


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    with without_throttle():
        yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("v6kit"):
            thread.join(DEADLINE)
            assert not thread.is_alive(), f"{thread.name} was left behind"


def simulated(positions: int = 20, **settings: Any) -> SimulatedGateway:
    """Return a gateway of the test's own, which the desk starts and stops."""
    return SimulatedGateway(positions, **({"snapshot_hold": 0.02, "tick_interval": 0.02} | FAST | settings))


async def opened(lake: Path, gateway: SimulatedGateway | None = None, **settings: Any) -> Desk:
    """Open a desk on a simulated gateway of its own."""
    return await v6kit.open(lake, "simulated", gateway=gateway or simulated(), **settings)


async def test_open_run_look_and_close(tmp_path: Path):
    """The README's first lines: a strategy streams, a cycle refreshes the rest, and everything can be looked at."""
    gateway = simulated()
    desk = await opened(tmp_path / "lake", gateway)
    legs = legs_of(*gateway.account.iron_condors[0])
    await desk.registry.add_strategy(1, legs, kind="IRON_CONDOR")
    await desk.sync()
    assert desk.streamer.streaming == {leg.conid for leg in legs}
    report = await desk.run_cycle()
    assert report.settled == 16
    assert "16 refreshed" in repr(report)
    assert (desk.lines.streams, desk.lines.snapshots, desk.lines.limit) == (4, 0, 100)
    assert set(desk.lines.holders["conid"]) == {leg.conid for leg in legs}
    assert desk.is_simulated
    assert desk.gateway is gateway
    assert "simulated gateway (no real account)" in repr(desk)
    assert "simulated gateway" in desk._repr_html_()
    await desk.close()
    assert gateway.lines_in_use == 0
    assert not gateway.is_running
    assert "closed" in repr(desk)


async def test_a_desk_remembers_as_long_as_it_is_told(tmp_path: Path):
    """How long and how durable reaches the tables, all of them or the ones that are named."""
    async with await opened(tmp_path, history_days={"position_queue": 7}, durable="power") as desk:
        tables = (desk.registry, desk.queue, desk.positions)
        assert [table.ledger.property("v6kit.history_days") for table in tables] == ["", "7", ""]
        assert {table.ledger.durable for table in tables} == {"power"}
    async with await opened(tmp_path, history_days=30) as desk:
        assert {table.ledger.property("v6kit.history_days") for table in (desk.registry, desk.queue)} == {"30"}


async def test_without_a_broker_the_desk_says_that_it_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Nobody may take made-up prices for real ones."""
    async with await v6kit.open(tmp_path, gateway=simulated(0)) as desk:
        assert "simulated gateway, no real account" in capsys.readouterr().out
        assert desk.is_simulated


async def test_history_of_every_table(tmp_path: Path):
    """Each table can be looked at as of a version and item by item; another name is refused with those there are."""
    async with await opened(tmp_path) as desk:
        await desk.registry.add_active(1, "SPY", sec_type="STK")
        await desk.run_cycle()
        request = desk.queue.current().row(0, named=True)
        timeline = desk.history("position_queue").timeline(request["request_id"])
        assert timeline["status"].to_list() == ["PENDING", "PROCESSING", "SUCCESS"]
        assert desk.history("position_updates").versions().height >= 2
        assert desk.history("active_strategies").as_of(1)["conid"].to_list() == [1]
        with pytest.raises(ValueError, match=r"one of active_strategies, position_queue, position_updates, got 'x'"):
            desk.history("x")


async def test_start_and_stop_from_the_cell(tmp_path: Path):
    """The worker runs by itself after `start`, and gives everything back at `stop`; streams go on."""
    async with await opened(tmp_path, interval=0.05) as desk:
        assert desk.start() is desk
        assert desk.worker.is_running
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        desk.queue.ledger.on_commit(
            lambda rows: loop.call_soon_threadsafe(done.set) if {row.change for row in rows} == {"SUCCESS"} else None
        )
        async with asyncio.timeout(DEADLINE):
            await done.wait()
        await desk.stop()
        assert not desk.worker.is_running
        assert desk.queue.held_claims() == ()
        assert desk.streamer.is_running


async def test_closing_twice_and_at_once_is_one_end(tmp_path: Path):
    """Every call of `close` returns when all is closed, whoever was first."""
    desk = await opened(tmp_path)
    await asyncio.gather(desk.close(), desk.close(), asyncio.to_thread(lambda: asyncio.run(desk.close())))
    assert desk._engine.loop.is_closed()
    await desk.close()


async def test_a_close_that_is_not_waited_for_goes_on(tmp_path: Path):
    """Ctrl-C in the cell that closes leaves nothing half open."""
    gateway = simulated()
    desk = await opened(tmp_path, gateway)
    closing = asyncio.create_task(desk.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await desk.close()
    assert not gateway.is_running


async def test_a_closed_desk_says_so(tmp_path: Path):
    """Every use after `close` is an error that names the lake and the next step."""
    desk = await opened(tmp_path)
    await desk.close()
    for use in (desk.run_cycle, desk.sync, desk.stop):
        with pytest.raises(StorageError, match=r"is closed; open it again with v6kit\.open"):
            await use()
    with pytest.raises(StorageError, match="is closed"):
        desk.start()
    with pytest.raises(StorageError, match="is closed"):
        await desk.queue.insert(1, "SPY")
    with pytest.raises(V6KitError, match="open the desk again"):
        await desk.worker.run_cycle()


async def test_closing_a_desk_whose_lake_is_broken_still_closes_everything(tmp_path: Path):
    """The error reaches the caller; sockets, threads and the gateway end nevertheless."""
    gateway = simulated()
    desk = await opened(tmp_path / "lake", gateway)
    gateway.account.set_position(gateway.account.positions[0].instrument.conid, 77)
    await eventually(lambda: desk.streamer._writer.inflow.positions)
    Breakage(desk.positions)
    with pytest.raises(StorageError):
        await desk.close()
    assert not gateway.is_running
    assert desk._engine.loop.is_closed()


async def test_a_table_that_does_not_close_keeps_nothing_else_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other tables and the engine end all the same, and the error arrives."""
    desk = await v6kit.open(tmp_path / "lake", broker="simulated", gateway=simulated())
    close = desk.queue.ledger.close

    def fail() -> None:
        close()
        raise OSError("the disk is gone")

    monkeypatch.setattr(desk.queue.ledger, "close", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        await desk.close()
    assert not desk.registry.ledger.is_open
    assert not desk.positions.ledger.is_open
    assert "v6kit-engine" not in {thread.name for thread in threading.enumerate()}


async def test_closing_gives_back_what_is_claimed(tmp_path: Path):
    """A desk that is closed within a cycle leaves no claim behind, and the cycle of the other cell returns."""
    gateway = simulated(snapshot_hold=30.0)
    desk = await opened(tmp_path, gateway, interval=30)
    cycle = asyncio.create_task(desk.run_cycle())
    await eventually(lambda: gateway.lines_in_use == 20)
    async with asyncio.timeout(DEADLINE):
        await desk.close()
        assert (await cycle).released == 20
    async with v6kit.PositionQueue(tmp_path / "position_queue") as queue:
        assert queue.stats().by_status["PENDING"] == 20


def test_a_plain_script_needs_no_loop(tmp_path: Path):
    """`run_sync` opens, runs and closes a desk; every call has a loop of its own, and the desk its engine."""
    gateway = simulated()
    desk = v6kit.run_sync(opened(tmp_path, gateway))
    assert v6kit.run_sync(desk.run_cycle()).settled == 20
    assert len(v6kit.run_sync(desk.registry.get_all_active())) == 0
    v6kit.run_sync(desk.close())


async def test_run_sync_works_where_a_loop_is_running(tmp_path: Path):
    """A callback in a cell cannot await; it blocks its own loop, not the desk's."""
    async with await opened(tmp_path) as desk:
        assert v6kit.run_sync(desk.run_cycle()).settled == 20


async def test_a_desk_serves_several_loops(tmp_path: Path):
    """Two loops on two threads use one desk at once."""
    async with await opened(tmp_path) as desk:
        reports = await asyncio.gather(
            desk.run_cycle(), asyncio.to_thread(lambda: asyncio.run(desk.run_cycle())), desk.worker.run_cycle()
        )
        assert sum(report.settled for report in reports) == 20


async def test_a_cell_that_computes_does_not_starve_the_engine(tmp_path: Path):
    """While a cell keeps its thread busy, ticks keep coming and are written."""
    gateway = simulated(tick_interval=0.05)
    async with await opened(tmp_path, gateway) as desk:
        await desk.registry.add_strategy(1, legs_of(*gateway.account.iron_condors[0]))
        await desk.sync()
        quotes: list[Quote] = []
        desk.broker.on_quote(quotes.append)
        version, seen, deadline = desk.positions.ledger.version, len(quotes), time.monotonic() + DEADLINE
        while len(quotes) < seen + 20 or desk.positions.ledger.version == version:
            sum(range(1000))  # this loop never gets a turn meanwhile
            assert time.monotonic() < deadline


async def test_nobody_there_is_told_and_leaves_nothing_behind(tmp_path: Path, make_gateway: GatewayMaker):
    """A wrong port fails at once, with the next step; no thread, socket or task stays."""
    gateway = await make_gateway(1)
    await gateway.stop()
    with pytest.raises(GatewayUnavailableError, match="7497"):
        await v6kit.open(tmp_path, f"127.0.0.1:{gateway.port}")


async def test_a_client_id_in_use_is_told(tmp_path: Path, make_gateway: GatewayMaker):
    """Running the first cell in two notebooks names the id, and does not disturb the first one."""
    gateway = await make_gateway(3, clock=None)
    address = f"{gateway.host}:{gateway.port}"
    async with await v6kit.open(tmp_path, address) as desk:
        with pytest.raises(GatewayUnavailableError, match="client id 7 is in use"):
            await v6kit.open(tmp_path, address)
        assert (await desk.run_cycle()).settled == 3
        assert f"at {address}, live" in repr(desk)
    assert gateway.client_ids == []


async def test_a_second_desk_on_a_simulated_gateway_leaves_it_to_the_first(tmp_path: Path):
    """Running the cell that opens a desk again fails, or opens another one; what runs already goes on either way."""
    gateway = simulated(3)
    async with await opened(tmp_path, gateway) as desk:
        with pytest.raises(GatewayUnavailableError, match="client id 7 is in use"):
            await opened(tmp_path, gateway)
        async with await opened(tmp_path, gateway, client_id=8) as second:
            assert second.gateway is None
        assert (await desk.run_cycle()).settled == 3
        assert desk.broker.state == "live"
    assert not gateway.is_running


@pytest.mark.parametrize("silent", [Answer.POSITION_END, Answer.ACCOUNT_DOWNLOAD_END])
async def test_a_gateway_that_answers_half_is_no_desk(tmp_path: Path, make_gateway: GatewayMaker, silent: Answer):
    """Positions without their end are no positions: opening fails, and nothing was booked as flat."""
    gateway = await make_gateway(3)
    gateway.faults.silent_answers.add(silent)
    with pytest.raises(GatewayUnavailableError, match="did not send its positions and account"):
        await v6kit.open(tmp_path, gateway.address, connect_timeout=0.3)
    assert gateway.client_ids == []
    assert deltalake.DeltaTable(str(tmp_path / "position_updates")).version() == 0


async def test_a_lake_that_is_a_file_is_refused(tmp_path: Path):
    """The error says what is there and what to do."""
    (tmp_path / "lake").write_text("not a folder")
    with pytest.raises(StorageError, match=r"lake must be a folder, but .* is a file; choose another path"):
        await opened(tmp_path / "lake")


async def test_a_lake_below_a_file_is_refused(tmp_path: Path):
    """So is a place where no folder can be made."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="is a file"):
        await opened(tmp_path / "file" / "lake")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux, whose /proc takes no folder from anybody")
async def test_a_place_that_cannot_be_written_is_refused():
    """The file system's own word for it comes along, also for a user who may write everywhere."""
    with pytest.raises(StorageError, match="/proc/v6kit"):
        await opened(Path("/proc/v6kit"))


async def test_a_table_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path):
    """Somebody else's table of that name: no thread, gateway or version is left behind."""
    place = str(tmp_path / "position_queue")
    deltalake.write_deltalake(place, pl.DataFrame({"theirs": [1]}))
    gateway = simulated()
    with pytest.raises(SchemaMismatchError, match="nothing was touched"):
        await opened(tmp_path, gateway)
    assert not gateway.is_running
    assert deltalake.DeltaTable(place).version() == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"broker": "localhost"}, "broker must be 'simulated' or 'HOST:PORT'"),
        ({"broker": "localhost:0"}, "port must be at least 1, got 0"),
        ({"broker": " "}, "broker must not be empty"),
        ({"client_id": 0}, "client_id must be at least 1, got 0"),
        ({"market_data_type": 5}, "market_data_type must be 1, 2, 3 or 4, got 5"),
        ({"interval": 0}, "interval must be finite and greater than 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"sync_interval": -1}, "sync_interval must be finite and greater than 0"),
        ({"line_limit": 5}, "leave no line of limit"),
        ({"line_reserve": -1}, "line_reserve must be at least 0"),
        ({"connect_timeout": 0}, "connect_timeout must be finite and greater than 0"),
        ({"durable": "always"}, "durable must be 'process'"),
        ({"history_days": 0}, "history_days must be at least 1, got 0"),
        ({"history_days": {"queue": 3}}, "history_days: there is no table 'queue'; there are active_strategies"),
        ({"broker": "127.0.0.1:1", "gateway": SimulatedGateway(0)}, "gateway goes with broker='simulated' only"),
    ],
)
async def test_a_wrong_argument_is_named_and_nothing_is_touched(tmp_path: Path, wrong: dict[str, Any], says: str):
    """The lake is not even made."""
    with pytest.raises(ValueError, match=says):
        await v6kit.open(tmp_path / "lake", **({"broker": "simulated"} | wrong))
    assert not (tmp_path / "lake").exists()


async def test_two_desks_on_one_lake_refresh_nothing_twice(tmp_path: Path, make_gateway: GatewayMaker):
    """Two notebooks of one trader share lake and gateway: each request is done once, a strategy streams at both."""
    gateway = await make_gateway(30, clock=None, **FAST)
    async with (
        await v6kit.open(tmp_path, gateway.address, client_id=1, batch_size=5) as one,
        await v6kit.open(tmp_path, gateway.address, client_id=2, batch_size=5) as two,
    ):

        async def drain(desk: Desk) -> int:
            done = 0
            while (report := await desk.run_cycle()).claimed:
                done += report.settled
            return done

        assert sum(await asyncio.gather(drain(one), drain(two))) == 30
        await one.queue.refresh()
        assert set(one.queue.current()["attempt"]) == {1}
        legs = legs_of(*gateway.account.iron_condors[0])
        await one.registry.add_strategy(1, legs)
        await two.sync()
        assert two.streamer.streaming == {leg.conid for leg in legs}
    assert gateway.lines_in_use == 0


async def test_a_restart_finds_everything_again(tmp_path: Path):
    """A kernel restart: registry, book and queue are as they were, and the strategy streams at once."""
    gateway = simulated()
    async with await opened(tmp_path, gateway) as desk:
        legs = legs_of(*gateway.account.iron_condors[0])
        await desk.registry.add_strategy(1, legs)
        await desk.run_cycle()
        book = desk.positions.current()
    async with await opened(tmp_path, simulated()) as desk:
        assert desk.streamer.streaming == {leg.conid for leg in legs}
        again = desk.positions.current()
        assert again["conid"].to_list() == book["conid"].to_list()
        assert again["bid"].null_count() <= book["bid"].null_count()


def test_an_interrupted_open_closes_what_was_open(tmp_path: Path):
    """Cancelled while it waits for the gateway, `open` leaves no engine behind."""
    gateway = simulated()

    async def interrupted() -> None:
        gateway.faults.handshake_only = True
        opening = asyncio.create_task(opened(tmp_path, gateway))
        await eventually(lambda: gateway.log.connections)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(interrupted())
    assert not gateway.is_running


def test_an_engine_that_is_closed_refuses_work():
    """What is submitted too late is an error, not a coroutine that is never awaited."""
    engine = Engine()
    engine.close()
    engine.close()
    with pytest.raises(V6KitError, match="has ended"):
        engine.submit(asyncio.sleep(0))
