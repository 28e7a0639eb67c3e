"""One lake, one broker, one engine thread: where everything is put together."""

from v6kit.desk.accounts import Accounts, AccountView
from v6kit.desk.desk import Desk
from v6kit.desk.lines import LineUse
from v6kit.desk.opening import DEFAULT_CLIENT_ID, open  # noqa: A004 - the public name
from v6kit.desk.places import SIMULATED, TABLES, TableName, lake_uri, parse_address

__all__ = [
    "DEFAULT_CLIENT_ID",
    "SIMULATED",
    "TABLES",
    "AccountView",
    "Accounts",
    "Desk",
    "LineUse",
    "TableName",
    "lake_uri",
    "open",
    "parse_address",
]
