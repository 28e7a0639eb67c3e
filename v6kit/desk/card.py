"""The card of a desk: one line for each of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from v6kit.display import Card

if TYPE_CHECKING:
    from v6kit.desk.desk import Desk


def desk_card(desk: Desk, trouble: str) -> Card:
    """Return the card of a desk, of one with trouble only where its lake is.

    Args:
        desk: The desk.
        trouble: Why it cannot be looked into: `closed` or `not connected`; empty: it can.
    """
    if trouble:
        return Card("Desk", facts={"lake": desk.lake, "state": trouble})
    what = "simulated gateway (no real account)" if desk.is_simulated else "gateway"
    error = desk.worker.last_error
    return Card(
        "Desk",
        warnings=[f"the worker's last cycle failed: {error}"] if error is not None else [],
        facts={
            "lake": desk.lake,
            "broker": f"{what} at {desk.broker.host}:{desk.broker.port}, {desk.broker.state}",
            "accounts": desk.accounts.summary(),
            "lines": desk.lines.summary(),
            "registry": desk.registry.summary(),
            "queue": desk.queue.summary(),
            "positions": desk.positions.summary(),
            "worker": repr(desk.worker),
        },
    )
