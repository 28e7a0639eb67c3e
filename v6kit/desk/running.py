"""What of a desk runs on its engine's loop: gateway, broker, streamer, worker; how they begin, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from v6kit.broker import Broker
from v6kit.desk.places import SIMULATED, parse_address
from v6kit.gateway import SimulatedGateway
from v6kit.sync import BookWriter, Feed, Policy, PositionStreamer, QueueWorker, Targets

if TYPE_CHECKING:
    from v6kit.desk.desk import Desk


class Running:
    """The parts that need the gateway. All methods belong to the engine's loop.

    Attributes:
        gateway: The simulated one, if it was started here; as the others, `None` until `start` has come that far.
        broker: The connection.
        feed: What decides which positions are due.
        worker: What refreshes the queue.
        streamer: What streams the active contracts.
    """

    def __init__(self) -> None:
        self.gateway: SimulatedGateway | None = None
        self.broker: Broker | None = None
        self.feed: Feed | None = None
        self.worker: QueueWorker | None = None
        self.streamer: PositionStreamer | None = None

    async def start(
        self,
        desk: Desk,
        broker: str,
        *,
        gateway: SimulatedGateway | None,
        make_broker: Callable[[str, int], Broker],
        interval: float,
        batch_size: int,
        sync_interval: float,
        policy: Policy,
        minimum_hold: float,
        targets: Targets,
    ) -> None:
        """Connect, and stream what is active; arguments as in `v6kit.open`. What has begun, `stop` ends."""
        host, port = "127.0.0.1", 0
        if broker == SIMULATED:
            gateway = gateway or SimulatedGateway(clock=desk.clock)
            if not gateway.is_running:  # else it belongs to another desk, and ends with that one
                self.gateway = gateway
                await gateway.start()
            host, port = gateway.host, gateway.port
        else:
            host, port = parse_address(broker)
        self.broker = make_broker(host, port)
        await self.broker.connect()
        parked: dict[int, str] = {}
        self.feed = Feed(desk.registry, desk.queue, self.broker, desk.positions, targets, parked=parked)
        writer = BookWriter(desk.queue, self.broker, desk.positions, parked=parked)
        self.worker = QueueWorker(
            desk.queue,
            self.broker,
            desk.positions,
            interval,
            batch_size,
            parked=parked,
            feed=self.feed,
            writer=writer,
        )
        self.streamer = PositionStreamer(
            desk.registry,
            desk.queue,
            self.broker,
            desk.positions,
            sync_interval,
            parked=parked,
            feed=self.feed,
            writer=writer,
            policy=policy,
            minimum_hold=minimum_hold,
        )
        await self.streamer.start()

    async def stop(self) -> None:
        """End in the order in which nothing is lost: claims, streams, socket; a step that fails stops no other one."""
        async with AsyncExitStack() as last_first:
            if self.gateway is not None:
                last_first.push_async_callback(self.gateway.stop)
            if self.broker is not None:
                last_first.push_async_callback(self.broker.close)
            if self.streamer is not None:
                last_first.push_async_callback(self.streamer.stop, unsubscribe=False)
            if self.worker is not None:
                last_first.push_async_callback(self.worker.stop)
