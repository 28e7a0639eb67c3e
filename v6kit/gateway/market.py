"""The simulated market: what its contracts cost at each step of time.

Every price is a pure function of (seed, conid, step), so two markets with one seed and one date agree to the last
digit, and a market on a clock that stands still repeats itself. Owns no socket, no account and no message; what is
listed is `listing`.

A model, and a simple one: underlyings wander on sums of sinusoids, options are European without dividends, time to
expiry counts whole days, and nothing that is traded moves a price.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from v6kit.clock import Clock
from v6kit.contracts import Instrument, Right
from v6kit.gateway.listing import Listing
from v6kit.gateway.pricing import DAYS_PER_YEAR, RATE, Greeks, black_scholes, smile

TICK = 0.01
COARSE_TICK = 0.05  # options from COARSE_FROM on
COARSE_FROM = 3.0
FUTURE_TICK = 0.25
STEPS_PER_TRADE = 4  # a last price stands for so many steps


class Hours(StrEnum):
    """Where the market is in its day.

    Example:
        >>> from v6kit.gateway import SimulatedGateway
        >>> SimulatedGateway(0).market.hours
        <Hours.OPEN: 'open'>
    """

    PRE_MARKET = "pre-market"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class TopOfBook:
    """A contract's prices at one step; per unit, without the multiplier.

    Attributes:
        model: The theoretical price, and for options the greeks that go with it.
        last_at: Epoch second of the last trade.
        halted: Whether trading is halted; the prices are those of the last moment before.

    Example:
        >>> market = Market(seed=7)
        >>> top = market.quote(market.find(symbol="SPY", sec_type="OPT")[0].conid)
        >>> top.bid < top.ask, -1 <= top.greeks.delta <= 1
        (True, True)
    """

    bid: float
    ask: float
    last: float
    close: float
    bid_size: int
    ask_size: int
    last_size: int
    volume: int
    last_at: int
    model: float
    greeks: Greeks | None = None
    halted: bool = False

    @property
    def mid(self) -> float:
        """The middle between bid and ask."""
        return (self.bid + self.ask) / 2.0


class Market(Listing):
    """Listed contracts and their prices.

    Args:
        seed: Names the market: contract ids and paths depend on it and on nothing else.
        clock: Tells the date and the time that has passed.
        step_seconds: Prices stand still between two multiples of this.

    Example:
        >>> market = Market(seed=7)
        >>> [each.sec_type for each in market.find(symbol="SPY", sec_type="STK")], len(market.expiries)
        (['STK'], 6)
    """

    def __init__(self, seed: int = 7, clock: Clock | None = None, *, step_seconds: float = 0.25) -> None:
        if not step_seconds > 0:
            raise ValueError(f"step_seconds must be greater than 0, got {step_seconds!r}")
        super().__init__(seed, Clock() if clock is None else clock)
        self.step_seconds = step_seconds
        self._opened = self.clock.monotonic()
        self._waves = {symbol: _waves(seed, symbol) for symbol in self._by_symbol}
        self._hours = Hours.OPEN
        self._frozen_step: int | None = None
        self._halted: dict[str, int] = {}
        self._quoted: dict[int, TopOfBook] = {}
        self._quoted_at: tuple[int, date] | None = None

    # When it trades

    @property
    def hours(self) -> Hours:
        """Where the market is in its day; open until something else is said. Unless open, its prices stand still."""
        return self._hours

    @hours.setter
    def hours(self, hours: Hours) -> None:
        frozen = self.step if hours is not Hours.OPEN else None
        self._hours, self._frozen_step = hours, frozen

    @property
    def is_open(self) -> bool:
        """Whether it trades. A closed market keeps its last prices as frozen ones."""
        return self._hours is Hours.OPEN

    @is_open.setter
    def is_open(self, value: bool) -> None:
        self.hours = Hours.OPEN if value else Hours.CLOSED

    @property
    def halted(self) -> list[str]:
        """Symbols whose trading is halted, by name."""
        return sorted(self._halted)

    def halt(self, symbol: str) -> None:
        """Hold the prices of a symbol, its options and its futures where they are."""
        self._halted.setdefault(symbol, self.step)
        self._quoted_at = None

    def resume(self, symbol: str) -> None:
        """Let a halted symbol trade again; one that is not halted stays as it is."""
        self._halted.pop(symbol, None)
        self._quoted_at = None

    def reissue(self, symbol: str, ratio: float = 1.0) -> list[tuple[Instrument, Instrument]]:
        """Replace all contracts of a symbol, as `Listing.reissue` says."""
        self._quoted_at = None
        return super().reissue(symbol, ratio)

    # What it costs

    @property
    def step(self) -> int:
        """Whole steps of time since the market opened; the one at which it closed while it is closed."""
        if self._frozen_step is not None:
            return self._frozen_step
        return math.floor((self.clock.monotonic() - self._opened) / self.step_seconds)

    def spot(self, symbol: str, step: int | None = None) -> float:
        """Return the underlying's price, unrounded, at a step; default now, or when it was halted."""
        seconds = (self._halted.get(symbol, self.step) if step is None else step) * self.step_seconds
        drift = sum(
            size * math.sin(2.0 * math.pi * seconds / period + phase) for size, period, phase in self._waves[symbol]
        )
        return self._by_symbol[symbol].price * math.exp(drift)

    def quote(self, conid: int) -> TopOfBook:
        """Return a contract's prices now.

        Raises:
            KeyError: The conid was never listed.
        """
        now = (self.step, self.clock.now().date())
        if now != self._quoted_at:
            self._quoted.clear()
            self._quoted_at = now
        quote = self._quoted.get(conid)
        if quote is None:
            instrument = self._by_conid.get(conid) or self._delisted[conid]
            halted_at = self._halted.get(instrument.symbol)
            quote = self._price(instrument, now[0] if halted_at is None else halted_at, now[1])
            self._quoted[conid] = quote = quote if halted_at is None else replace(quote, halted=True)
        return quote

    def intrinsic(self, instrument: Instrument) -> float:
        """Return what an option is worth per unit if it expires now; any other contract, its price."""
        spot = self.spot(instrument.symbol)
        if instrument.strike is None:
            return spot
        gain = spot - instrument.strike if instrument.right is Right.CALL else instrument.strike - spot
        return round(max(gain, 0.0), 4)

    def _price(self, instrument: Instrument, step: int, today: date) -> TopOfBook:
        model, greeks = self._model(instrument, step, today)
        traded_step = step - step % STEPS_PER_TRADE
        traded, _ = self._model(instrument, traded_step, today)
        closed, _ = self._model(instrument, -round(6.5 * 3600 / self.step_seconds), today)
        bid, ask = _bid_ask(instrument.sec_type, model)
        sizes = zlib.crc32(f"{instrument.conid}:{step}".encode())
        return TopOfBook(
            bid=bid,
            ask=ask,
            last=_on_grid(instrument.sec_type, traded),
            close=_on_grid(instrument.sec_type, closed),
            bid_size=1 + sizes % 97,
            ask_size=1 + sizes // 97 % 89,
            last_size=1 + zlib.crc32(f"{instrument.conid}:{traded_step}".encode()) % 20,
            volume=instrument.conid % 1000 + max(step, 0) // STEPS_PER_TRADE,
            last_at=int(self._opened_at.timestamp() + traded_step * self.step_seconds),
            model=model,
            greeks=greeks,
        )

    def _model(self, instrument: Instrument, step: int, today: date) -> tuple[float, Greeks | None]:
        spot = self.spot(instrument.symbol, step)
        years = _years(instrument.expiry, today)
        if instrument.strike is None or instrument.right is None:
            return spot * math.exp(RATE * years), None
        vol = smile(base_vol=self._by_symbol[instrument.symbol].vol, spot=spot, strike=instrument.strike, years=years)
        greeks = black_scholes(
            spot=spot, strike=instrument.strike, years=years, vol=vol, is_call=instrument.right is Right.CALL
        )
        return greeks.price, greeks


def _waves(seed: int, symbol: str) -> list[tuple[float, float, float]]:
    """Return (size, period in seconds, phase) of the sinusoids that an underlying's logarithm follows."""
    draw = random.Random(f"{seed}:{symbol}")  # noqa: S311 - a market that repeats itself, not a secret
    periods = (11.0, 47.0, 190.0, 800.0, 5400.0)
    return [
        (0.0002 * (i + 1) * draw.uniform(0.6, 1.4), period * draw.uniform(0.8, 1.25), draw.uniform(0.0, 2.0 * math.pi))
        for i, period in enumerate(periods)
    ]


def _years(expiry: str | None, today: date) -> float:
    """Return the time to expiry, in years of whole days; half a day on the last one."""
    if expiry is None:
        return 0.0
    last_day = date(int(expiry[:4]), int(expiry[4:6]), int(expiry[6:]))
    return max((last_day - today).days, 0.5) / DAYS_PER_YEAR


def min_tick(sec_type: str, price: float) -> float:
    """Return the distance of valid prices around a price."""
    if sec_type in ("FUT", "IND"):
        return FUTURE_TICK
    return COARSE_TICK if sec_type == "OPT" and price >= COARSE_FROM else TICK


def _on_grid(sec_type: str, price: float) -> float:
    tick = min_tick(sec_type, price)
    return max(round(round(price / tick) * tick, 2), TICK)


def _bid_ask(sec_type: str, model: float) -> tuple[float, float]:
    """Return bid and ask around the model price, on the tick grid, at least one tick each and one tick apart."""
    share = 0.004 if sec_type == "OPT" else 0.00002
    half = max(share * model, TICK / 2.0)
    low, high = max(model - half, 0.0), model + half
    low_tick, high_tick = min_tick(sec_type, low), min_tick(sec_type, high)
    bid = max(round(math.floor(low / low_tick + 1e-9) * low_tick, 2), TICK)
    ask = round(math.ceil(high / high_tick - 1e-9) * high_tick, 2)
    return bid, max(ask, round(bid + min_tick(sec_type, bid), 2))
