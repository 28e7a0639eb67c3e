"""Faults under the ledger: a disk that kills, a disk after a power cut, and what must be true of a queue afterwards."""
