"""`open`: the way to a desk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping

from v6kit.broker import Broker, LineBudget
from v6kit.clock import Clock
from v6kit.contracts import check_float, check_int, check_text
from v6kit.desk.desk import Desk, checked_targets
from v6kit.desk.places import SIMULATED, days_by_table, lake_uri, parse_address
from v6kit.gateway import SimulatedGateway
from v6kit.ledger import Durable
from v6kit.sync import MINIMUM_HOLD_SECONDS, Policy, Targets, check_policy, default_policy

DEFAULT_CLIENT_ID = 7
_LINES_PER_FLOOR = 20


async def open(  # noqa: A001 - `v6kit.open` is the public name, and this module opens no files
    lake: str | os.PathLike[str],
    broker: str | None = None,
    *,
    client_id: int = DEFAULT_CLIENT_ID,
    account: str | Collection[str] = "",
    market_data_type: int = 1,
    line_limit: int = 100,
    line_reserve: int = 10,
    snapshot_floor: int | None = None,
    interval: float = 5.0,
    batch_size: int = 50,
    sync_interval: float = 60.0,
    policy: Policy = default_policy,
    minimum_hold: float = MINIMUM_HOLD_SECONDS,
    targets: Targets | None = None,
    connect_timeout: float = 8.0,
    storage_options: Mapping[str, str] | None = None,
    durable: Durable = "process",
    history_days: int | Mapping[str, int] | None = None,
    clock: Clock | None = None,
    gateway: SimulatedGateway | None = None,
) -> Desk:
    """Open a lake, connect to a gateway, read the positions, and stream what is active.

    Args:
        lake: A folder, or any URI that deltalake takes; made if it is not there.
        broker: `"HOST:PORT"` of TWS (7496, paper 7497) or IB Gateway (4001, paper 4002), or `"simulated"`. Left out, it
            is the simulated gateway, and a line says so.
        client_id: Our id at the gateway; one per program.
        account: Work with this account only, or with these. Default: with all accounts of the login.
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed-frozen.
        line_limit: Market data lines that the login has.
        line_reserve: Lines left to TWS and other programs.
        snapshot_floor: Lines that streams leave to snapshots, without which nothing in the queue would be refreshed
            once streams hold them all. Default: one in twenty of those that may be used.
        interval: Seconds between two cycles of the worker when little is due; while more is due, the next one begins as
            soon as the lines would run out of work.
        batch_size: Requests that the worker claims at once.
        sync_interval: Seconds between two readings of all positions.
        policy: Who streams when there are more active contracts than lines: a plain function that gives each
            `v6kit.Candidate` a sort key, of which the lowest stream. Default: the strategies' priority, then days to
            expiry, then absolute exposure. One that fails is replaced by the default until it works, with a warning.
        minimum_hold: Seconds for which a stream is not displaced by a better one.
        targets: How old quotes may become, in seconds, e.g. `v6kit.Targets(active=15, other=60)`, which is the default:
            active contracts that found no line, and all positions that do not stream.
        connect_timeout: Seconds for connecting, the first positions and the first account update together.
        storage_options: For object stores; never shown.
        durable: `process`: what has returned survives `kill -9`; `power`: a power cut as well, at the price of a sync
            per commit. An object store always does.
        history_days: How far back time travel reaches, for all tables or by table, e.g. `{"position_queue": 30}`; what
            was superseded or had finished before goes by itself. Kept with the lake. `None` leaves it as it is: at
            first, nothing is ever forgotten.
        clock: Tells the time; default the system's.
        gateway: A simulated gateway of your own making, with `broker="simulated"`; the desk starts and stops it, or
            connects to it if it runs already.

    Returns:
        The desk; `await desk.close()` when done, or use it in `async with`.

    Raises:
        GatewayUnavailableError: Nobody answers there, or the client id is in use.
        SchemaMismatchError: A table in the lake is not ours; nothing was touched.
        StorageError: The lake cannot be read or written.
        ValueError: An argument is wrong; names it and its value.
    """
    broker = _checked_broker(broker, gateway)
    check_float("interval", interval, above=0.0)
    check_int("batch_size", batch_size)
    check_float("sync_interval", sync_interval, above=0.0)
    check_float("minimum_hold", minimum_hold, above=0.0)
    check_policy(policy)
    targets = checked_targets(Targets() if targets is None else targets)
    clock = clock or Clock()
    lines = _lines(line_limit, line_reserve, snapshot_floor, clock)

    def make_broker(host: str, port: int) -> Broker:
        return Broker(
            host,
            port,
            client_id=client_id,
            account=account,
            market_data_type=market_data_type,
            lines=lines,
            connect_timeout=connect_timeout,
            clock=clock,
        )

    make_broker("127.0.0.1", 1)  # refuses what is wrong before anything is touched
    desk = Desk(
        lake_uri(lake),
        storage_options=storage_options,
        clock=clock,
        durable=durable,
        history_days=days_by_table(history_days),
    )
    try:
        await asyncio.gather(desk.registry.initialize(), desk.queue.initialize(), desk.positions.initialize())
        await desk._engine.run(  # noqa: SLF001 - this function is the desk's own front door
            desk._running.start(  # noqa: SLF001
                desk,
                broker,
                gateway=gateway,
                make_broker=make_broker,
                interval=interval,
                batch_size=batch_size,
                sync_interval=sync_interval,
                policy=policy,
                minimum_hold=minimum_hold,
                targets=targets,
            )
        )
    except BaseException as error:
        try:
            await desk.close()
        except Exception as second:  # noqa: BLE001 - the first error is the one to act on; this one goes along
            error.add_note(f"closing what was open failed as well: {second}")
        raise
    return desk


def _checked_broker(broker: str | None, gateway: SimulatedGateway | None) -> str:
    if broker is None:
        broker = SIMULATED
        print(  # noqa: T201 - said to the person at the notebook, once, because they did not ask for it
            "No broker given: this desk uses the simulated gateway, no real account. "
            'For TWS: v6kit.open(lake, broker="127.0.0.1:7497").'
        )
    check_text("broker", broker)
    if gateway is not None and broker != SIMULATED:
        raise ValueError(f"gateway goes with broker='simulated' only, got broker={broker!r}")
    if broker != SIMULATED:
        parse_address(broker)
    return broker


def _lines(limit: int, reserve: int, snapshot_floor: int | None, clock: Clock) -> LineBudget:
    ours = check_int("line_limit", limit) - check_int("line_reserve", reserve, minimum=0)
    floor = max(0, ours) // _LINES_PER_FLOOR if snapshot_floor is None else snapshot_floor
    return LineBudget(limit, reserve, snapshot_floor=floor, clock=clock)
