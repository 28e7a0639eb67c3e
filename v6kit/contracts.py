"""The domain's frozen types and their validation: instruments, legs, positions, quotes.

Names follow Interactive Brokers: conid, sec_type, right (`C`/`P`), strike, expiry (`YYYYMMDD`), multiplier. Every check
raises `TypeError` or `ValueError` that names the argument and the value. No I/O happens here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, SupportsIndex

SEC_TYPES = ("OPT", "FOP", "STK", "FUT", "IND", "CASH", "BOND", "FUND", "CFD", "CMDTY", "CRYPTO", "WAR")
OPTION_TYPES = ("OPT", "FOP", "WAR")
DEFAULT_STRATEGY_PRIORITY = 2
INT32_END = 2**31  # what a column of 32 bits holds lies below
_LONGEST_DAYS = 36_500  # a longer span leaves the calendar when it is added to an instant


class Right(StrEnum):
    """An option's right, as IB writes it."""

    CALL = "C"
    PUT = "P"


class Source(StrEnum):
    """How a price reached us."""

    STREAM = "stream"
    SNAPSHOT = "snapshot"
    PORTFOLIO = "portfolio"


class Quality(StrEnum):
    """How far a row of the book can be trusted.

    `ok`: bid and ask, or last, came after the request. `partial`: less than that. `stale`: true once, but the quotes
    have been cut off since. `error`: the gateway refused, see the error code.
    """

    OK = "ok"
    PARTIAL = "partial"
    STALE = "stale"
    ERROR = "error"


def check_int(name: str, value: SupportsIndex, *, minimum: int = 1, below: int = 2**63) -> int:
    """Return `value` as an int from `minimum` to below a power of two; booleans, floats and strings are refused."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if number >= below:
        raise ValueError(f"{name} must be below 2**{below.bit_length() - 1}, got {number}")
    return number


def check_float(name: str, value: float, *, above: float = -math.inf) -> float:
    """Return `value` as a finite float greater than `above`."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:  # several numbers in an array, or one beyond all floats
        raise ValueError(f"{name} must be a number, got {value!r}: {error}") from None
    if not math.isfinite(number) or number <= above:
        wanted = "finite" if above == -math.inf else f"finite and greater than {above:g}"
        raise ValueError(f"{name} must be {wanted}, got {number!r}")
    return number


def check_text(name: str, value: str, *, empty_allowed: bool = False) -> str:
    """Return `value` without surrounding blanks; refuse what is no string, and the empty string unless allowed."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r} ({type(value).__name__})")
    text = value.strip()
    if not text and not empty_allowed:
        raise ValueError(f"{name} must not be empty, got {value!r}")
    return text


def check_accounts(value: str | Collection[str]) -> tuple[str, ...]:
    """Return account ids, given as one or as several, each once and in their order; none for an empty value."""
    if not isinstance(value, str | Collection):
        raise TypeError(f"account must be an account's id or several, got {value!r} ({type(value).__name__})")
    names = [value] if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(check_text("account", name) for name in names if name != ""))


def check_instant(name: str, value: datetime) -> datetime:
    """Return `value` in UTC; a naive datetime is refused, because its zone would be a guess."""
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, got {value!r} ({type(value).__name__})")
    if value.tzinfo is None:
        raise ValueError(f"{name} must be an aware datetime, got the naive {value!r}; add tzinfo=UTC")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} must lie within the years 1 to 9999 of UTC, got {value!r}") from None


def parse_instant(name: str, text: str) -> datetime:
    """Return the instant that ISO text with an offset names, in UTC."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be ISO text such as 2026-11-22T14:32:05+00:00, got {text!r}") from None
    if instant.tzinfo is None:
        raise ValueError(f"{name} must say how far it is from UTC, as {instant.isoformat()}+00:00 does, got {text!r}")
    return check_instant(name, instant)


def check_span(name: str, value: timedelta, *, zero_allowed: bool = False) -> timedelta:
    """Return a duration of at most a hundred years; refuse what does not last, unless zero is allowed."""
    if not isinstance(value, timedelta):
        raise TypeError(f"{name} must be a timedelta, got {value!r} ({type(value).__name__})")
    if value < timedelta(0) or (value == timedelta(0) and not zero_allowed):
        raise ValueError(
            f"{name} must {'not be negative' if zero_allowed else 'be longer than nothing'}, got {value!r}"
        )
    if value > timedelta(days=_LONGEST_DAYS):
        raise ValueError(f"{name} must be at most {_LONGEST_DAYS:,} days, got {value!r}")
    return value


def check_right(value: str | Right) -> Right:
    """Return IB's `C` or `P` for `C`, `P`, `CALL` or `PUT` in any case."""
    text = check_text("right", value).upper()
    if text in ("C", "CALL"):
        return Right.CALL
    if text in ("P", "PUT"):
        return Right.PUT
    raise ValueError(f"right must be 'C', 'P', 'CALL' or 'PUT', got {value!r}")


def check_expiry(value: str | date, name: str = "expiry") -> str:
    """Return `YYYYMMDD` for a real date, given as that text or as a `date`."""
    if isinstance(value, date):
        return value.strftime("%Y%m%d")
    text = check_text(name, value)
    with suppress(ValueError):
        if date.fromisoformat(text).strftime("%Y%m%d") == text:  # ISO has other ways to write a date as well
            return text
    raise ValueError(f"{name} must be a real date written YYYYMMDD, got {value!r}")


def check_sec_type(value: str) -> str:
    """Return IB's security type in upper case."""
    text = check_text("sec_type", value).upper()
    if text not in SEC_TYPES:
        raise ValueError(f"sec_type must be one of {', '.join(SEC_TYPES)}, got {value!r}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One contract of a strategy, as the user states it.

    Attributes:
        conid: IB's contract id, > 0.
        symbol: The underlying's symbol.
        sec_type: IB's security type. Default: `OPT`.
        right: `C` or `P`; options only.
        strike: In the contract's currency, > 0; options only.
        expiry: `YYYYMMDD`; options and futures.
        quantity: Signed number of contracts that the strategy holds, as the account counts them; not 0.
    """

    conid: int
    symbol: str
    right: Right | None = None
    strike: float | None = None
    expiry: str | None = None
    sec_type: str = "OPT"
    quantity: float = 1.0

    def __post_init__(self) -> None:
        """Validate, and bring each field into IB's spelling."""
        self._put("conid", check_int("conid", self.conid))
        self._put("symbol", check_text("symbol", self.symbol).upper())
        self._put("sec_type", check_sec_type(self.sec_type))
        self._put("quantity", check_float("quantity", self.quantity))
        if self.quantity == 0:
            raise ValueError("quantity must not be 0; a leg that is not held does not belong to the strategy")
        if self.sec_type in OPTION_TYPES:
            self._put("right", check_right(self._needed("right")))
            self._put("strike", check_float("strike", self._needed("strike"), above=0.0))
            self._put("expiry", check_expiry(self._needed("expiry")))
            return
        for name in ("right", "strike"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} belongs to options only, got {getattr(self, name)!r} for {self.sec_type!r}")
        if self.expiry is not None:
            if self.sec_type != "FUT":
                raise ValueError(f"expiry belongs to options and futures only, got {self.expiry!r}")
            self._put("expiry", check_expiry(self.expiry))

    @classmethod
    def of(cls, instrument: Instrument, quantity: float = 1.0) -> Leg:
        """Return a contract that the gateway described, a position's for example, as a leg."""
        return Leg(
            conid=instrument.conid,
            symbol=instrument.symbol,
            sec_type=instrument.sec_type,
            right=instrument.right,
            strike=instrument.strike,
            expiry=instrument.expiry,
            quantity=quantity,
        )

    def _needed(self, name: str) -> Any:  # noqa: ANN401 - what it is, is still to be checked
        if (value := getattr(self, name)) is None:
            raise ValueError(f"{name} is needed for a leg of sec_type {self.sec_type!r}, got None")
        return value

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # a frozen dataclass has no other door

    def label(self) -> str:
        """Return the contract as a trader writes it, e.g. `SPY 261218 C 595`."""
        return label(self.symbol, self.expiry, self.right, self.strike)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveContract(Leg):
    """A leg that a strategy holds now.

    Attributes:
        strategy_id: The user's id of the strategy, as text.
        strategy: Its kind or name, e.g. `IRON_CONDOR`.
        added_at: When it was registered, aware UTC.
        removed_at: When it was removed, or `None` while active.
        account: The account that is to hold it; `None`: any of the login.
        priority: Of its strategy: 1 goes before 2 where there is not enough for all.
    """

    strategy_id: str
    strategy: str
    added_at: datetime
    removed_at: datetime | None = None
    account: str | None = None
    priority: int = DEFAULT_STRATEGY_PRIORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A contract as the gateway describes it.

    Attributes:
        exchange: Empty when the gateway left it out, as it does in positions of options and futures.
        multiplier: Units of the underlying per contract; 1 for stocks.
    """

    conid: int
    symbol: str
    sec_type: str
    right: Right | None = None
    strike: float | None = None
    expiry: str | None = None
    multiplier: float = 1.0
    exchange: str = ""
    currency: str = "USD"
    local_symbol: str = ""
    trading_class: str = ""

    def label(self) -> str:
        """Return the contract as a trader writes it, e.g. `SPY 261218 C 595`."""
        return label(self.symbol, self.expiry, self.right, self.strike)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class OptionSeries:
    """The options of one expiry and class: what settles together, and so what the legs of one spread are taken from.

    Attributes:
        expiry: `YYYYMMDD`.
        trading_class: IB's: the symbol itself, or another, e.g. `SPXW` beside `SPX`, which settle at different times.
        multiplier: Units of the underlying per contract.
    """

    expiry: str
    trading_class: str
    multiplier: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPosition:
    """One position of one account; the gateway gives it no price.

    Attributes:
        position: Signed number of contracts or shares.
        avg_cost: Per contract, multiplier included, in the contract's currency.
    """

    account: str
    instrument: Instrument
    position: float
    avg_cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PortfolioValue:
    """What the gateway's portfolio push says of a position; costs no market data line.

    Attributes:
        mark: IB's market price, per unit.
        market_value: position × mark × multiplier.
    """

    account: str
    instrument: Instrument
    position: float
    avg_cost: float
    mark: float | None
    market_value: float | None
    unrealized_pnl: float | None
    realized_pnl: float | None
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Prices and greeks of one contract; IB's −1 and NaN are `None` here.

    Attributes:
        requested_at: When the request went out, aware UTC.
        received_at: When the newest of these values came in.
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed-frozen.
        quality: `ok` when bid and ask, or last, came after the request; otherwise `partial`.
        error_code: A soft code that came with it (10090-10092, 10167), if any.
    """

    conid: int
    source: Source
    requested_at: datetime
    received_at: datetime
    quality: Quality
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    close: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    delta: float | None = None
    gamma: float | None = None
    vega: float | None = None
    theta: float | None = None
    implied_vol: float | None = None
    underlying_price: float | None = None
    model_price: float | None = None
    market_data_type: int = 1
    error_code: int | None = None

    def mark(self) -> tuple[float | None, str | None]:
        """Return the price to value the position at, and which one it is: `mid`, `last`, `model`, `close` or `None`."""
        if self.bid is not None and self.ask is not None:
            return (self.bid + self.ask) / 2, "mid"
        for price, name in ((self.last, "last"), (self.model_price, "model"), (self.close, "close")):
            if price is not None:
                return price, name
        return None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionUpdate:
    """What became known about a position, and how; the book keeps what an update leaves out.

    Attributes:
        position: Signed; 0 closes it. `None`: not known by this update, and a position that is not held stays so.
        avg_cost: Per contract, multiplier included; `None`: not known by this update.
        quote: Prices and greeks, or `None`.
        portfolio: The gateway's own valuation, or `None`.
        quality: Only `error` and `stale` are set here; otherwise the quote says it.
        error_code: IB's code of the request that failed.
        request_id: The queue request that asked for it, or `None` for streams and portfolio pushes.
        attempt: The request's attempt, from 1; 0 without a request. (request_id, attempt) is written once, unless the
            request was redriven since, which counts from 1 again: then its quote was asked for later.
    """

    account: str
    instrument: Instrument
    position: float | None = None
    avg_cost: float | None = None
    quote: Quote | None = None
    portfolio: PortfolioValue | None = None
    quality: Quality | None = None
    error_code: int | None = None
    request_id: str | None = None
    attempt: int = 0


def label(symbol: str, expiry: str | None, right: str | None, strike: float | None) -> str:
    """Return a contract as a trader writes it: `SPY`, `ES 261218` or `SPY 261218 C 595`."""
    parts = [symbol]
    if expiry:
        parts.append(expiry[2:])
    if right and strike is not None:
        parts += [str(right), f"{strike:g}"]
    return " ".join(parts)
