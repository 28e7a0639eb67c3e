"""The simulated gateway as a server: start and stop, wrong arguments, clients that misbehave."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.clock import FakeClock
from v6kit.errors import GatewayUnavailableError
from v6kit.gateway import SimulatedGateway
from v6kit.gateway.wire import API_SIGN, LENGTH, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OFFER = b"v157..178"
HELLO = API_SIGN + LENGTH.pack(len(OFFER)) + OFFER


class RawClient:
    """A socket that says whatever a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def receive(self) -> list[str]:
        """Return the next message's fields."""
        async with asyncio.timeout(DEADLINE):
            (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            return (await self.reader.readexactly(length)).decode().split("\0")[:-1]

    async def receive_error(self) -> list[str]:
        """Return the next error that is no notice."""
        while True:
            fields = await self.receive()
            if fields[0] == "4" and not fields[3].startswith("21"):
                return fields


@pytest.fixture
async def raw(gateway: SimulatedGateway) -> AsyncIterator[RawClient]:
    """A socket to the gateway that has said nothing yet."""
    client = RawClient(*await asyncio.open_connection(gateway.host, gateway.port))
    yield client
    client.writer.close()
    await asyncio.wait({asyncio.ensure_future(client.writer.wait_closed())})


async def test_a_field_that_cannot_be_read_gives_320(raw: RawClient) -> None:
    """A known message with a wrong field is answered, the field named, and the connection stays."""
    raw.writer.write(HELLO + frame(("71", "2", "5", "")) + frame(("62", "1", "twelve", "All", "")))
    fields = await raw.receive_error()
    assert fields[2:4] == ["-1", "320"]
    assert "field 2 of message 62 must be an integer, got 'twelve'" in fields[4]
    raw.writer.write(frame(("49", "1")))
    assert (await raw.receive())[0] == "49"


async def test_a_client_that_stops_half_way_through_a_frame_is_waited_for(raw: RawClient) -> None:
    """The rest of a frame may come at any time."""
    start = HELLO + frame(("71", "2", "5", ""))
    raw.writer.write(start[:-3])
    assert (await raw.receive())[0] == "178"
    raw.writer.write(start[-3:])
    assert (await raw.receive())[:2] == ["15", "1"]


@pytest.mark.parametrize("client_ids", [(-1,), (5, 6)], ids=["negative", "a second one"])
async def test_a_log_in_that_ib_would_not_take_is_refused(
    gateway: SimulatedGateway, raw: RawClient, client_ids: tuple[int, ...]
) -> None:
    """A client has one id of 0 or more as long as it is connected, so the lines that it holds are found again."""
    raw.writer.write(HELLO + b"".join(frame(("71", "2", str(each), "")) for each in client_ids))
    assert "startApi must come once, with a client id of 0 or more" in (await raw.receive_error())[4]
    assert gateway.client_ids == [each for each in client_ids if each == 5]


async def test_a_wrong_market_data_type_is_refused(raw: RawClient) -> None:
    """Types are 1 to 4."""
    raw.writer.write(HELLO + frame(("71", "2", "5", "")) + frame(("59", "1", "9")))
    assert "must be 1 to 4, got 9" in (await raw.receive_error())[4]


async def test_a_port_in_use_is_named_with_the_next_step() -> None:
    """Two gateways cannot listen on one port."""
    async with SimulatedGateway(0) as first:
        second = SimulatedGateway(0, port=first.port)
        with pytest.raises(GatewayUnavailableError, match=rf"port {first.port} on 127\.0\.0\.1 is in use.*port=0"):
            await second.start()
        assert not second.is_running


async def test_an_address_that_is_not_ours_is_named() -> None:
    """An address of another machine cannot be listened on."""
    with pytest.raises(GatewayUnavailableError, match=r"cannot listen on 192\.0\.2\.1:0"):
        await SimulatedGateway(0, host="192.0.2.1").start()


async def test_stop_leaves_nothing_behind() -> None:
    """No task is left, the port is free, clients are disconnected; stopping twice is fine."""
    gateway = SimulatedGateway(8)
    before = asyncio.all_tasks()
    await gateway.start()
    await gateway.start()
    client, gone = ib_async.IB(), asyncio.Event()
    client.disconnectedEvent += gone.set
    await client.connectAsync(gateway.host, gateway.port, clientId=1)
    await gateway.stop()
    await gateway.stop()
    assert asyncio.all_tasks() == before
    assert gateway.client_ids == []
    with socket.socket() as probe:
        assert probe.connect_ex((gateway.host, gateway.port)) != 0
    async with asyncio.timeout(DEADLINE):
        await gone.wait()


async def test_a_gateway_can_be_restarted_on_its_port(make_gateway, connect) -> None:
    """As a daily restart does it: gone for a while, then back at the same place with the same account."""
    gateway = await make_gateway()
    port = gateway.port
    await connect(gateway)
    await gateway.stop()
    await gateway.start()
    assert gateway.port == port
    assert len((await connect(gateway)).positions()) == 40


async def test_what_happens_to_a_stopped_gateway_is_harmless() -> None:
    """Acts on a gateway that does not run do nothing; its account can be prepared before the start."""
    gateway = SimulatedGateway(0)
    gateway.drop_clients()
    gateway.broadcast(1100)
    stock = gateway.market.find(symbol="SPY", sec_type="STK")[0]
    gateway.account.set_position(stock.conid, 100)
    async with gateway:
        assert len(gateway.account.positions) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
async def test_only_this_machine_can_connect_unless_told_otherwise(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """The default and other addresses of this machine alone need no warning."""
    async with SimulatedGateway(0, host=host) as gateway:
        assert not gateway.is_public
    assert SimulatedGateway(0).host == "127.0.0.1"
    assert caplog.text == ""


async def test_a_gateway_that_the_network_can_reach_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names address and next step; a stopped gateway is reached by nobody."""
    gateway = SimulatedGateway(0, host="0.0.0.0")  # noqa: S104 - that is what the warning is about
    async with gateway:
        assert gateway.is_public
    assert not gateway.is_public
    assert f"listens on 0.0.0.0:{gateway.port}: anybody on the network can connect" in caplog.text
    assert "host='127.0.0.1'" in caplog.text


async def test_it_says_that_it_is_simulated() -> None:
    """A user who looks at the object cannot take it for a real gateway."""
    gateway = SimulatedGateway(3)
    assert "simulated" in repr(gateway)
    assert "stopped" in repr(gateway)
    async with gateway:
        assert f"listening on 127.0.0.1:{gateway.port}: 3 positions, lines 0/100, clients none" in repr(gateway)
        assert gateway.address == f"127.0.0.1:{gateway.port}"
        for said in ("no real account", gateway.address, "DU0000001", "&lt;WireLog 0 received"):
            assert said in gateway._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"positions": -1}, ValueError, "positions must be at least 0, got -1"),
        ({"positions": 5501}, ValueError, "positions must be at most 5500, got 5501"),
        ({"positions": "many"}, TypeError, "positions must be an integer, got 'many'"),
        ({"port": 70_000}, ValueError, "port must be 0 to 65535, got 70000"),
        ({"host": ""}, ValueError, "host must not be empty"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got 1.5"),
        ({"line_limit": -1}, ValueError, "line_limit must be at least 0, got -1"),
        ({"snapshot_hold": -0.1}, ValueError, "snapshot_hold must be 0 seconds or more, got -0.1"),
        ({"snapshots_per_second": 0}, ValueError, "snapshots_per_second must be at least 1, got 0"),
        ({"messages_per_second": True}, TypeError, "messages_per_second must be an integer, got True"),
        ({"tick_interval": 0}, ValueError, "tick_interval must be finite and greater than 0"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_with_its_value(
    arguments: dict[str, object], error: type[Exception], text: str
) -> None:
    """Nothing starts with a setting that cannot work."""
    with pytest.raises(error, match=text):
        SimulatedGateway(**({"positions": 0, "clock": FakeClock()} | arguments))
