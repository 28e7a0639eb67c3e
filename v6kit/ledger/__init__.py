"""Keyed, append-only, versioned tables on Delta Lake; the only importer of `deltalake`."""

from v6kit.ledger.ledger import Ledger, newest_per_key
from v6kit.ledger.reads import Past, When
from v6kit.ledger.spec import INSTANT, NO_INSTANT, STAMP, Decision, Moment, Rows, State, TableSpec
from v6kit.ledger.store import normalise
from v6kit.ledger.table import LedgerTable

__all__ = [
    "INSTANT",
    "NO_INSTANT",
    "STAMP",
    "Decision",
    "Ledger",
    "LedgerTable",
    "Moment",
    "Past",
    "Rows",
    "State",
    "TableSpec",
    "When",
    "newest_per_key",
    "normalise",
]
