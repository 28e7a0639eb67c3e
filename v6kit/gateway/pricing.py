"""Black-Scholes prices and greeks with `math` alone. Pure; knows no market, no contract and no clock.

European exercise, no dividends, one constant interest rate: enough for a market whose put-call parity holds exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE = 0.04  # per year, continuously compounded
DAYS_PER_YEAR = 365.0


@dataclass(frozen=True, slots=True)
class Greeks:
    """An option's theoretical value, per unit of the underlying.

    Attributes:
        implied_vol: Per year, e.g. 0.2.
        vega: Change of price per percentage point of volatility.
        theta: Change of price per calendar day.
    """

    price: float
    implied_vol: float
    delta: float
    gamma: float
    vega: float
    theta: float
    underlying_price: float


def normal_cdf(x: float) -> float:
    """Return the standard normal distribution at `x`."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def black_scholes(*, spot: float, strike: float, years: float, vol: float, is_call: bool) -> Greeks:
    """Return price and greeks of a European option.

    Args:
        spot: Price of the underlying, > 0.
        strike: Strike price, > 0.
        years: Time to expiry, > 0.
        vol: Volatility per year, > 0.
        is_call: A call if true, otherwise a put.
    """
    root = vol * math.sqrt(years)
    d1 = (math.log(spot / strike) + (RATE + vol * vol / 2.0) * years) / root
    d2 = d1 - root
    density = math.exp(-d1 * d1 / 2.0) / math.sqrt(2.0 * math.pi)
    discounted = strike * math.exp(-RATE * years)
    sign = 1.0 if is_call else -1.0
    price = sign * (spot * normal_cdf(sign * d1) - discounted * normal_cdf(sign * d2))
    decay = -spot * density * vol / (2.0 * math.sqrt(years)) - sign * RATE * discounted * normal_cdf(sign * d2)
    return Greeks(
        price=max(price, 0.0),
        implied_vol=vol,
        delta=sign * normal_cdf(sign * d1),
        gamma=density / (spot * root),
        vega=spot * density * math.sqrt(years) / 100.0,
        theta=decay / DAYS_PER_YEAR,
        underlying_price=spot,
    )


def smile(*, base_vol: float, spot: float, strike: float, years: float) -> float:
    """Return the implied volatility of a strike: lowest slightly above the money, higher for low strikes.

    The same for calls and puts of a strike, otherwise parity would not hold.
    """
    distance = math.log(strike / spot) / math.sqrt(max(years, 1.0 / 52.0))
    bounded = max(-1.0, min(1.0, distance))
    return base_vol * (1.0 - 0.35 * bounded + 0.9 * bounded * bounded)
