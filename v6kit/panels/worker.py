"""The worker: run one cycle or let it run, see the phases of the running one, and what the last ones did."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Hashable, Sequence
from typing import Any

import polars as pl

from v6kit.display import counted
from v6kit.ledger import LedgerTable
from v6kit.panels import frames, parts
from v6kit.panels.actions import Action
from v6kit.panels.grid import Column
from v6kit.panels.panel import Panel
from v6kit.panels.parts import Part
from v6kit.panels.queue import TONES as STATUSES
from v6kit.sync import CycleReport

_BARS = 20
_CHANGES = 20  # told of one cycle; the history has all
_REMEMBERED = "the last cycles of this desk; what the queue remembers of all of them: desk.history"
_PHASES = ("claim", "fetch", "book", "settle")


class WorkerPanel(Panel):
    """What the worker does, and what its last cycles did.

    panel = desk.panel("worker")
    panel.click("run"); await panel.settled()
    panel.frame
    """

    name = "worker"
    title = "Worker"
    key = "key"
    columns = (
        Column(name="cycle", title="cycle", kind="number"),
        Column(name="started_at", title="started", kind="time"),
        Column(name="seconds", title="seconds", kind="number", digits=1),
        Column(name="claimed", title="claimed", kind="number"),
        Column(name="settled", title="ok", kind="number", hint="Refreshed"),
        Column(name="retried", title="retry", kind="number", hint="Failed for now, queued again"),
        Column(name="failed", title="failed", kind="number"),
        Column(
            name="in_flight",
            title="in flight",
            kind="number",
            hint="Still asked for when the cycle ended; the next one has them",
        ),
        Column(
            name="versions", title="queue", hint="The queue's version before and after: what to compare in the history"
        ),
        Column(name="why", title="why", wide=True),
    )

    @property
    def tables(self) -> Sequence[LedgerTable[Any, Any]]:
        """The queue that it serves."""
        return (self.desk.queue,)

    def revision(self) -> Hashable:
        """Return what may have changed."""
        worker = self.desk.worker
        last = worker.last_report
        return worker.phase, worker.cycles, worker.in_flight, worker.is_running, None if last is None else last.cycle

    def source(self) -> str:
        """Return the cycle and how it runs."""
        worker = self.desk.worker
        how = f"every {worker.interval:g} s" if worker.is_running else "by hand"
        return f"cycle {worker.cycles} · {how}"

    def read(self) -> pl.DataFrame:
        """Return the last cycles, newest first."""
        return frames.cycles(self._known())

    def parts(self) -> list[Part]:
        """Return the phases, and the last cycles as bars."""
        worker = self.desk.worker
        last = self._known()[-_BARS:]
        detail = f"{worker.in_flight} in flight" if worker.in_flight else worker.phase
        shown = [parts.steps(_PHASES, worker.phase, detail)] if self.as_of is None else [parts.note(_REMEMBERED)]
        if last:
            median = statistics.median(report.seconds for report in last)
            text = f"last {len(last)}: median {median:.1f} s · {sum(report.settled for report in last):,} refreshed"
            tones = ["bad" if report.failed or report.held_back else "good" for report in last]
            shown.append(parts.bars([report.seconds for report in last], tones, text))
        return shown

    def _known(self) -> list[CycleReport]:
        """Return the reports of the cycles that had begun by the instant that is shown."""
        return [each for each in self.desk.worker.reports if self.as_of is None or each.started_at <= self.as_of]

    def warning(self) -> str:
        """Return why the last cycle failed, or why nothing is claimed now."""
        error = self.desk.worker.last_error
        if error is not None:
            return f"the last cycle failed: {error}"
        return f"nothing new is claimed: {hold}" if (hold := self.desk.broker.hold) else ""

    def summary(self) -> str:
        """Return what the worker says of itself, without its last report."""
        worker = self.desk.worker
        how = f"every {worker.interval:g} s" if worker.is_running else "by hand"
        return f"{worker.batch_size} at a time, {how}"

    @property
    def code(self) -> str:
        """The Python that runs a cycle; reports are no table."""
        return "report = await desk.run_cycle()"

    def actions(self) -> Sequence[Action]:
        """Return run, start and stop; and what shows a cycle's changes."""
        return (
            Action(
                name="run",
                label="▶ Run one cycle",
                hint="Claim, fetch, book and settle once",
                run=lambda _keys: self.desk.run_cycle(),
                ready=lambda: not self.desk.worker.is_running,
            ),
            Action(
                name="start",
                label=f"↻ Every {self.desk.worker.interval:g} s",
                hint="Run cycle after cycle; cells stay free",
                run=lambda _keys: asyncio.to_thread(self.desk.start),
                ready=lambda: not self.desk.worker.is_running,
            ),
            Action(
                name="stop",
                label="■ Stop",
                hint="Stop after settling what has ended; the rest is given back",
                run=lambda _keys: self.desk.stop(),
                ready=lambda: self.desk.worker.is_running or self.desk.worker.phase != "idle",
            ),
            Action(
                name="diff",
                label="What it changed",
                hint="Show what the selected cycle changed in the queue",
                run=lambda keys: self._look_up(keys[0], self._changes),
                applies=lambda: self.selected[-1:],
            ),
        )

    def _changes(self, cycle: str) -> Part:
        """Return what the queue's versions before and after a cycle differ in; reads the lake."""
        before, after = next(each.versions for each in self._known() if str(each.cycle) == cycle)
        changed = self.desk.history("position_queue").diff(before, after)
        told = changed.select("diff", "symbol", "status", "status_old", "attempt", "attempt_old", "error_message")
        rows = [
            [sign, symbol, _became(was, status), _became(tried, attempt), why or ""]
            for sign, symbol, status, was, attempt, tried, why in told.head(_CHANGES).rows()
        ]
        tones = [STATUSES.get(status, "") for status in told["status"].head(_CHANGES)]
        more = f" · the first {_CHANGES}" if changed.height > _CHANGES else ""
        text = f"cycle {cycle} · queue v{before} → v{after} · {counted(changed.height, 'change')}{more}"
        heads = [("", False), ("contract", False), ("status", False), ("try", False), ("why", False)]
        return parts.table(text, heads, rows, tones)


def _became(old: object, new: object) -> str:
    return str(new) if old is None or old == new else f"{old} → {new}"
