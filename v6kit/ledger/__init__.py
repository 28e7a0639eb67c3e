"""Keyed, append-only, versioned tables on Delta Lake; the only importer of `deltalake`."""

from v6kit.ledger.durability import Durable
from v6kit.ledger.ledger import Ledger
from v6kit.ledger.moments import Summary, When
from v6kit.ledger.native import NativePast
from v6kit.ledger.pasts import open_past
from v6kit.ledger.place import normalise
from v6kit.ledger.reads import Past
from v6kit.ledger.restoring import restoration
from v6kit.ledger.retention import Horizon, Pruned
from v6kit.ledger.spec import INSTANT, NO_INSTANT, STAMP, Decision, Moment, Rows, State, TableSpec, newest_per_key
from v6kit.ledger.table import LedgerTable

__all__ = [
    "INSTANT",
    "NO_INSTANT",
    "STAMP",
    "Decision",
    "Durable",
    "Horizon",
    "Ledger",
    "LedgerTable",
    "Moment",
    "NativePast",
    "Past",
    "Pruned",
    "Rows",
    "State",
    "Summary",
    "TableSpec",
    "When",
    "newest_per_key",
    "normalise",
    "open_past",
    "restoration",
]
