"""A simulated Interactive Brokers gateway: a program of its own that speaks the server side of IB's wire protocol.

There is no gateway in a notebook test, in CI or on a new user's laptop; this one takes its place, and any IB client
connects to it over TCP. It is simulated: no money, no orders, and limits that are a model of IB's.
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
