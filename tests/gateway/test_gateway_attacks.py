"""Clients that send garbage, or nothing, or never read: a healthy real client beside them must lose nothing."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.gateway import session
from v6kit.gateway.wire import API_SIGN, LENGTH, MAX_FRAME, Answer, Request, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from v6kit.clock import FakeClock
    from v6kit.gateway import SimulatedGateway

    GatewayMaker = Callable[..., Awaitable[SimulatedGateway]]

OFFER = b"v157..178"
HELLO = API_SIGN + LENGTH.pack(len(OFFER)) + OFFER
LOG_IN = frame(("71", "2", "66", ""))

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100f1010000ed0303") + bytes(230),
    "no versions": API_SIGN + LENGTH.pack(5) + b"hello",
    "old version": API_SIGN + LENGTH.pack(5) + b"v1..2",
    "two gigabytes": HELLO + LENGTH.pack(2**31),
    "negative": HELLO + b"\xff\xff\xff\xff",
    "a byte too many": HELLO + LENGTH.pack(MAX_FRAME + 1),
    "empty": HELLO + LENGTH.pack(0),
    "no end": HELLO + LENGTH.pack(3) + b"abc",
    "no text": HELLO + LENGTH.pack(3) + b"\xff\xfe\0",
    "no message id": HELLO + frame(("hello", "world")),
    "no startApi": HELLO + frame(("61", "1")),
    "garbage after log-in": HELLO + LOG_IN + LENGTH.pack(2**31),
    "text that is no text after log-in": HELLO + LOG_IN + LENGTH.pack(4) + b"49\xff\0",
    "random": random.Random(7).randbytes(4096),
    "random after the handshake": HELLO + b"\xff" + random.Random(8).randbytes(4096),
}


class Healthy:
    """A real client with a stream, whose every tick is accounted for."""

    def __init__(self, gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB, ticker: ib_async.Ticker) -> None:
        self.gateway, self.clock, self.ib, self.ticker = gateway, clock, ib, ticker
        self.ticked = asyncio.Event()
        ticker.updateEvent += lambda _ticker: self.ticked.set()

    async def ticks(self, rounds: int = 3) -> None:
        """Move the time on and wait for the ticks of each step."""
        conid = self.ticker.contract.conId
        for _ in range(rounds):
            self.clock.advance(30)
            price = round(self.gateway.market.quote(conid).greeks.underlying_price, 4)
            async with asyncio.timeout(DEADLINE):
                while self.ticker.modelGreeks is None or self.ticker.modelGreeks.undPrice != price:
                    self.ticked.clear()
                    await self.ticked.wait()

    async def has_lost_nothing(self) -> bool:
        """Tell whether every message that was sent to this client has arrived; the first one is the handshake."""
        async with asyncio.timeout(DEADLINE):
            await self.ib.reqCurrentTimeAsync()
        return self.ib.client.connectionStats().numMsgRecv == 1 + len(self.gateway.log.answers(client_id=1))


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A gateway that does not count messages, so that an attack is met by what this file is about."""
    return await make_gateway(messages_per_second=None)


@pytest.fixture
async def healthy(gateway: SimulatedGateway, clock: FakeClock, ib: ib_async.IB, routed: Callable) -> Healthy:
    """Client 1 of the gateway, with a stream that has ticked."""
    healthy = Healthy(gateway, clock, ib, ib.reqMktData(routed(gateway.account.positions[0].instrument)))
    await healthy.ticks(1)
    return healthy


class Attacker:
    """A bare socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.send = writer.write

    async def is_cut(self) -> bool:
        """Read until the gateway closes the connection."""
        with suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                while await self.reader.read(1 << 16):
                    pass
        return True

    async def message(self) -> list[str]:
        """Return the next message's fields."""
        async with asyncio.timeout(DEADLINE):
            (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            return (await self.reader.readexactly(length)).decode().split("\0")[:-1]


@pytest.fixture
async def attack(gateway: SimulatedGateway) -> AsyncIterator[Callable[[], Awaitable[Attacker]]]:
    """Open sockets to the gateway; they are closed after the test."""
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Attacker:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writers.append(writer)
        return Attacker(reader, writer)

    yield connect
    for writer in writers:
        writer.close()
    await asyncio.gather(*(each.wait_closed() for each in writers), return_exceptions=True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why connections were closed; nothing worse may have been logged."""
    assert [each.getMessage() for each in caplog.records if each.levelno > logging.WARNING] == []
    return [each.getMessage() for each in caplog.records if "closing client" in each.getMessage()]


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_ends_only_the_connection_it_came_from(
    healthy: Healthy, attack: Callable, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The client that talks nonsense is cut off with a log line, while the other one's ticks keep coming."""
    attacker = await attack()
    attacker.send(GARBAGE[kind])
    await healthy.ticks()
    assert await attacker.is_cut()
    await healthy.ticks()
    assert await healthy.has_lost_nothing()
    assert len(warnings_of(caplog)) == 1
    assert healthy.gateway.client_ids == [1]


@pytest.mark.parametrize("seed", range(4))
async def test_no_message_with_known_id_and_random_fields_breaks_the_gateway(
    healthy: Healthy, attack: Callable, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """Whatever a client asks, it gets an answer or the door, and no error inside."""
    draw = random.Random(seed)
    words = [
        "",
        "0",
        "1",
        "-1",
        "7",
        "2147483647",
        "-99999999999999999",
        "1e308",
        "nan",
        "inf",
        "-0.5",
        "x",
        "é",
        "BAG",
    ]
    words += ["OPT", "SPY", "C", "SMART", "DU0000001", "NetLiquidation", str(healthy.ticker.contract.conId)]
    ids = [each.value for each in Request if each is not Request.START_API] + [999, -1, 10**17]
    attacker = await attack()
    attacker.send(HELLO + LOG_IN)
    drain = asyncio.ensure_future(attacker.is_cut())
    for _ in range(500):
        fields = (draw.choice(words) for _ in range(draw.randrange(24)))
        attacker.send(frame((str(draw.choice(ids)), *fields)))
    attacker.send(frame((str(Request.REQ_IDS.value), "1", "1")))
    await healthy.ticks()
    await healthy.gateway.log.wait_for("REQ_IDS")
    assert healthy.gateway.log.refused.total() > 100
    attacker.writer.close()
    await drain
    assert await healthy.has_lost_nothing()
    assert warnings_of(caplog) == []


async def test_a_client_that_sends_byte_by_byte_is_answered(healthy: Healthy, attack: Callable) -> None:
    """A slow client that is logged in does no harm, and its request is complete at its last byte."""
    attacker = await attack()
    attacker.send(HELLO + LOG_IN)
    request = frame(("9", "8", "5", str(healthy.ticker.contract.conId), *[""] * 11, "0", "", "", ""))
    for byte in request:
        attacker.send(bytes([byte]))
        await healthy.ticks(1)
    while (await attacker.message())[0] != str(Answer.CONTRACT_DETAILS.value):
        pass
    assert await healthy.has_lost_nothing()


async def test_a_log_in_that_takes_too_long_is_cut_off(
    make_gateway: GatewayMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that says nothing, or a byte now and then, does not stay."""
    gateway = await make_gateway(login_seconds=0.2)
    silent, slow = [Attacker(*await asyncio.open_connection(gateway.host, gateway.port)) for _ in range(2)]
    cut = asyncio.ensure_future(asyncio.gather(silent.is_cut(), slow.is_cut()))
    for byte in HELLO * 100:
        slow.send(bytes([byte]))
        if (await asyncio.wait({cut}, timeout=0.05))[0]:
            break
    assert await cut == [True, True]
    assert len(warnings_of(caplog)) == 2
    assert "has not logged in within 0.2 s" in caplog.text
    for each in (silent, slow):
        each.writer.close()


async def test_a_stall_does_not_count_against_a_log_in(make_gateway: GatewayMaker, connect: Callable) -> None:
    """While the gateway itself reads nothing, nobody can log in."""
    gateway = await make_gateway(login_seconds=0.05)
    gateway.faults.stalled = True
    waiting = asyncio.ensure_future(connect(gateway))
    assert not (await asyncio.wait({waiting}, timeout=0.3))[0]
    gateway.faults.stalled = False
    async with asyncio.timeout(DEADLINE):
        await waiting


async def test_connections_that_never_start_make_room_for_newer_ones(
    healthy: Healthy, attack: Callable, connect: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a thousand idle connections a hundred stay; a client can still log in, and who is in notices nothing."""
    attackers = [await attack() for _ in range(1000)]
    other = await connect(healthy.gateway, 2)
    assert len(other.positions()) == 40
    assert sum(each.is_newcomer for each in healthy.gateway._shared.sessions) <= session.NEWCOMERS
    assert await attackers[0].is_cut()
    await healthy.ticks()
    assert await healthy.has_lost_nothing()
    assert len(warnings_of(caplog)) >= 900


async def test_a_client_that_never_reads_is_cut_off(
    healthy: Healthy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded, and its requests do not keep the others from their ticks."""
    monkeypatch.setattr(session, "UNSENT_LIMIT", 100_000)
    gateway, loop = healthy.gateway, asyncio.get_running_loop()
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    await loop.sock_connect(deaf, (gateway.host, gateway.port))
    await loop.sock_sendall(deaf, HELLO + LOG_IN)
    with suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE):
            while len(gateway.client_ids) < 2:
                await healthy.ticks(1)
            while len(gateway.client_ids) > 1:
                await loop.sock_sendall(deaf, frame(("61", "1")) * 20)
                await healthy.ticks(1)
    deaf.close()
    await healthy.ticks()
    assert await healthy.has_lost_nothing()
    assert "it does not read" in warnings_of(caplog)[0]


async def test_what_a_stalled_gateway_takes_in_is_bounded(
    make_gateway: GatewayMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops reading at a limit; afterwards everything that was sent is read."""
    monkeypatch.setattr(session, "UNREAD_LIMIT", 1000)
    gateway = await make_gateway(messages_per_second=None)
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    writer.write(HELLO + LOG_IN)
    await gateway.log.wait_for("NEXT_VALID_ID")
    gateway.faults.stalled = True
    large = frame(("49", "1", "x" * 60_000))
    writer.write(large * 20)
    (inside,) = gateway._shared.sessions
    async with asyncio.timeout(DEADLINE):
        while inside._transport.is_reading():  # noqa: ASYNC110 - a transport signals nothing of this
            await asyncio.sleep(0)
    assert inside._reader.waiting < 10 * len(large)
    gateway.faults.stalled = False
    drain = asyncio.ensure_future(Attacker(reader, writer).is_cut())
    await gateway.log.wait_for("CURRENT_TIME", 20)
    writer.close()
    await drain
