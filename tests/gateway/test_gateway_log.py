"""The simulated gateway's record of traffic: asked in a line, waited for, kept in a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.gateway import SimulatedGateway, WireLog, WireRecord
from v6kit.gateway.log import RECORDS_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_requests_are_found_by_name_client_and_contract(
    gateway: SimulatedGateway, connect: Any, routed: Callable[..., ib_async.Contract]
) -> None:
    """One line tells who asked for what."""
    first, second = [await connect(gateway, client_id) for client_id in (1, 2)]
    one, other = (each.instrument for each in gateway.account.positions[:2])
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(first.reqTickersAsync(routed(one)), second.reqTickersAsync(routed(one), routed(other)))
    assert len(gateway.log.requests("REQ_MKT_DATA")) == 3
    (asked,) = gateway.log.requests("REQ_MKT_DATA", client_id=2, conid=other.conid)
    assert (asked.client_id, asked.named["snapshot"], asked.named["exchange"]) == (2, "1", "SMART")
    req_id = int(asked.named["reqId"])
    assert [each.name for each in gateway.log.answers(client_id=2, req_id=req_id)][-1] == "TICK_SNAPSHOT_END"
    assert gateway.log.requests(conid=one.conid, client_id=1) == [gateway.log.requests("REQ_MKT_DATA", client_id=1)[0]]


async def test_a_record_reads_as_a_sentence(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Fields have IB's names, empty ones are left out, and the direction is an arrow."""
    ib.reqMarketDataType(3)
    await gateway.log.wait_for("REQ_MARKET_DATA_TYPE")
    (record,) = gateway.log.requests("REQ_MARKET_DATA_TYPE")
    assert repr(record) == "<client 1 -> REQ_MARKET_DATA_TYPE marketDataType=3>"
    assert repr(gateway.log.answers("MANAGED_ACCOUNTS")[0]) == "<client 1 <- MANAGED_ACCOUNTS accounts=DU0000001>"
    assert repr(gateway.log.answers("COMPLETED_ORDERS_END")[0]) == "<client 1 <- COMPLETED_ORDERS_END >"


def test_the_legs_of_a_combination_are_not_taken_for_other_fields() -> None:
    """What stands behind a number of legs that varies has no name."""
    fields = ("1", "11", "5", "0", "SPY", "BAG", *[""] * 9, "2", "11", "1", "BUY", "SMART")
    named = WireRecord(0.0, 1, "received", "REQ_MKT_DATA", fields).named
    assert named["secType"] == "BAG"
    assert "genericTicks" not in named


async def test_a_message_can_be_waited_for(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """The wait ends with the message, and at once if it has been already."""
    log = gateway.log
    waiting = asyncio.ensure_future(log.wait_for("REQ_CURRENT_TIME", log.received["REQ_CURRENT_TIME"] + 2))
    await ib.reqCurrentTimeAsync()
    assert not waiting.done()
    await ib.reqCurrentTimeAsync()
    async with asyncio.timeout(DEADLINE):
        await waiting
        await log.wait_for("CURRENT_TIME", 2)


async def test_a_message_can_be_waited_for_on_another_loop(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """A desk's engine, a test's loop and the gateway's need not be the same."""
    waiting = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(gateway.log.wait_for("CURRENT_TIME"))))
    async with asyncio.timeout(DEADLINE):
        while not gateway.log._waits:  # noqa: ASYNC110 - nothing signals that a wait has begun
            await asyncio.sleep(0)
        await ib.reqCurrentTimeAsync()
        await waiting


async def test_a_message_that_does_not_come_is_named_with_how_many_did(gateway: SimulatedGateway) -> None:
    """The error is what a failing test shows."""
    with pytest.raises(TimeoutError, match=r"2 REQ_PNL expected within 0\.01 s, 0 seen so far"):
        await gateway.log.wait_for("REQ_PNL", 2, seconds=0.01)
    assert gateway.log._waits == []


async def test_a_name_that_no_message_has_is_refused(gateway: SimulatedGateway) -> None:
    """A typing error must not look like silence."""
    with pytest.raises(ValueError, match="got 'REQ_MKTDATA'"):
        gateway.log.requests("REQ_MKTDATA")
    with pytest.raises(ValueError, match="got 'REQ_MKT_DATA'"):
        gateway.log.answers("REQ_MKT_DATA")
    with pytest.raises(ValueError, match="got 'TICKS'"):
        await gateway.log.wait_for("TICKS")


async def test_without_a_record_there_is_a_count_and_no_empty_answer(make_gateway: Any, connect: Any) -> None:
    """An empty list would claim that nothing was asked."""
    gateway = await make_gateway(record=False)
    await connect(gateway)
    await gateway.log.wait_for("POSITION_END")
    with pytest.raises(ValueError, match=r"SimulatedGateway\(record=True\)"):
        gateway.log.requests()
    assert "messages not kept" in repr(gateway.log)
    assert not gateway.log.records


def test_memory_is_bounded() -> None:
    """The newest messages are kept, the oldest go."""
    log = WireLog(record=True)
    for number in range(RECORDS_KEPT + 5):
        log.note_received(float(number), 1, 49, ("49", "1"))
    assert (len(log.records), log.records[0].at) == (RECORDS_KEPT, 5.0)
    assert repr(log) == f"<WireLog {RECORDS_KEPT + 5} received, 0 sent, refused: nothing; {RECORDS_KEPT} messages kept>"


async def test_a_file_has_every_message_as_a_line(make_gateway: Any, connect: Any, tmp_path: Path) -> None:
    """The file agrees with the memory, is appended to after a restart, and closed at the end."""
    path = tmp_path / "traffic.jsonl"
    gateway = await make_gateway(record=path)
    await connect(gateway)
    await gateway.stop()
    await gateway.start()
    await connect(gateway)
    await gateway.stop()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(each["name"], tuple(each["fields"])) for each in lines] == [
        (each.name, each.fields) for each in gateway.log.records
    ]
    assert {each["direction"] for each in lines} == {"received", "sent"}


async def test_a_file_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    """Nothing listens when the record that was asked for cannot be had."""
    gateway = SimulatedGateway(0, record=tmp_path / "none" / "traffic.jsonl")
    with pytest.raises(FileNotFoundError, match=r"traffic\.jsonl"):
        await gateway.start()
    assert not gateway.is_running


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_full_disk_ends_the_file_and_not_the_clients(
    make_gateway: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages go on, in memory too, and a warning says why the file does not."""
    ib = await connect(await make_gateway(record="/dev/full"))
    assert len(ib.positions()) == 40
    assert "/dev/full is written no longer" in caplog.text
