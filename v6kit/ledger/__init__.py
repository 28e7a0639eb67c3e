"""Keyed, append-only, versioned tables on Delta Lake; the only importer of `deltalake`."""

from v6kit.ledger.durability import Durable
from v6kit.ledger.ledger import Ledger
from v6kit.ledger.place import normalise
from v6kit.ledger.reads import Past, When
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
    "Past",
    "Pruned",
    "Rows",
    "State",
    "TableSpec",
    "When",
    "newest_per_key",
    "normalise",
]
