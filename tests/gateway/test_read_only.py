"""v6kit reads only: no message that could place, change or cancel anything is ever sent, and no code could send one.

What ib_async can send is read from its own source, so a method that a later version adds is refused until somebody has
looked at it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import ib_async
import pytest
import v6kit
from broker_helpers import options_of
from ib_async import IB
from ib_async.client import Client
from sync_helpers import FAST, eventually, legs_of, without_throttle
from v6kit.broker import ConnectionState
from v6kit.gateway import SimulatedGateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Connector
    from v6kit.desk import Desk

PACKAGE = Path(inspect.getfile(v6kit)).parent

# Client methods whose messages v6kit may send: they ask, or take back what was asked.
READS = {
    "startApi", "reqPositions", "reqAccountUpdates", "reqMarketDataType", "reqMktData", "cancelMktData",
    "reqContractDetails", "reqCurrentTime",
    "reqSecDefOptParams",  # which expiries are listed: reference data, from which a strategy is put together
}  # fmt: skip
# Names of ib_async that v6kit may use: those, and IB's ways to them. `_onError` is only taken out of an event.
USABLE = READS | {"connectAsync", "reqPositionsAsync", "reqAccountUpdatesAsync", "reqCurrentTimeAsync", "_onError"}
# Names that mean something of ours in the modules that hold no client.
COMMON = {"connect", "send"}
DANGEROUS = {
    "placeOrder", "cancelOrder", "reqGlobalCancel", "exerciseOptions", "replaceFA", "reqAutoOpenOrders", "bracketOrder",
    "oneCancelsAll", "whatIfOrder", "whatIfOrderAsync", "sendMsg",
}  # fmt: skip

# --- what ib_async can send -----------------------------------------------------------------------------------------


@cache
def methods(kind: type) -> dict[str, ast.AST]:
    """Return a class's own methods as syntax trees."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def calls(tree: ast.AST) -> set[str]:
    """Return the names of the methods that are called in a tree."""
    found = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {each.attr for each in found if isinstance(each, ast.Attribute)}


@cache
def senders() -> frozenset[str]:
    """Return the methods of ib_async that send a message, directly or by others, and those that make orders."""
    bodies = [*methods(Client).items(), *methods(IB).items()]
    names = {"send", "sendMsg"}
    while more := {name for name, body in bodies if calls(body) & names} - names:
        names |= more
    return frozenset(names | {name for name, _ in bodies if "order" in name.lower()} | {"oneCancelsAll"})


def message_id(method: ast.AST) -> int:
    """Return the id of the message that a method of the client sends: the first thing that it writes."""
    nodes = list(ast.walk(method))
    sent = [
        node.args[0]
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "send"
    ]
    lists = [node.elts[0] for node in nodes if isinstance(node, ast.List) and node.elts]
    return next(each.value for each in sent + lists if isinstance(each, ast.Constant) and isinstance(each.value, int))


def ids_of(names: set[str]) -> set[int]:
    """Return the message ids of methods of the client."""
    bodies = methods(Client)
    return {message_id(bodies[name]) for name in names}


def test_the_dangerous_methods_are_among_those_that_are_watched():
    """The list that is taken from ib_async's source holds what every trader would name, and their ids are IB's."""
    assert senders() > DANGEROUS
    assert not USABLE & DANGEROUS
    assert senders() >= USABLE
    assert ids_of({"placeOrder", "cancelOrder", "reqGlobalCancel", "exerciseOptions"}) == {3, 4, 58, 21}
    assert not ids_of(READS) & ids_of((DANGEROUS & methods(Client).keys()) - {"sendMsg"})


# --- what v6kit's source could send ---------------------------------------------------------------------------------


def is_order(module: str, name: str) -> bool:
    """Tell whether an import brings in a kind of order."""
    found = getattr(importlib.import_module(module), name)
    return module == "ib_async.order" or getattr(found, "__module__", "") == "ib_async.order"


def breaches(source: str) -> set[str]:
    """Return what in a module's source could send more than reads."""
    nodes = list(ast.walk(ast.parse(source)))
    imports = [
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ib_async"
        for alias in node.names
    ]
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    holds_client = bool({"IB", "Client"} & {name for _, name in imports})
    watched = senders() - USABLE - (set() if holds_client else COMMON)
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    # a method can be had by its name as well: getattr(client, "placeOrder")
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = (attributes & watched) | (texts & (watched - COMMON))
    orders = {name for module, name in imports if name == "*" or is_order(module, name)}
    return named | orders | {name for name in whole if name.split(".")[0] == "ib_async"}


@pytest.mark.parametrize(
    "source",
    [
        "self._client.placeOrder(1, contract, order)",
        "ib.whatIfOrder(contract, order)",
        "ib.client.sendMsg('3')",
        "getattr(client, 'reqGlobalCancel')()",
        "from ib_async.client import Client\nClient(wrapper).send(4, 1, 7)",
        "from ib_async import LimitOrder",
        "from ib_async.order import Order as Wish",
        "from ib_async import *",
        "import ib_async.order",
        "later = ib.exerciseOptions",
    ],
)
def test_each_way_around_is_noticed(source: str):
    """The search below finds an order however it is written."""
    assert breaches(source)


def test_no_module_of_v6kit_can_send_more_than_reads():
    """No method of ib_async that sends anything else is named anywhere, nor an order made."""
    modules = sorted(PACKAGE.rglob("*.py"))
    assert PACKAGE / "broker" / "session.py" in modules
    assert {path.name: found for path in modules if (found := breaches(path.read_text("utf-8")))} == {}


# --- what goes over the wire ----------------------------------------------------------------------------------------


def sent_ids(gateway: SimulatedGateway) -> set[int]:
    """Return the ids of all messages that the gateway received."""
    return {int(each.fields[0]) for each in gateway.log.records if each.direction == "received"}


def messages(gateway: SimulatedGateway, name: str) -> list[tuple[str, ...]]:
    """Return the messages of one kind that the gateway received."""
    return [each.fields for each in gateway.log.records if each.direction == "received" and each.name == name]


@pytest.fixture
def unthrottled() -> Iterator[None]:
    """Take ib_async's own throttle away."""
    with without_throttle():
        yield


async def is_live(desk: Desk, connections: int) -> None:
    """Wait until the link is up, after so many connections."""
    gateway = desk.gateway
    await eventually(lambda: gateway.log.connections >= connections and desk.broker.state is ConnectionState.LIVE)


async def a_day_at_the_desk(desk: Desk) -> None:
    """Do everything that a desk can do, with everything that can go wrong."""
    gateway = desk.gateway
    condor, other = gateway.account.iron_condors[:2]
    await desk.registry.add_strategy("condor", legs_of(*condor))
    await desk.registry.add_strategy("other", legs_of(*other))
    await desk.sync()
    legs = {each.instrument.conid for each in (*condor, *other)}
    unknown, unpaid, delayed, busy = [each.conid for each in options_of(gateway) if each.conid not in legs][:4]
    gateway.faults.error_by_conid |= {unknown: 200, unpaid: 354, busy: 101}
    gateway.faults.soft_by_conid[delayed] = (10167,)
    await desk.run_cycle()
    gateway.faults.clear()
    for code in (2103, 2104, 2100):
        gateway.broadcast(code)
    for back in (1102, 1101):
        gateway.broadcast(1100)
        await eventually(lambda: desk.broker.state is ConnectionState.DEGRADED)
        gateway.broadcast(back)
        await is_live(desk, connections=1)
    gateway.account.set_position(condor[0].instrument.conid, 9)
    for each in other:
        gateway.account.set_position(each.instrument.conid, 0)
    await desk.apply(await desk.reconcile())
    gateway.drop_clients()
    await is_live(desk, connections=2)
    [series, *_] = await desk.options.series("SPY")
    assert await desk.options.chain("SPY", series)
    await desk._engine.run(desk.broker.current_time())  # what the heartbeat does every 15 s
    await desk.sync()
    desk.start()
    await desk.run_cycle()
    await desk.stop()
    gateway.broadcast(10197)
    await eventually(lambda: desk.broker.hold)
    assert (await desk.run_cycle()).held_back
    await desk.registry.remove_strategy("condor")
    await desk.sync()
    await eventually(lambda: desk.lines.streams == 0)


@pytest.mark.usefixtures("unthrottled")
async def test_a_desk_only_ever_sends_reads(tmp_path: Path):
    """Open, strategies, cycles, refusals, lost links, reconciliation, close: each read is sent, and nothing else."""
    settings = {"snapshot_hold": 0.02, "tick_interval": 0.02, "record": True}
    gateway = SimulatedGateway(30, **(settings | FAST))
    async with await v6kit.open(tmp_path, "simulated", gateway=gateway) as desk:
        await a_day_at_the_desk(desk)
    assert sent_ids(gateway) == ids_of(READS)
    # a regulatory snapshot costs money; id 0 would take over the orders that were placed by hand
    assert {fields[-2] for fields in messages(gateway, "REQ_MKT_DATA")} == {"0"}
    assert {fields[2] for fields in messages(gateway, "START_API")} == {"7"}


async def test_an_order_would_have_been_seen(gateway: SimulatedGateway, connect: Connector):
    """What a client of somebody else sends shows up in the same log, so an empty one means something."""
    client = await connect(gateway)
    instrument = options_of(gateway)[0]
    contract = ib_async.Contract(conId=instrument.conid, exchange="SMART")
    trade = client.placeOrder(contract, ib_async.MarketOrder("BUY", 1))
    client.cancelOrder(trade.order)
    client.reqGlobalCancel()
    await eventually(lambda: sent_ids(gateway) >= {3, 4, 58})


async def test_the_link_is_opened_read_only(gateway: SimulatedGateway, connect: Connector, tmp_path: Path):
    """A client that may place orders asks for those that are open as it connects; ours asks for none."""
    await connect(gateway)
    assert {"REQ_OPEN_ORDERS", "REQ_COMPLETED_ORDERS"} <= gateway.log.received.keys()
    gateway.log.received.clear()
    async with await v6kit.open(tmp_path, gateway.address):
        assert not [name for name in gateway.log.received if "ORDER" in name]
        assert gateway.log.received["START_API"] == 1
    session = ast.parse((PACKAGE / "broker" / "session.py").read_text("utf-8"))
    (opening,) = [
        node
        for node in ast.walk(session)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "connectAsync"
    ]
    assert {key.arg: getattr(key.value, "value", None) for key in opening.keywords}["readonly"] is True
