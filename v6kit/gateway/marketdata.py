"""One client's market data: its streams and its snapshots, and the lines that they hold.

Decides each request against the limits and faults; what a tick looks like is `answers`, what it says is `market`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from v6kit.gateway import answers
from v6kit.gateway.answers import DELAYED, DELAYED_FROZEN, FROZEN, LIVE, Message
from v6kit.gateway.listing import FARMS
from v6kit.gateway.market import min_tick
from v6kit.gateway.wire import Answer

if TYPE_CHECKING:
    import asyncio

    from v6kit.contracts import Instrument
    from v6kit.gateway.requests import MarketDataRequest
    from v6kit.gateway.session import Session

DELAYED_FOLLOWS = 10167
COMPETING_SESSION = 10197
THAWED = {FROZEN: LIVE, DELAYED_FROZEN: DELAYED}
"""What frozen data becomes while the market is open. Source: IB's notes on market data types: the gateway switches by
itself, and says so."""
SNAPSHOTS_EXCEEDED = "Snapshot requests limitation exceeded:{limit} per 1 second(s)"


@dataclass(slots=True)
class Stream:
    """A subscription.

    Attributes:
        sent: The newest message of each tick; only what differs from it is sent.
    """

    conid: int
    data_type: int
    sent: frozenset[Message] = frozenset()


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a failure of the gateway
    """A market data request that gets an error instead of data."""

    def __init__(self, code: int, text: str | None = None) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class MarketData:
    """The streams and snapshots of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shared = session.shared
        self._streams: dict[int, Stream] = {}
        self._snapshots: dict[int, asyncio.TimerHandle | None] = {}
        self.data_type = LIVE

    def request(self, request: MarketDataRequest) -> None:
        """Answer a reqMktData: with data, with an error, or as the faults say."""
        try:
            instrument = self._admit(request)
        except Refusal as refusal:
            self._session.refuse(request.req_id, refusal.code, refusal.text)
            return
        if self._shared.competing:  # the subscription stands; its data comes when the other session has gone
            self._session.refuse(request.req_id, COMPETING_SESSION)
        soft_codes = self._shared.faults.soft_by_conid.get(instrument.conid, ())
        for code in soft_codes:
            self._session.send(answers.error(self._session.version, request.req_id, code))
        data_type = max(self.data_type, DELAYED) if DELAYED_FOLLOWS in soft_codes else self.data_type
        stream = Stream(instrument.conid, data_type)
        silent = instrument.conid in self._shared.faults.silent_conids
        if not silent:
            self._session.send(
                (Answer.TICK_REQ_PARAMS, request.req_id, min_tick(instrument.sec_type, 0.0), "SIM", 3),
                *self._news(request.req_id, stream),
            )
        if request.snapshot:
            self._snapshots[request.req_id] = None if silent else self._end_later(request.req_id, instrument.conid)
        else:
            self._streams[request.req_id] = stream

    def cancel(self, req_id: int) -> None:
        """Answer a cancelMktData; error 300 when nothing runs under this id."""
        if req_id in self._streams:
            del self._streams[req_id]
        elif req_id in self._snapshots:
            timer = self._snapshots.pop(req_id)
            if timer is not None:
                timer.cancel()
        else:
            self._session.refuse(req_id, 300, f"{answers.TEXTS[300]}:{req_id}")
            return
        self._shared.lines.release(self._session.client_id, req_id)

    def compete(self) -> None:
        """Tell every request that another session takes its data (10197): streams stand still, snapshots end."""
        for req_id in self._streams:
            self._session.send(answers.error(self._session.version, req_id, COMPETING_SESSION))
        for req_id in list(self._snapshots):
            self.cancel(req_id)
            self._session.refuse(req_id, COMPETING_SESSION)

    def resume(self) -> None:
        """Have the next ticks be complete ones, as after a pause in which things were missed."""
        for stream in self._streams.values():
            stream.sent = frozenset()

    def news(self) -> list[Message]:
        """Return the ticks of all streams that changed since they were last sent."""
        faults = self._shared.faults
        return [
            message
            for req_id, stream in self._streams.items()
            if stream.conid not in faults.silent_conids
            for message in self._news(req_id, stream)
        ]

    def forget(self) -> None:
        """Drop all streams and snapshots and free their lines: the client has gone, or its data was lost (1101)."""
        for req_id in [*self._streams, *self._snapshots]:
            self.cancel(req_id)

    def _admit(self, request: MarketDataRequest) -> Instrument:
        """Return the contract of a request that may run, its line taken; raise the refusal of any other."""
        if request.req_id in self._streams or request.req_id in self._snapshots:
            raise Refusal(102)
        if request.snapshot and request.generic_ticks:
            raise self._invalid("Snapshot market data subscription is not applicable to generic ticks")
        if request.regulatory:
            raise self._invalid("Regulatory snapshots cost money and are not simulated")
        if not request.query.exchange:
            raise self._invalid("Please enter exchange")
        if self._shared.faults.refusals:
            raise Refusal(*self._shared.faults.refusals.popleft())
        if self._shared.competing and request.snapshot:
            raise Refusal(COMPETING_SESSION)
        found = request.query.resolve(self._shared.market)
        if len(found) != 1:
            raise Refusal(200, f"The contract description is ambiguous: {len(found)} contracts fit" if found else None)
        (instrument,) = found
        code = self._shared.faults.error_by_conid.get(instrument.conid)
        if code is not None:
            raise Refusal(code)
        self._take_limits(request)
        return instrument

    def _take_limits(self, request: MarketDataRequest) -> None:
        settings, window = self._shared.settings, self._shared.snapshot_window
        if request.snapshot:
            if not window.admit(self._session.loop.time()):
                raise self._invalid(SNAPSHOTS_EXCEEDED.format(limit=window.limit))
            self._shared.log.snapshot_peak = window.peak
        takes_line = settings.snapshots_use_lines or not request.snapshot
        if takes_line and not self._shared.lines.acquire(self._session.client_id, request.req_id):
            raise Refusal(101)

    def _invalid(self, cause: str) -> Refusal:
        return Refusal(321, answers.invalid(cause))

    def _news(self, req_id: int, stream: Stream) -> list[Message]:
        if not self._flows(stream.conid):
            return []
        market = self._shared.market
        data_type = THAWED.get(stream.data_type, stream.data_type) if market.is_open else stream.data_type
        quote = market.quote(stream.conid)
        fresh = [
            (Answer.MARKET_DATA_TYPE, 1, req_id, data_type),
            *answers.ticks(req_id, quote, data_type, is_open=market.is_open),
        ]
        changed = [message for message in fresh if message not in stream.sent]
        stream.sent = frozenset(fresh)
        return changed

    def _flows(self, conid: int) -> bool:
        """Return whether data of a contract comes through; one that has expired or was replaced has none."""
        shared = self._shared
        if not shared.linked or shared.competing:
            return False
        instrument = shared.market.instrument(conid)
        if instrument is None or shared.market.is_expired(instrument):
            return False
        return FARMS[instrument.sec_type] not in shared.broken_farms

    def _end_later(self, req_id: int, conid: int) -> asyncio.TimerHandle | None:
        hold = self._shared.faults.hold(conid, self._shared.settings.snapshot_hold)
        return self._session.later(hold, lambda: self._end(req_id)) if math.isfinite(hold) else None

    def _end(self, req_id: int) -> None:
        del self._snapshots[req_id]
        self._shared.lines.release(self._session.client_id, req_id)
        self._session.send((Answer.TICK_SNAPSHOT_END, 1, req_id))
