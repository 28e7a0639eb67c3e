"""The only room that talks to Interactive Brokers, through `ib_async`: connection, requests, lines, pace, codes.

Owns everything between the gateway's socket and the domain's types. Stores nothing, and places no orders.
"""

from v6kit.broker.account import AccountStatus
from v6kit.broker.actions import Action, action_for
from v6kit.broker.broker import Broker
from v6kit.broker.connection import ConnectionState
from v6kit.broker.lines import LineBudget, LineHolder
from v6kit.broker.timings import Timings

__all__ = [
    "AccountStatus",
    "Action",
    "Broker",
    "ConnectionState",
    "LineBudget",
    "LineHolder",
    "Timings",
    "action_for",
]
