"""A simulated Interactive Brokers gateway: a program of its own that speaks the server side of IB's wire protocol.

There is no gateway in a notebook test, in CI or on a new user's laptop; this one takes its place, and any IB client
connects to it over TCP:

    >>> import asyncio, ib_async
    >>> from v6kit.gateway import SimulatedGateway
    >>> async def main():
    ...     async with SimulatedGateway(positions=40, record=True) as gateway:
    ...         ib = ib_async.IB()
    ...         await ib.connectAsync(gateway.host, gateway.port, clientId=1)
    ...         held = ib.positions()[0].contract
    ...         (ticker,) = await ib.reqTickersAsync(ib_async.Contract(conId=held.conId, exchange="SMART"))
    ...         print(len(ib.positions()), ticker.bid < ticker.ask, len(gateway.log.requests("REQ_MKT_DATA")))
    ...         ib.disconnect()
    >>> asyncio.run(main())
    40 True 1

In a test, `gateway.faults`, the methods of `SimulatedGateway` and a `Scenario` make it misbehave as IB does, and
`gateway.log` tells what went over the wire. `v6kit gateway` serves it to programs in any language.

What it simulates: server versions 157 to 178 of IB's text protocol; one or several accounts with positions, values,
portfolio and profit; contract details and option chains; streams and snapshots, live, frozen and delayed, with greeks;
the limits on lines, snapshots and messages; client ids in use; hours, halts, fills, expiry, outages and restarts.

What it does not: orders, executions, history, bars, depth, ticks by tick, scanners, news and fundamentals, which it
refuses in IB's words; the newer binary encoding of messages; holidays; the real width, size and timing of quotes. Its
prices are a model, its limits are a model of IB's, and nobody at IB has seen it.
"""

from v6kit.gateway.account import Account, Position
from v6kit.gateway.faults import Faults
from v6kit.gateway.log import WireLog, WireRecord
from v6kit.gateway.market import Hours, Market, TopOfBook
from v6kit.gateway.player import Fired
from v6kit.gateway.scenario import Event, Scenario
from v6kit.gateway.server import SimulatedGateway
from v6kit.gateway.wire import Answer, Request

__all__ = [
    "Account",
    "Answer",
    "Event",
    "Faults",
    "Fired",
    "Hours",
    "Market",
    "Position",
    "Request",
    "Scenario",
    "SimulatedGateway",
    "TopOfBook",
    "WireLog",
    "WireRecord",
]
