"""One connected client: its bytes in and out, its handshake, its rate of messages, its subscriptions.

A session is an `asyncio.Protocol`: everything happens in callbacks of the loop, so it has no task of its own. What a
message does is `handlers`; market data is `marketdata`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from v6kit.clock import Clock
from v6kit.gateway import answers, wire
from v6kit.gateway.answers import NO_REQUEST, Message
from v6kit.gateway.handlers import HANDLERS
from v6kit.gateway.limits import MessageRate
from v6kit.gateway.marketdata import MarketData
from v6kit.gateway.requests import request_id
from v6kit.gateway.wire import Answer, Fields, FrameReader, Request, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from v6kit.gateway.account import Account, Position
    from v6kit.gateway.shared import Shared

logger = logging.getLogger(__name__)

NOT_STARTED = -1
NEWCOMERS = 100  # connections that may be open without having logged in; one more, and the oldest is cut off
UNREAD_LIMIT = 1 << 20  # bytes that a stalled gateway takes in from one client
UNSENT_LIMIT = 8 << 20  # bytes that may wait for a client that does not read: the largest answers many times over

REAL = Clock()  # how long a stranger may take is no matter of the simulated time


class Session(asyncio.Protocol):
    """The server side of one socket.

    Attributes:
        version: The negotiated protocol version; 0 before the handshake.
        client_id: Told by startApi; -1 before.
        follows_positions: Whether position changes are pushed.
        followed_account: The account whose portfolio is pushed, or empty.
        pnl: P&L subscriptions by request id: the account, the conid (0 for all), and what was last sent.
        closed: Done when the socket is gone.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.version = 0
        self.client_id = NOT_STARTED
        self.follows_positions = False
        self.followed_account = ""
        self.pnl: dict[int, tuple[str, int, Message | None]] = {}
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.market_data = MarketData(self)
        self._reader = FrameReader()
        self._rate = MessageRate(shared.settings.messages_per_second)
        self._timers: set[asyncio.TimerHandle] = set()
        self._outgoing = bytearray()
        self._flush_is_due = False
        self._mute = False
        self._congested = False
        self._portfolio_due = 0.0
        self._connected_at = REAL.monotonic()
        self._transport: asyncio.Transport

    @property
    def is_started(self) -> bool:
        """Whether the client has logged in."""
        return self.client_id != NOT_STARTED

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket in, or close it at once if connections are refused; strangers make room for newer ones."""
        self._transport = cast("asyncio.Transport", transport)
        self.shared.sessions.add(self)
        self.shared.log.connections += 1
        if self.shared.faults.refuse_connections:
            self.abort()
        newcomers = [each for each in self.shared.sessions if each.is_newcomer]
        if len(newcomers) > NEWCOMERS:
            oldest = min(newcomers, key=lambda each: each._connected_at)  # noqa: SLF001 - of the same class
            oldest.give_up(f"{NEWCOMERS} newer connections have not logged in either")

    def data_received(self, data: bytes) -> None:
        """Take bytes in and handle what is complete."""
        self._reader.feed(data)
        if self.shared.faults.stalled and self._reader.waiting > UNREAD_LIMIT:
            self._transport.pause_reading()
        self.handle_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the client held: lines, timers, its id."""
        logger.debug("simulated gateway: client %s is gone (%s)", self.client_id, exc)
        self.market_data.forget()
        for timer in self._timers:
            timer.cancel()
        self.shared.sessions.discard(self)
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Stop the ticks of a client that does not read."""
        self._congested = True

    def resume_writing(self) -> None:
        """Tick again."""
        self._congested = False

    @property
    def is_newcomer(self) -> bool:
        """Whether the client is connected and has not logged in."""
        return self.client_id == NOT_STARTED and not self._transport.is_closing()

    def abort(self) -> None:
        """Cut the line now; what was not sent is lost."""
        self._transport.abort()

    def give_up(self, reason: str) -> None:
        """Cut the line of a client that does harm, and say why."""
        who = self._transport.get_extra_info("peername") if self.client_id == NOT_STARTED else self.client_id
        logger.warning("simulated gateway: closing client %s: %s", who, reason)
        self.abort()

    def later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back after a while, unless the client has gone by then."""

        def run() -> None:
            self._timers.discard(timer)
            callback()

        timer = self.loop.call_later(seconds, run)
        self._timers.add(timer)
        return timer

    # In

    def handle_waiting(self) -> None:
        """Handle complete frames one after the other, as far as the faults allow."""
        try:
            while not self._transport.is_closing() and not self.shared.faults.stalled:
                body = self._reader.next_body()
                if body is None:
                    return
                if self.version:
                    self._handle(Fields(body))
                else:
                    self._shake_hands(body)
        except WireError as error:
            self.give_up(str(error))

    def _shake_hands(self, offer: bytes) -> None:
        self.version = wire.negotiate(offer)
        now = f"{self.shared.market.clock.now():%Y%m%d %H:%M:%S} UTC"
        self._write(wire.frame((str(self.version), now)))
        self._mute = self.shared.faults.handshake_only

    def _handle(self, fields: Fields) -> None:
        now = self.loop.time()
        message_id = fields.integer(0)
        self.shared.log.note_received(now, self.client_id, message_id, tuple(fields))
        admitted = self._rate.admit(now)
        self.shared.log.message_peak = max(self.shared.log.message_peak, self._rate.window.peak)
        if not admitted:
            self._refuse_rate(now)
        elif self.client_id == NOT_STARTED and message_id != Request.START_API:
            raise WireError(f"the first message must be startApi (71), got {message_id}")
        elif message_id in HANDLERS:
            self._dispatch(message_id, fields)
        else:
            cause = f"message {message_id} is not IB's"
            self.refuse(request_id(fields), 321, answers.invalid(cause))

    def _dispatch(self, message_id: int, fields: Fields) -> None:
        try:
            HANDLERS[message_id](self, fields)
        except WireError as error:
            self.refuse(request_id(fields), 320, f"Error reading request. {error}")

    def _refuse_rate(self, now: float) -> None:
        """Discard a message that came too fast: error 100 once per burst, the end of the connection at the third."""
        self.shared.log.refused[100] += 1
        strike = self._rate.strike(now)
        if not strike:
            return
        window = self._rate.window
        text = f"{answers.TEXTS[100]}:max={window.limit} rec={window.count(now)} ({strike})"
        self.send(answers.error(self.version, NO_REQUEST, 100, text))
        if strike >= MessageRate.STRIKES:
            self.close()

    # Out

    def send(self, *messages: Message) -> None:
        """Send messages, as far and in the manner that the faults allow."""
        faults = self.shared.faults
        if self._mute or self._transport.is_closing():
            return
        now = self.loop.time()
        data = bytearray()
        for message in messages:
            if message[0] in faults.silent_answers:
                continue
            texts = wire.texts(message)
            self.shared.log.note_sent(now, self.client_id, int(message[0]), texts)
            data += wire.frame(texts) * (2 if faults.duplicate_frames else 1)
        if data:
            self._write(bytes(data))

    def refuse(self, req_id: int, code: int, text: str | None = None) -> None:
        """Answer a request with an error, and count it."""
        self.shared.log.refused[code] += 1
        self.send(answers.error(self.version, req_id, code, text))

    def close(self) -> None:
        """End the connection after what was sent has gone out."""
        self._transport.close()

    def _write(self, data: bytes) -> None:
        self._outgoing += data
        unsent = len(self._outgoing) + self._transport.get_write_buffer_size()
        if unsent > UNSENT_LIMIT:
            self.give_up(f"it does not read, and {unsent} bytes wait for it")
        elif self._flush_is_due:
            return
        if self.shared.faults.coalesce_seconds:
            self._flush_is_due = True
            self.later(self.shared.faults.coalesce_seconds, self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._transport.is_closing() or self.shared.faults.stalled or not self._outgoing:
            return
        size = self.shared.faults.chunk_bytes or len(self._outgoing)
        self._transport.write(bytes(self._outgoing[:size]))
        del self._outgoing[:size]
        if self._outgoing:  # the next chunk leaves in a turn of its own, so it arrives on its own
            self._flush_is_due = True
            self.later(0.0, self._flush)

    # With time, and with the account

    def tick(self, now: float) -> None:
        """Send what time has changed: streams, P&L, and now and then the portfolio. Called once per tick interval."""
        if self.shared.faults.stalled:
            self._connected_at = REAL.monotonic()  # nobody can log in meanwhile
        if self.shared.faults.stalled or self._transport.is_closing():
            return
        self._flush()
        self._transport.resume_reading()
        self.handle_waiting()
        if self.is_newcomer and REAL.monotonic() - self._connected_at > self.shared.settings.login_seconds:
            self.give_up(f"it has not logged in within {self.shared.settings.login_seconds:g} s")
        if self.client_id == NOT_STARTED or self._congested or not self.shared.linked:
            return
        self.send(*self.market_data.news())
        for req_id in self.pnl:
            self.send_pnl(req_id)
        if self.followed_account and now >= self._portfolio_due:
            self.send_portfolio()

    def send_pnl(self, req_id: int) -> None:
        """Send one position's profit, or an account's, if it has changed."""
        account_id, conid, sent = self.pnl[req_id]
        if account_id in self.shared.faults.silent_accounts:
            return
        account = self.shared.accounts[account_id]
        message = answers.pnl_single(req_id, account, conid) if conid else answers.pnl(req_id, account)
        if message != sent:
            self.pnl[req_id] = (account_id, conid, message)
            self.send(message)

    def send_portfolio(self) -> None:
        """Send the followed account's values, whole portfolio and the time of it, as IB does every three minutes."""
        account = self.shared.accounts[self.followed_account]
        self._portfolio_due = self.loop.time() + self.shared.settings.portfolio_interval
        if account.account_id in self.shared.faults.silent_accounts:
            return
        self.send(
            *answers.account_values(account.account_id, account.totals()),
            *(answers.portfolio(account.account_id, account.value(each)) for each in account.positions),
            (Answer.ACCOUNT_UPDATE_TIME, 1, f"{account.market.clock.now():%H:%M}"),
        )

    def position_changed(self, account: Account, position: Position) -> None:
        """Push a position that was opened, changed or closed to a client that follows."""
        if self.follows_positions:
            self.send(answers.position(account.account_id, position))
        silent = account.account_id in self.shared.faults.silent_accounts
        if self.followed_account == account.account_id and not silent:
            self.send(answers.portfolio(account.account_id, account.value(position)))
