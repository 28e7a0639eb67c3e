"""The doctor's look at a gateway: connects as a desk would, reads, and goes."""

from __future__ import annotations

from datetime import timedelta

from v6kit.broker import Broker
from v6kit.cli.findings import Finding, fail, ok, warn
from v6kit.clock import Clock
from v6kit.errors import BrokerError, GatewayUnavailableError

CLOCKS_APART = timedelta(seconds=2)  # IB tells whole seconds


async def check_gateway(host: str, port: int, *, client_id: int, clock: Clock) -> list[Finding]:
    """Return what there is to say about the gateway there; takes no market data line."""
    broker = Broker(host, port, client_id=client_id, clock=clock)
    try:
        await broker.connect()
    except GatewayUnavailableError as error:
        return [fail("connection", str(error))]
    try:
        return [_connection(broker), _accounts(broker), await _positions(broker), await _time(broker, clock)]
    except BrokerError as error:
        return [_connection(broker), fail("answers", str(error), "restart TWS or IB Gateway if it stays so")]
    finally:
        await broker.close()


def _connection(broker: Broker) -> Finding:
    kind = "simulated gateway, no real account" if broker.is_simulated else "gateway"
    return ok("connection", f"{kind}; server version {broker.server_version}, client id {broker.client_id} is free")


def _accounts(broker: Broker) -> Finding:
    if troubled := [status for status in map(broker.status_of, broker.accounts) if status.trouble]:
        why = "; ".join(f"{status.account}: {status.trouble}" for status in troubled)
        return warn("accounts", why, "positions and prices come nevertheless; leave the account out, or look there")
    return ok("accounts", ", ".join(broker.accounts))


async def _positions(broker: Broker) -> Finding:
    positions = await broker.positions()
    return ok("positions", f"{len(positions)}; market data type {broker.market_data_type} (live) is what is asked for")


async def _time(broker: Broker, clock: Clock) -> Finding:
    apart = (await broker.current_time()) - clock.now()
    text = f"the gateway's clock is {apart.total_seconds():+.1f} s from this machine's"
    if abs(apart) > CLOCKS_APART:
        return warn("time", text, "let both follow a time server: ages and staleness are counted by them")
    return ok("time", text)
