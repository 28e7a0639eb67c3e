"""Who streams when there are more active contracts than market data lines: pure.

Owns the candidates, their ranking by a policy that the user may replace, and the choice that does not flap. Keeps no
state and does no I/O: `lineup` carries the choice out.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

from v6kit.contracts import ActiveContract
from v6kit.positions import BookRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An active contract that would stream, as a policy sees it.

    Attributes:
        conid: IB's contract id.
        label: The contract as a trader writes it, e.g. `SPY 261218 C 595`.
        strategies: Ids of the active strategies that it is a leg of, sorted.
        priority: The best of its strategies; 1 goes before 2.
        days_to_expiry: Calendar days from today (UTC), negative when expired; `None` for what does not expire.
        exposure: Absolute, by all accounts together, in the contract's currency: what the position moves like, in
            units of money of the underlying, when greeks are known; otherwise its market value, otherwise its cost.
            `None` when it is not held.
        held: Whether any account holds it.
        streaming_since: When its stream began, aware UTC; `None` while it has none.
    """

    conid: int
    label: str
    strategies: tuple[str, ...]
    priority: int
    days_to_expiry: int | None
    exposure: float | None
    held: bool
    streaming_since: datetime | None

    @property
    def is_expired(self) -> bool:
        """Whether its last day is over."""
        return self.days_to_expiry is not None and self.days_to_expiry < 0

    def why(self) -> str:
        """Return in words what the default policy goes by."""
        names = ("strategy " if len(self.strategies) == 1 else "strategies ") + ", ".join(self.strategies)
        exposure = "not held" if self.exposure is None else f"exposure {self.exposure:,.0f}"
        return ", ".join(filter(None, (names, f"priority {self.priority}", _in_words(self.days_to_expiry), exposure)))


Policy = Callable[[Candidate], Any]
"""Returns a sort key: the lowest streams first. It is called for every candidate, every few seconds, on the broker's
event loop, so it must be quick and do no I/O."""


def default_policy(candidate: Candidate) -> tuple[float, ...]:
    """Rank by the strategies' priority, then by days to expiry, then by absolute exposure, the largest first."""
    days = math.inf if candidate.days_to_expiry is None else candidate.days_to_expiry
    return candidate.priority, days, -(candidate.exposure or 0.0)


def check_policy(policy: Policy) -> Policy:
    """Return the policy; refuse what cannot be called with a candidate and give a key at once."""
    if not callable(policy) or inspect.iscoroutinefunction(policy):
        raise TypeError(f"policy must be a plain function of a candidate that returns a sort key, got {policy!r}")
    return policy


def candidates(
    rows: Iterable[BookRow], active: Iterable[ActiveContract], streaming: Mapping[int, datetime], today: date
) -> list[Candidate]:
    """Return every active contract as a candidate, by conid.

    Args:
        rows: The positions that are held.
        active: The legs of active strategies.
        streaming: Since when each stream runs, by conid.
        today: To count the days to expiry from.
    """
    legs: defaultdict[int, list[ActiveContract]] = defaultdict(list)
    for leg in active:
        legs[leg.conid].append(leg)
    held: defaultdict[int, list[BookRow]] = defaultdict(list)
    for row in rows:
        if row.conid in legs:
            held[row.conid].append(row)
    return [
        Candidate(
            conid=conid,
            label=legs[conid][0].label(),
            strategies=tuple(sorted({leg.strategy_id for leg in legs[conid]})),
            priority=min(leg.priority for leg in legs[conid]),
            days_to_expiry=_days(legs[conid][0].expiry, today),
            exposure=sum(map(exposure_of, held[conid])) if conid in held else None,
            held=conid in held,
            streaming_since=streaming.get(conid),
        )
        for conid in sorted(legs)
    ]


def exposure_of(row: BookRow) -> float:
    """Return a position's absolute exposure in its currency, by the best that is known of it; 0 if nothing is."""
    if row.delta is not None and row.underlying_price is not None:
        return abs(row.position * row.multiplier * row.delta * row.underlying_price)
    if row.market_value is not None:
        return abs(row.market_value)
    return abs(row.position * (row.avg_cost or 0.0))


def ranked(given: Collection[Candidate], policy: Policy) -> tuple[Candidate, ...]:
    """Return the candidates, best first; among equals who streams already goes first, then the lower conid.

    Raises:
        TypeError, ValueError: A key is `None`, has a NaN, or cannot be compared with another one.
        Exception: Whatever the policy raises.
    """
    keys = {each.conid: _checked(policy(each), each) for each in given}
    incumbents_first = sorted(given, key=lambda each: (each.streaming_since is None, each.conid))
    return tuple(sorted(incumbents_first, key=lambda each: keys[each.conid]))


def choose(ranking: Sequence[Candidate], room: int, *, now: datetime, minimum_hold: timedelta) -> frozenset[int]:
    """Return the conids that stream from now on: the best ones, but no stream ends before its minimum hold.

    Only when there is less room than streams within their hold do the worst of these go as well.

    Args:
        ranking: All candidates, best first.
        room: How many may stream; 0 or less: none.
        now: Aware UTC. A stream that began later than now, because the clock was set back, has no hold left.
        minimum_hold: How long a stream is not displaced by a better one.
    """
    room = max(0, room)
    within_hold = (
        each.conid
        for each in ranking
        if each.streaming_since is not None and timedelta(0) <= now - each.streaming_since < minimum_hold
    )
    kept = frozenset(islice(within_hold, room))
    others = (each.conid for each in ranking if each.conid not in kept)
    return kept | frozenset(islice(others, room - len(kept)))


def _checked(key: Any, candidate: Candidate) -> Any:  # noqa: ANN401 - whatever can be compared is a key
    for part in _parts(key):
        if part is None or (isinstance(part, float) and math.isnan(part)):
            raise ValueError(f"the policy returned {key!r} for {candidate.label}; a sort key has no None and no NaN")
    return key


def _parts(key: Any) -> Iterable[Any]:  # noqa: ANN401 - see above
    if not isinstance(key, tuple | list):
        return (key,)
    return (part for each in key for part in _parts(each))


def _days(expiry: str | None, today: date) -> int | None:
    if expiry is None:
        return None
    return (datetime.strptime(expiry, "%Y%m%d").replace(tzinfo=UTC).date() - today).days


def _in_words(days: int | None) -> str:
    if days is None:
        return ""
    if days < 0:
        return "expired"
    return {0: "expires today", 1: "1 day to expiry"}.get(days, f"{days} days to expiry")
