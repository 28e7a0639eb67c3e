"""What one cycle of the worker did, in numbers and in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from v6kit.display import Card, Shown, Table, utc
from v6kit.queue import Outcome, Status
from v6kit.sync.decisions import Fetched

_TOLD = 10  # problems that a cell shows; the dictionary has all


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport(Shown):
    """What one cycle did.

    Attributes:
        cycle: Counted from 1.
        started_at: Aware UTC.
        seconds: How long it took.
        claimed: Requests that it took on.
        settled: Refreshed for good.
        retried: To be tried again later.
        failed: Ended without success.
        cancelled: Of positions that are not held, or no longer.
        released: Given back untried, because the link or the lines failed them.
        in_flight: Still under way, carried into the next cycle.
        stale: No longer ours: their lease had ended, or they were cancelled.
        versions: The queue's version before and after.
        held_back: Why nothing new was claimed, or an empty string.
        problems: How often which error message came, most frequent first.
    """

    cycle: int
    started_at: datetime
    seconds: float
    claimed: int
    settled: int
    retried: int
    failed: int
    cancelled: int
    released: int
    in_flight: int
    stale: int
    versions: tuple[int, int]
    held_back: str
    problems: dict[str, int]

    def __repr__(self) -> str:  # one line, since cycles are printed one below the other
        parts = [f"{self.claimed} claimed", *(f"{count} {name}" for name, count in self._ways().items())]
        if self.held_back:
            parts.append(f"nothing new claimed: {self.held_back}")
        before, after = self.versions
        return f"Cycle {self.cycle}: {', '.join(parts)} in {self.seconds:.1f} s (queue v{before} → v{after})"

    def _ways(self) -> dict[str, int]:
        """Return how many requests went which way, without the ways that none went; refreshed is always told."""
        ways = {
            "to retry": self.retried,
            "failed": self.failed,
            "no longer held": self.cancelled,
            "given back": self.released,
            "in flight": self.in_flight,
            "too late": self.stale,
        }
        return {"refreshed": self.settled} | {name: count for name, count in ways.items() if count}

    def _card(self) -> Card:
        before, after = self.versions
        facts = {
            "claimed": str(self.claimed),
            **{name: str(count) for name, count in self._ways().items()},
            "started": f"{utc(self.started_at)}, took {self.seconds:.1f} s",
            "queue": f"v{before} → v{after}",
        }
        if after > before >= 0:
            facts["changes"] = f'desk.history("position_queue").diff({before}, {after})'
        told = [[str(count), message] for message, count in list(self.problems.items())[:_TOLD]]
        problems = Table(("times", "problem"), told, len(self.problems) - len(told), numbers=["times"])
        return Card(
            f"Cycle {self.cycle}",
            warnings=[f"nothing new claimed: {self.held_back}"] if self.held_back else [],
            facts=facts,
            tables=[problems] if told else [],
        )


def report(done: Sequence[Fetched], stale: Collection[str], **facts: object) -> CycleReport:
    """Return the report of a cycle.

    Args:
        done: What has ended in it.
        stale: The requests that were no longer ours, by id.
        facts: The other fields of the report.
    """
    counted = [each for each in done if each.item.request_id not in stale]
    ways = Counter(_way(each, each.outcome) for each in counted if each.outcome is not None)
    problems = Counter(each.outcome.error_message for each in counted if each.outcome and each.outcome.error_message)
    return CycleReport(
        settled=ways[Status.SUCCESS],
        retried=ways[Status.PENDING],
        failed=ways[Status.FAILED],
        cancelled=ways[Status.CANCELLED],
        released=sum(each.outcome is None for each in counted),
        stale=len(stale),
        problems=dict(problems.most_common()),
        **facts,  # type: ignore[arg-type]  # the cycle's own facts, named as the report's fields
    )


def _way(each: Fetched, outcome: Outcome) -> Status:
    used_up = outcome.status == Status.PENDING and each.item.attempt >= each.item.max_attempts
    return Status.FAILED if used_up else outcome.status
