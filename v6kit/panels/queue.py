"""The queue: what waits, what is under way, what failed and why; and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import polars as pl

from v6kit.display import counted
from v6kit.ledger import LedgerTable
from v6kit.panels import formats, frames, parts
from v6kit.panels.actions import Action
from v6kit.panels.counted import CountedPanel
from v6kit.panels.grid import Column
from v6kit.panels.parts import Part
from v6kit.panels.pastgrid import length
from v6kit.queue import ACTIVE_PRIORITY, Status

TONES: dict[str | None, str] = {
    Status.PENDING.value: "quiet",
    Status.PROCESSING.value: "busy",
    Status.SUCCESS.value: "good",
    Status.FAILED.value: "bad",
    Status.CANCELLED.value: "quiet",
}
_LONG = timedelta(minutes=5)  # a queue that keeps up serves everybody well within this
_LIVE = (Status.PENDING.value, Status.PROCESSING.value)


class QueuePanel(CountedPanel):
    """What waits to be refreshed, and why some of it was not.

    panel = desk.panel("queue")
    panel.chip("FAILED").frame
    panel.click("redrive"); await panel.settled()
    """

    name = "queue"
    title = "Queue"
    key = "request_id"
    columns = (
        Column(name="priority", title="priority", kind="number", hint="1 is refreshed before 2"),
        Column(name="contract", title="contract"),
        Column(name="account", title="account", if_several=True),
        Column(name="status", title="status", tones=TONES),
        Column(name="attempt", title="attempt", kind="number", hint="How often it has been tried since it was queued"),
        Column(
            name="lease", title="lease", kind="left", hint="How long its worker still has before others may take it"
        ),
        Column(name="created_at", title="age", kind="age", hint="Since it was queued"),
        Column(name="error_message", title="why", wide=True, hint="What went wrong last, in the gateway's words"),
    )
    counted = "status"

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The queue, and the book for the contracts' names."""
        return self.desk.queue, self.desk.positions

    def read(self) -> pl.DataFrame:
        """Return the queue."""
        return frames.queue(self.desk, self.as_of)

    def parts(self) -> list[Part]:
        """Return the counts by status, how long the oldest waits, and whether the queue is paused."""
        if self.as_of is not None:
            return [self._chips()]
        stats = self.desk.queue.stats()
        shown = [self._chips(stats.by_status)]
        if stats.oldest_pending is not None:
            waits = formats.span(stats.oldest_pending)
            late = stats.oldest_pending > _LONG
            shown.append(parts.note(f"oldest pending {waits}{' ⚠' if late else ''}", "warn" if late else ""))
        if stats.expired_leases:
            claims = counted(stats.expired_leases, "claim")
            shown.append(parts.note(f"{claims} of workers that have gone, taken up next", "warn"))
        if stats.paused:
            shown.append(parts.note(f"paused: {stats.paused}", "warn"))
        return shown

    def actions(self) -> Sequence[Action]:
        """Return redrive, prioritise and cancel, each for those of the selected that it fits; and a look back."""
        queue = self.desk.queue
        return (
            Action(
                name="redrive",
                label="Redrive",
                hint="Queue the selected failed requests again, with fresh attempts",
                run=lambda keys: queue.redrive(list(keys)),
                applies=self._selected_with(Status.FAILED.value),
            ),
            Action(
                name="prioritise",
                label="Prioritise",
                hint="Let the selected requests be claimed before all others",
                run=lambda keys: queue.prioritise(list(keys), ACTIVE_PRIORITY),
                applies=self._selected_with(*_LIVE),
            ),
            Action(
                name="cancel",
                label="Cancel…",
                hint="Cancel the selected requests; asks once more",
                run=lambda keys: queue.cancel(list(keys)),
                applies=self._selected_with(*_LIVE),
                question=lambda count: f"Cancel {count:,}? Click again",
            ),
            Action(
                name="timeline",
                label="Timeline",
                hint="Show every state of the request that was selected last",
                run=lambda keys: self._look_up(keys[0], self._states),
                applies=lambda: self.selected[-1:],
            ),
        )

    def _states(self, request_id: str) -> Part:
        """Return every state of a request; reads the lake."""
        states = self.desk.history("position_queue").timeline(request_id)
        told = states.select("updated_at", "change", "status", "attempt", "lasted", "updated_by", "error_message")
        rows = [
            [f"{at:%Y-%m-%d %H:%M:%S}", change, status, str(attempt), length(lasted) if lasted else "", by, why or ""]
            for at, change, status, attempt, lasted, by, why in told.rows()
        ]
        heads = [(name, name == "try") for name in ("since (UTC)", "change", "status", "try", "for", "by", "why")]
        name = states["symbol"].tail(1).to_list()
        return parts.table(
            f"{' '.join(name)} · {counted(states.height, 'state')}",
            heads,
            rows,
            [TONES[each] for each in told["status"]],
        )

    def _selected_with(self, *statuses: str) -> Callable[[], list[str]]:
        def keys() -> list[str]:
            if not self._grid.selected:
                return []  # asked at every drawing
            return self._grid.chosen().filter(pl.col("status").is_in(statuses))[self.key].to_list()

        return keys
