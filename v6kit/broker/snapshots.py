"""One snapshot from start to finish: line, turn, request, ticks, end, line back.

Owns the retrying within a snapshot. Does not know the queue: whoever asked for the snapshot decides about the next one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from v6kit.broker.actions import Action
from v6kit.contracts import Quote, Source
from v6kit.errors import LineLimitError, RequestFailedError

if TYPE_CHECKING:
    from v6kit.broker.lines import LineHolder
    from v6kit.broker.requests import Means, Refusal, Request
    from v6kit.broker.session import Session

TRIES = 5
"""How often one snapshot is sent at most, when each refusal is of the kind that another try may cure."""

RETRIED = frozenset(
    {
        Action.LINE_LIMIT,
        Action.BACK_OFF,
        Action.SLOW_DOWN,
        Action.NEW_REQUEST_ID,
        Action.LINK_BACK_DATA_LOST,
    }
)
LOOKED_UP = frozenset({Action.FIX_EXCHANGE, Action.UNKNOWN_CONTRACT})
"""The refusals that the contract's details may cure, once."""


class _RefusedError(Exception):
    """The gateway refused this try."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class _Pending:
    """The asker of one try: a future that its end or its refusal resolves."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ticks(self, request: Request) -> None:
        """Nothing to do: the ticker is read at the end."""

    def on_end(self, request: Request) -> None:  # noqa: ARG002 - the protocol's signature
        if not self.ended.done():
            self.ended.set_result(None)

    def on_refusal(self, request: Request, refusal: Refusal) -> None:  # noqa: ARG002 - the protocol's signature
        if not self.ended.done():
            self.ended.set_exception(_RefusedError(refusal))


class Snapshots:
    """Takes snapshots.

    Args:
        means: What they are made with.
        timeout: Seconds that a snapshot may take from when it was sent.
    """

    def __init__(self, means: Means, *, timeout: float) -> None:
        self._requests = means.requests
        self._one_request = means.one_request
        self._lines = means.lines
        self._pacer = means.pacer
        self._native_exchange = means.native_exchange
        self._fresh_exchange = means.fresh_exchange
        self._check_servers = means.check_servers
        self._timeout = timeout
        self._timings = means.timings
        self._clock = means.clock
        self._next = asyncio.Lock()

    async def take(self, session: Session, conid: int, exchange: str) -> Quote | None:
        """Ask for the prices of one contract, and wait for all of them.

        Returns:
            The quote; `None` if it streams by the time that there is a line, or somebody else asks about it then.

        Raises:
            GatewayUnavailableError: The link is down.
            LineLimitError: No line became free in time.
            RequestFailedError: The gateway refused (`code`), or did not answer in time (`code` is `None`).
        """
        is_looked_up = False
        for attempt in range(1, TRIES + 1):
            try:
                return await self._try_once(session, conid, exchange)
            except _RefusedError as error:
                refusal, asked_at = error.refusal, exchange
                if refusal.action in LOOKED_UP and not is_looked_up:
                    is_looked_up = True
                    exchange = await self._exchange_after(refusal, session, conid, exchange)
                if not _worth_another_try(refusal, attempt, exchange_changed=exchange != asked_at):
                    raise RequestFailedError(
                        f"snapshot of conid {conid} refused: {refusal}", code=refusal.code
                    ) from None
                if refusal.action in (Action.BACK_OFF, Action.SLOW_DOWN):
                    await asyncio.sleep(self._timings.snapshot_back_off)
        raise AssertionError("the last try either returns or raises")

    async def _exchange_after(self, refusal: Refusal, session: Session, conid: int, exchange: str) -> str:
        """Return the exchange that the contract's details name, or the same one when they cannot be had."""
        fix = self._native_exchange if refusal.action is Action.FIX_EXCHANGE else self._fresh_exchange
        try:
            return await fix(session, conid)
        except RequestFailedError:
            return exchange  # the first refusal says more than this one

    async def _try_once(self, session: Session, conid: int, exchange: str) -> Quote | None:
        line = await self._line_and_turn(conid)
        # not before: a stream must not wait for a snapshot that has no line itself
        if self._lines.references(conid) or not self._one_request.is_free(conid):
            self._lines.release_snapshot(line)
            return None
        async with self._one_request.of(conid):
            return await self._ask(session, conid, exchange, line)

    async def _ask(self, session: Session, conid: int, exchange: str, line: LineHolder) -> Quote:
        try:
            pending = _Pending()
            request = self._requests.send(session, conid, exchange, pending, snapshot=True)
        except BaseException:
            self._lines.release_snapshot(line)
            raise
        try:
            async with asyncio.timeout(self._timeout):
                await pending.ended
        except _RefusedError as error:
            self._requests.forget(request)
            self._give_back_refused(line, error.refusal)
            raise
        except TimeoutError as error:
            await self._cancelled(request, line)
            raise RequestFailedError(f"snapshot of conid {conid}: no end within {self._timeout:g} s") from error
        except BaseException:
            self._requests.cancel(request, lambda: self._lines.release_snapshot(line))
            raise
        self._requests.forget(request)
        self._lines.release_snapshot(line)
        return request.quote(Source.SNAPSHOT, now=self._clock.now())

    async def _line_and_turn(self, conid: int) -> LineHolder:
        """Wait for a line and for the turn to send; one snapshot at a time, so that only one line waits with it."""
        try:
            async with asyncio.timeout(self._timings.line_wait):
                await self._next.acquire()
        except TimeoutError as error:
            raise self._no_line(conid) from error
        try:
            line = await self._line(conid)
            try:
                await self._pacer.turn()
                self._check_servers()
            except BaseException:
                self._lines.release_snapshot(line)
                raise
            return line
        finally:
            self._next.release()

    async def _line(self, conid: int) -> LineHolder:
        try:
            async with asyncio.timeout(self._timings.line_wait):
                return await self._lines.acquire_snapshot(conid)
        except TimeoutError as error:
            raise self._no_line(conid) from error

    def _no_line(self, conid: int) -> LineLimitError:
        return LineLimitError(
            f"no line became free for a snapshot of conid {conid} within {self._timings.line_wait:g} s: "
            f"streams hold {self._lines.streams} of {self._lines.capacity}, snapshots {self._lines.snapshots}"
        )

    def _give_back_refused(self, line: LineHolder, refusal: Refusal) -> None:
        if refusal.action is Action.LINE_LIMIT:
            self._lines.refused(line)
        else:
            self._lines.release_snapshot(line)

    async def _cancelled(self, request: Request, line: LineHolder) -> None:
        task = self._requests.cancel(request, lambda: self._lines.release_snapshot(line))
        if task is not None:
            await asyncio.wait({task})


def _worth_another_try(refusal: Refusal, attempt: int, *, exchange_changed: bool) -> bool:
    """Return whether to ask once more after the `attempt`-th refusal."""
    cured = exchange_changed if refusal.action in LOOKED_UP else refusal.action in RETRIED
    return cured and attempt < TRIES
