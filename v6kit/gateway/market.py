"""The simulated market: what is listed, and what it costs at each step of time.

Every price is a pure function of (seed, conid, step), so two markets with one seed and one date agree to the last
digit, and a market on a clock that stands still repeats itself. Owns no socket, no account and no message.

A model, and a simple one: underlyings wander on sums of sinusoids, options are European without dividends, expiries are
third Fridays without regard to holidays, time to expiry counts whole days, and nothing that is traded moves a price.
"""

from __future__ import annotations

import calendar
import hashlib
import math
import random
import zlib
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from v6kit.clock import Clock
from v6kit.contracts import Instrument, Right
from v6kit.gateway.pricing import DAYS_PER_YEAR, RATE, Greeks, black_scholes, smile

if TYPE_CHECKING:
    from collections.abc import Iterable

EXPIRIES = 6  # months of options that are listed ahead
STRIKES_EACH_SIDE = 24
OPTION_EXCHANGES = "SMART,CBOE,ISE,AMEX"
TICK = 0.01
COARSE_TICK = 0.05  # options from COARSE_FROM on
COARSE_FROM = 3.0
FUTURE_TICK = 0.25
STEPS_PER_TRADE = 4  # a last price stands for so many steps


@dataclass(frozen=True, slots=True)
class Underlying:
    """What options or futures are written on.

    Attributes:
        price: Where its path starts.
        vol: Base of its options' implied volatility, per year.
        strike_step: Distance of listed strikes; 0 where no options are listed.
        exchange: Its primary exchange.
        future_multiplier: Of its quarterly futures; 0 where none are listed.
    """

    symbol: str
    name: str
    price: float
    vol: float
    strike_step: float
    exchange: str
    sec_type: str = "STK"
    future_multiplier: float = 0.0


UNDERLYINGS = (
    Underlying("SPY", "Simulated S&P 500 ETF", 595.0, 0.14, 5.0, "ARCA"),
    Underlying("QQQ", "Simulated Nasdaq 100 ETF", 505.0, 0.19, 5.0, "NASDAQ"),
    Underlying("IWM", "Simulated Russell 2000 ETF", 225.0, 0.22, 2.0, "ARCA"),
    Underlying("AAPL", "Simulated Apple", 230.0, 0.27, 2.5, "NASDAQ"),
    Underlying("MSFT", "Simulated Microsoft", 425.0, 0.24, 5.0, "NASDAQ"),
    Underlying("NVDA", "Simulated Nvidia", 142.0, 0.48, 2.0, "NASDAQ"),
    Underlying("AMZN", "Simulated Amazon", 205.0, 0.31, 2.5, "NASDAQ"),
    Underlying("TSLA", "Simulated Tesla", 340.0, 0.55, 5.0, "NASDAQ"),
    Underlying("META", "Simulated Meta", 560.0, 0.33, 5.0, "NASDAQ"),
    Underlying("GLD", "Simulated gold ETF", 245.0, 0.16, 2.5, "ARCA"),
    Underlying("ES", "Simulated E-mini S&P 500", 5960.0, 0.14, 0.0, "CME", "IND", 50.0),
    Underlying("NQ", "Simulated E-mini Nasdaq 100", 20800.0, 0.19, 0.0, "CME", "IND", 20.0),
)


@dataclass(frozen=True, slots=True)
class TopOfBook:
    """A contract's prices at one step; per unit, without the multiplier.

    Attributes:
        model: The theoretical price, and for options the greeks that go with it.
        last_at: Epoch second of the last trade.
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

    @property
    def mid(self) -> float:
        """The middle between bid and ask."""
        return (self.bid + self.ask) / 2.0


def third_friday(year: int, month: int) -> date:
    """Return the day on which a month's standard options expire."""
    earliest = date(year, month, 15)
    return earliest + timedelta(days=(calendar.FRIDAY - earliest.weekday()) % 7)


def third_fridays(after: date, count: int) -> list[date]:
    """Return the next third Fridays strictly after a day."""
    months = ((after.year + (after.month - 1 + i) // 12, (after.month - 1 + i) % 12 + 1) for i in range(count + 1))
    return [day for day in (third_friday(*month) for month in months) if day > after][:count]


class Market:
    """Listed contracts and their prices.

    Args:
        seed: Names the market: contract ids and paths depend on it and on nothing else.
        clock: Tells the date and the time that has passed.
        step_seconds: Prices stand still between two multiples of this.
    """

    def __init__(self, seed: int = 7, clock: Clock | None = None, *, step_seconds: float = 0.25) -> None:
        if not step_seconds > 0:
            raise ValueError(f"step_seconds must be greater than 0, got {step_seconds!r}")
        self.seed = seed
        self.clock = Clock() if clock is None else clock
        self.step_seconds = step_seconds
        self._opened_at = self.clock.now()
        self._opened = self.clock.monotonic()
        self._closed_step: int | None = None
        self._by_symbol = {each.symbol: each for each in UNDERLYINGS}
        self._waves = {each.symbol: _waves(seed, each.symbol) for each in UNDERLYINGS}
        self._by_conid: dict[int, Instrument] = {}
        self._chains: dict[str, list[Instrument]] = {each.symbol: [] for each in UNDERLYINGS}
        for instrument in self._listing():
            self._list(instrument)
        self._quoted: dict[int, TopOfBook] = {}
        self._quoted_at: tuple[int, date] | None = None

    # What is listed

    @cached_property
    def expiries(self) -> list[str]:
        """Option expiries that were ahead when the market opened, soonest first."""
        return [day.strftime("%Y%m%d") for day in third_fridays(self._opened_at.date(), EXPIRIES)]

    @cached_property
    def past_expiry(self) -> str:
        """The last expiry before the market opened; its options are known, expired and not tradable."""
        today = self._opened_at.date()
        return max(day for day in third_fridays(today - timedelta(days=40), 2) if day < today).strftime("%Y%m%d")

    def instruments(self) -> Iterable[Instrument]:
        """Return all contracts, expired ones included, in a stable order."""
        return self._by_conid.values()

    def instrument(self, conid: int) -> Instrument | None:
        """Return the contract with this id, expired or not, or `None`."""
        return self._by_conid.get(conid)

    def underlying(self, symbol: str) -> Underlying | None:
        """Return what is known about a symbol, or `None`."""
        return self._by_symbol.get(symbol)

    def is_expired(self, instrument: Instrument) -> bool:
        """Return whether the contract's last day is over on the clock's date."""
        return bool(instrument.expiry) and str(instrument.expiry) < self.clock.now().strftime("%Y%m%d")

    def find(
        self,
        *,
        symbol: str = "",
        sec_type: str = "",
        expiry: str = "",
        strike: float = 0.0,
        right: str = "",
        include_expired: bool = False,
    ) -> list[Instrument]:
        """Return the contracts that fit all given fields; an empty field fits all, `expiry` may be `YYYYMM`."""
        return [
            each
            for each in (self._chains.get(symbol, []) if symbol else self._by_conid.values())
            if (not sec_type or each.sec_type == sec_type)
            and (not expiry or (each.expiry or "").startswith(expiry))
            and (not strike or each.strike == strike)
            and (not right or each.right == right)
            and (include_expired or not self.is_expired(each))
        ]

    def strikes(self, symbol: str) -> list[float]:
        """Return the strikes that are listed on a symbol, lowest first; they are the same for all expiries."""
        underlying = self._by_symbol[symbol]
        if not underlying.strike_step:
            return []
        middle = round(underlying.price / underlying.strike_step) * underlying.strike_step
        steps = range(-STRIKES_EACH_SIDE, STRIKES_EACH_SIDE + 1)
        return [middle + i * underlying.strike_step for i in steps]

    def _listing(self) -> Iterable[Instrument]:
        for each in UNDERLYINGS:
            yield Instrument(
                conid=_conid(self.seed, each.symbol),
                symbol=each.symbol,
                sec_type=each.sec_type,
                exchange=each.exchange,
                local_symbol=each.symbol,
                trading_class=each.symbol,
            )
            if each.strike_step:
                yield from self._options(each)
            else:
                yield from self._futures(each)

    def _options(self, underlying: Underlying) -> Iterable[Instrument]:
        for expiry in [self.past_expiry, *self.expiries]:
            for strike in self.strikes(underlying.symbol):
                for right in Right:
                    local = f"{underlying.symbol:<6}{expiry[2:]}{right}{round(strike * 1000):08d}"
                    yield Instrument(
                        conid=_conid(self.seed, local),
                        symbol=underlying.symbol,
                        sec_type="OPT",
                        right=right,
                        strike=strike,
                        expiry=expiry,
                        multiplier=100.0,
                        exchange="SMART",
                        local_symbol=local,
                        trading_class=underlying.symbol,
                    )

    def _futures(self, underlying: Underlying) -> Iterable[Instrument]:
        quarters = [day for day in third_fridays(self._opened_at.date(), 12) if day.month % 3 == 0]
        for day in quarters:
            local = f"{underlying.symbol}{'HMUZ'[day.month // 3 - 1]}{day.year % 10}"
            yield Instrument(
                conid=_conid(self.seed, f"{local} {day:%Y%m%d}"),
                symbol=underlying.symbol,
                sec_type="FUT",
                expiry=day.strftime("%Y%m%d"),
                multiplier=underlying.future_multiplier,
                exchange=underlying.exchange,
                local_symbol=local,
                trading_class=underlying.symbol,
            )

    def _list(self, instrument: Instrument) -> None:
        conid = instrument.conid
        while conid in self._by_conid:
            conid += 1
        self._by_conid[conid] = replace(instrument, conid=conid)
        self._chains[instrument.symbol].append(self._by_conid[conid])

    # What it costs

    @property
    def is_open(self) -> bool:
        """Whether it trades; always, until it is closed. A closed market keeps its last prices as frozen ones."""
        return self._closed_step is None

    @is_open.setter
    def is_open(self, value: bool) -> None:
        self._closed_step = None if value else self.step

    @property
    def step(self) -> int:
        """Whole steps of time since the market opened."""
        if self._closed_step is not None:
            return self._closed_step
        return math.floor((self.clock.monotonic() - self._opened) / self.step_seconds)

    def spot(self, symbol: str, step: int | None = None) -> float:
        """Return the underlying's price, unrounded, at a step; default now."""
        seconds = (self.step if step is None else step) * self.step_seconds
        drift = sum(
            size * math.sin(2.0 * math.pi * seconds / period + phase) for size, period, phase in self._waves[symbol]
        )
        return self._by_symbol[symbol].price * math.exp(drift)

    def quote(self, conid: int) -> TopOfBook:
        """Return a contract's prices now.

        Raises:
            KeyError: The conid is not listed.
        """
        now = (self.step, self.clock.now().date())
        if now != self._quoted_at:
            self._quoted.clear()
            self._quoted_at = now
        quote = self._quoted.get(conid)
        if quote is None:
            quote = self._quoted[conid] = self._price(self._by_conid[conid], *now)
        return quote

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


def _conid(seed: int, name: str) -> int:
    """Return a contract id that depends on seed and name only, so tomorrow's listing keeps today's ids."""
    digest = hashlib.blake2s(f"{seed}:{name}".encode(), digest_size=4).digest()
    return 100_000_000 + int.from_bytes(digest, "big") % 1_900_000_000


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
