"""The line-up: which active contracts stream now, and the subscriptions that make it so.

Owns what streams and since when, what was refused and rests, and what was said about the rest. Who is better, the
policy says (`policy`); what happens to contracts without a stream is the streamer's business.

Belongs to the broker's event loop; `standing` may be read from anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from v6kit.broker import Broker
from v6kit.clock import Clock
from v6kit.contracts import ActiveContract, Instrument, check_float
from v6kit.errors import LineLimitError, RequestFailedError
from v6kit.positions import BookRow
from v6kit.sync import decisions
from v6kit.sync.policy import Candidate, Policy, candidates, check_policy, choose, default_policy, ranked

MINIMUM_HOLD_SECONDS = 60.0
_NO_LINE_LEFT = 101
_NAMED = 3  # contracts that a warning names, of as many as it is about
_log = logging.getLogger("v6kit.sync")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the active contracts stood when they were last looked at.

    Attributes:
        ranking: All that may stream, best first.
        chosen: The conids of those that are to stream.
        room: How many of them may stream.
        refused: Those that the gateway refused, with the reason: for a while, or for this session.
        policy: By what they were ranked, in words.
    """

    ranking: tuple[Candidate, ...] = ()
    chosen: frozenset[int] = frozenset()
    room: int = 0
    refused: tuple[tuple[Candidate, str], ...] = ()
    policy: str = ""


class Change(NamedTuple):
    """What an arrangement changed.

    Attributes:
        ended: Conids whose streams it ended.
        begun: Conids whose streams it began.
        failures: What went wrong other than a refusal.
    """

    ended: frozenset[int]
    begun: frozenset[int]
    failures: list[BaseException]


class _Rest(NamedTuple):
    """A refusal that does not last: why, and until when (monotonic)."""

    reason: str
    until: float


class Lineup:
    """Keeps the subscriptions equal to what the policy wants.

    Args:
        broker: Streams, and knows how many lines streams may have.
        clock: Tells the time.
        policy: Gives each candidate a sort key; the lowest stream first.
        minimum_hold: Seconds for which a stream is not displaced by a better one.
        rest_seconds: How long a stream that was refused is not asked for again.
        parked: Contracts not to ask for in this session, conid → reason; shared with the worker.
        on_parked: Called with conid and code when a contract is parked.

    Attributes:
        streams: Conid → since when it streams, aware UTC.
        demoted: Active contracts without a stream, except those that are parked.
        standing: What was found and chosen last.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        *,
        policy: Policy,
        minimum_hold: float,
        rest_seconds: float,
        parked: dict[int, str],
        on_parked: Callable[[int, int], None],
    ) -> None:
        self._broker, self._clock = broker, clock
        self._policy = check_policy(policy)
        self._hold = timedelta(seconds=check_float("minimum_hold", minimum_hold, above=0.0))
        self._rest_seconds = rest_seconds
        self._parked, self._on_parked = parked, on_parked
        self.streams: dict[int, datetime] = {}
        self.demoted: set[int] = set()
        self.standing = Standing()
        self._resting: dict[int, _Rest] = {}
        self._policy_failure: str | None = None
        self._said = 0  # how many contracts without a line the last warning was about

    def is_settled(self, rows: Iterable[BookRow], active: Collection[ActiveContract]) -> bool:
        """Look at all candidates anew, and tell whether who streams is who should; asks and ends nothing."""
        self._assess(rows, active)
        return self.standing.chosen == self.streams.keys()

    async def arrange(self, rows: Collection[BookRow], active: Collection[ActiveContract]) -> Change:
        """Look at all candidates anew, end the streams that are not chosen, then begin those that are."""
        self._assess(rows, active)
        standing, before = self.standing, frozenset(self.streams)
        ended = before - standing.chosen
        for conid in ended:
            await self._end(conid)
        contracts = decisions.to_stream(rows, active, self._parked)
        wanted = [each.conid for each in standing.ranking if each.conid in standing.chosen - before]
        tried = await asyncio.gather(*(self._begin(contracts[conid]) for conid in wanted), return_exceptions=True)
        unlined = {conid for conid, error in zip(wanted, tried, strict=True) if isinstance(error, LineLimitError)}
        able = [*standing.ranking, *(each for each, _ in standing.refused if not each.is_expired)]
        self.demoted = {each.conid for each in able} - self.streams.keys() - self._parked.keys()
        self._say(
            [each for each in standing.ranking if each.conid not in standing.chosen or each.conid in unlined],
            of=len({leg.conid for leg in active}),
        )
        failures = [error for error in tried if error is not None and not isinstance(error, LineLimitError)]
        return Change(ended, frozenset(self.streams) - before, failures)

    def refuse(self, conid: int, code: int | None, message: str) -> None:
        """Take note that a stream will not come or has ended: for this session, for a while, or for want of a line."""
        self.streams.pop(conid, None)
        if code in decisions.PARKING_CODES:
            _log.warning("conid %d is not asked for again in this session: %s", conid, message)
            self._parked[conid] = message
            self.demoted.discard(conid)
            self._on_parked(conid, code or 0)
            return
        self.demoted.add(conid)
        if code != _NO_LINE_LEFT:
            _log.warning("the stream of conid %d ended (%s); the queue takes it at priority 1", conid, message)
        elif self._broker.lines.stream_room < self.standing.room:
            return  # the budget has learned from it, so who loses the line is the policy's to say, and that ends
        self._resting[conid] = _Rest(message, self._clock.monotonic() + self._rest_seconds)

    def forgive(self) -> None:
        """Forget the refusals that do not last: the link is new."""
        self._resting.clear()

    async def end_all(self, *, unsubscribe: bool) -> None:
        """End all streams; whether the gateway is told is the caller's to say."""
        ending, self.streams = tuple(self.streams), {}
        if unsubscribe:
            await asyncio.gather(*map(self._broker.unsubscribe, ending))

    def _assess(self, rows: Iterable[BookRow], active: Iterable[ActiveContract]) -> None:
        """Rank and choose anew; no I/O."""
        now = self._clock.now()
        refused, able = [], []
        for each in candidates(rows, active, self.streams, now.date()):
            reason = self._why_not(each)
            if reason is None:
                able.append(each)
            else:
                refused.append((each, reason))
        ranking = self._ranked(able)
        # what others have subscribed to at this broker takes from what is there for us
        room = self._broker.lines.stream_room - len(self._broker.streaming - self.streams.keys())
        self.standing = Standing(
            ranking=ranking,
            chosen=choose(ranking, room, now=now, minimum_hold=self._hold),
            room=max(0, room),
            refused=tuple(refused),
            policy=self._policy_in_words(),
        )

    def _why_not(self, candidate: Candidate) -> str | None:
        if candidate.is_expired:
            return "expired; await desk.registry.expire() takes it out of its strategy"
        if candidate.conid in self._parked:
            return f"not asked for again in this session: {self._parked[candidate.conid]}"
        rest = self._resting.get(candidate.conid)
        if rest is None or rest.until <= self._clock.monotonic():
            self._resting.pop(candidate.conid, None)
            return None
        return f"refused, and asked for again after {self._rest_seconds:g} s: {rest.reason}"

    def _ranked(self, able: Collection[Candidate]) -> tuple[Candidate, ...]:
        """Rank by the policy, or by the default one when the user's own fails: that must never stop a stream."""
        try:
            ranking = ranked(able, self._policy)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything; it is said, with its cause
            if self._policy_failure is None:
                _log.warning("the policy for lines failed, and the default one is used until it works", exc_info=True)
            self._policy_failure = f"{type(error).__name__}: {error}"
            return ranked(able, default_policy)
        self._policy_failure = None
        return ranking

    def _policy_in_words(self) -> str:
        if self._policy is default_policy:
            return "priority, then days to expiry, then exposure"
        name = getattr(self._policy, "__qualname__", repr(self._policy))
        if self._policy_failure is None:
            return f"your policy {name}"
        return f"the default policy, because yours failed ({name}: {self._policy_failure})"

    async def _begin(self, contract: Instrument) -> None:
        try:
            await self._broker.subscribe(contract)
        except RequestFailedError as error:
            self.refuse(contract.conid, error.code, str(error))
        else:
            self.streams[contract.conid] = self._clock.now()
            self._resting.pop(contract.conid, None)

    async def _end(self, conid: int) -> None:
        await self._broker.unsubscribe(conid)  # first: whoever cancels this wait still finds the stream to end
        self.streams.pop(conid, None)

    def _say(self, surplus: Collection[Candidate], *, of: int) -> None:
        """Warn when more contracts are without a line than was said before; said anew after all had one."""
        if len(surplus) > self._said:
            names = ", ".join(each.label for each in list(surplus)[:_NAMED])
            more = f" and {len(surplus) - _NAMED} more" if len(surplus) > _NAMED else ""
            _log.warning(
                "%d of %d active contracts have no market data line: %s%s; the queue refreshes them first, at "
                "priority 1. See desk.lines.waiting",
                len(surplus),
                of,
                names,
                more,
            )
        if not surplus or len(surplus) > self._said:
            self._said = len(surplus)
