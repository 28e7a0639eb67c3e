"""What can happen to a gateway while it runs: the market's hours, halts, outages, fills, and what else a day brings.

Each public method of `Moods` may be called by hand, from any thread, and is an action of a `Scenario`. What is wrong
with an argument is said by `CHECKS`, to a caller and to a scenario alike. What a client sees of each is IB's doing as
far as it is published; what is not, is a model and says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from v6kit.contracts import check_float, check_int, check_text
from v6kit.gateway import answers
from v6kit.gateway.account import Position
from v6kit.gateway.answers import NO_REQUEST
from v6kit.gateway.listing import FARMS, UNDERLYINGS
from v6kit.gateway.market import Hours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from v6kit.gateway.shared import Shared

LINK_LOST, LINK_BACK_DATA_LOST, LINK_BACK = 1100, 1101, 1102
FARM_BROKEN, FARM_BACK = 2103, 2104
SYMBOLS = tuple(each.symbol for each in UNDERLYINGS)
SPLITTABLE = tuple(each.symbol for each in UNDERLYINGS if each.strike_step)

Args = TypeVarTuple("Args")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def check_symbol(name: str, value: str) -> str:
    """Return a symbol of the simulated market."""
    return _one_of(name, value, SYMBOLS)


def check_farm(name: str, value: str) -> str:
    """Return the name of a market data farm."""
    return _one_of(name, value, tuple(dict.fromkeys(FARMS.values())))


def check_quantity(name: str, value: float) -> float:
    """Return a signed quantity that is not 0."""
    quantity = check_float(name, value)
    if not quantity:
        raise ValueError(f"{name} must not be 0, got {value!r}; what is bought is positive, what is sold negative")
    return quantity


def check_price(name: str, value: float) -> float:
    """Return a price per unit, 0 or more."""
    price = check_float(name, value)
    if price < 0:
        raise ValueError(f"{name} must be 0 or more, got {value!r}")
    return price


CHECKS: Mapping[str, Callable[[str, Any], object]] = {
    "account": check_text,
    "client_id": lambda name, value: check_int(name, value, minimum=0),
    "code": check_int,
    "conid": check_int,
    "count": check_int,
    "farm": check_farm,
    "price": check_price,
    "quantity": check_quantity,
    "ratio": lambda name, value: check_float(name, value, above=0.0),
    "seconds": lambda name, value: check_float(name, value, above=0.0),
    "symbol": check_symbol,
    "text": check_text,
}
"""By an argument's name, what returns its value or says what is wrong with it; `None` is passed by."""


class Moods(ABC):
    """What can happen; a base of `SimulatedGateway`, which owns the loop on which it happens."""

    _shared: Shared
    _closed_until: datetime | None = None

    @abstractmethod
    def _on_loop(self, act: Callable[[Unpack[Args]], None], *args: *Args) -> None:
        """Act at once when called on the gateway's loop or while it is stopped, soon when called from elsewhere."""

    # The market's hours

    def pre_market(self) -> None:
        """Before the open: quotes are -1 in market data type 1, and the last known ones in type 2."""
        self._on_loop(self._set_hours, Hours.PRE_MARKET)

    def open_market(self) -> None:
        """Trade."""
        self._on_loop(self._set_hours, Hours.OPEN)

    def close_market(self) -> None:
        """End the day: quotes as before the open, and options whose last day it is leave the account.

        They are settled in cash at what they are worth (a model: no exercise, no assignment); the account tells its
        position 0, and requests for them get error 200 from now on.
        """
        self._on_loop(self._close)

    def halt(self, symbol: str) -> None:
        """Halt a symbol, its options and futures: tick 49 turns 1, and nothing new is quoted until `resume`."""
        self._on_loop(self._shared.market.halt, check_symbol("symbol", symbol))

    def resume(self, symbol: str) -> None:
        """Let a halted symbol trade again: tick 49 turns 0."""
        self._on_loop(self._shared.market.resume, check_symbol("symbol", symbol))

    # Market data

    def begin_competing_session(self) -> None:
        """Give the login's market data to another session.

        Each running stream is told (10197) and stands still; snapshots end with that error; what is requested
        meanwhile gets it, too. Streams keep their lines and tick again after `end_competing_session`.
        """
        self._on_loop(self._compete)

    def end_competing_session(self) -> None:
        """Give the market data back: all streams tick again, with a complete set of ticks first."""
        self._on_loop(self._end_competition)

    def break_farm(self, farm: str) -> None:
        """Take a market data farm out (2103): what it serves stops ticking, and snapshots of that end without a tick.

        Args:
            farm: `usopt` serves options, `usfarm` stocks, `usfuture` futures and indices; a model of IB's farms.
        """
        self._on_loop(self._break_farm, check_farm("farm", farm))

    def restore_farm(self, farm: str) -> None:
        """Bring a market data farm back (2104): what it serves ticks again."""
        self._on_loop(self._restore_farm, check_farm("farm", farm))

    def refuse_requests(self, count: int, code: int, text: str | None = None) -> None:
        """Refuse the next market data requests.

        Args:
            count: How many.
            code: IB's error code.
            text: What the error says; default: what IB says with that code.
        """
        refusals = [(check_int("code", code), text)] * check_int("count", count)
        self._on_loop(self._shared.faults.refusals.extend, refusals)

    def take_lines(self, count: int) -> None:
        """Have TWS's own windows take so many market data lines: new requests find fewer, running ones stay."""
        self._on_loop(self._take_lines, check_int("count", count))

    def give_lines_back(self, count: int) -> None:
        """Have TWS's own windows give back so many lines, or all if they hold fewer."""
        self._on_loop(self._take_lines, -check_int("count", count))

    # Connections

    def broadcast(self, code: int, text: str | None = None) -> None:
        """Send a system code to all clients, and live by it.

        1100 stops all market data until 1101 or 1102, and snapshots end without a tick meanwhile; at 1101 streams and
        snapshots in flight are forgotten, 1102 has kept them. Other codes (2103, 10197, ...) are notices and change
        nothing; what they stand for are methods of their own.
        """
        self._on_loop(self._broadcast, check_int("code", code), text)

    def drop_clients(self, client_id: int | None = None) -> None:
        """Cut the connection of one client, or of all."""
        self._on_loop(self._drop, client_id)

    def refuse_connections_for(self, seconds: float) -> None:
        """Refuse new connections for a while on the gateway's clock; those that are open stay."""
        self._on_loop(self._refuse_connections, check_float("seconds", seconds, above=0.0))

    def restart(self, seconds: float) -> None:
        """Restart, as TWS does every day: all sockets drop, and nobody can connect for so many seconds.

        Afterwards there is the same account, and no market data line is held.
        """
        self.refuse_connections_for(seconds)
        self.drop_clients()

    # The account

    def trade(self, conid: int, quantity: float, price: float | None = None, account: str | None = None) -> None:
        """Fill an order of an account's, wherever it was placed; clients hear of the position.

        Args:
            conid: A contract that the market lists.
            quantity: Signed number of contracts or shares: bought is positive.
            price: Per unit, without the multiplier. Default: the ask for what is bought, the bid for what is sold.
            account: Its id; default the first one.

        Raises:
            ValueError, TypeError: There is no such account, or the conid, the quantity or the price is none.
        """
        trader = self._shared.account if account is None else self._shared.accounts.get(account)
        if trader is None:
            raise ValueError(f"account must be one of {', '.join(self._shared.accounts)}, got {account!r}")
        instrument = self._shared.market.instrument(check_int("conid", conid))
        if instrument is not None and self._shared.market.is_expired(instrument):
            raise ValueError(f"conid must not have expired, got {conid}, whose last day was {instrument.expiry}")
        price = None if price is None else check_price("price", price)
        trader.trade(conid, check_quantity("quantity", quantity), price)

    def corporate_action(self, symbol: str, ratio: float = 1.0) -> None:
        """Replace all contracts of a symbol by new ones with new conids, as a split or a merger does.

        Positions in the old ones go to 0 and appear in the new ones; requests for an old conid get error 200.

        Args:
            symbol: Of a stock.
            ratio: New shares per old share, 2 for a 2:1 split: price, strikes and average cost are divided by it,
                quantities multiplied.

        Raises:
            ValueError, TypeError: The symbol is of no stock that it knows, or the ratio is not above 0.
        """
        _one_of("symbol", symbol, SPLITTABLE)
        self._on_loop(self._reissue, symbol, check_float("ratio", ratio, above=0.0))

    # On the loop

    def _set_hours(self, hours: Hours) -> None:
        self._shared.market.hours = hours

    def _close(self) -> None:
        market = self._shared.market
        market.hours = Hours.CLOSED
        today = market.clock.now().strftime("%Y%m%d")
        for account in self._shared.accounts.values():
            for held in account.positions:
                instrument = held.instrument
                if instrument.sec_type == "OPT" and (instrument.expiry or "") <= today:
                    account.trade(instrument.conid, -held.quantity, market.intrinsic(instrument))
        market.expire(today)

    def _compete(self) -> None:
        self._shared.competing = True
        for session in self._shared.sessions:
            session.market_data.compete()

    def _end_competition(self) -> None:
        self._shared.competing = False
        self._refresh_streams()

    def _break_farm(self, farm: str) -> None:
        self._shared.broken_farms.add(farm)
        self._broadcast(FARM_BROKEN, answers.farm_news(FARM_BROKEN, farm))

    def _restore_farm(self, farm: str) -> None:
        self._shared.broken_farms.discard(farm)
        self._broadcast(FARM_BACK, answers.farm_news(FARM_BACK, farm))
        self._refresh_streams()

    def _refresh_streams(self) -> None:
        for session in self._shared.sessions:
            session.market_data.resume()

    def _take_lines(self, count: int) -> None:
        lines = self._shared.lines
        lines.taken = max(lines.taken + count, 0)

    def _broadcast(self, code: int, text: str | None) -> None:
        if code in (LINK_LOST, LINK_BACK, LINK_BACK_DATA_LOST):
            self._shared.linked = code != LINK_LOST
        for session in list(self._shared.sessions):
            if code == LINK_BACK_DATA_LOST:
                session.market_data.forget()
            if session.is_started:
                session.send(answers.error(session.version, NO_REQUEST, code, text))

    def _drop(self, client_id: int | None) -> None:
        for session in list(self._shared.sessions):
            if client_id is None or session.client_id == client_id:
                session.abort()

    def _refuse_connections(self, seconds: float) -> None:
        self._shared.faults.refuse_connections = True
        self._closed_until = self._shared.market.clock.now() + timedelta(seconds=seconds)

    def _accept_when_due(self, now: datetime) -> None:
        if self._closed_until is not None and now >= self._closed_until:
            self._closed_until = None
            self._shared.faults.refuse_connections = False

    def _reissue(self, symbol: str, ratio: float) -> None:
        for old, new in self._shared.market.reissue(symbol, ratio):
            for account in self._shared.accounts.values():
                held = account.position(old.conid)
                if held is not None:
                    account.replace(held, Position(new, held.quantity * ratio, round(held.avg_cost / ratio, 4)))
