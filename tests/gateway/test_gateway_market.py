"""The simulated market and account: pure, on a clock that stands still."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.clock import FakeClock
from v6kit.contracts import Right
from v6kit.gateway import Account, Market
from v6kit.gateway.listing import third_friday, third_fridays
from v6kit.gateway.market import min_tick
from v6kit.gateway.pricing import DAYS_PER_YEAR, RATE, black_scholes


@pytest.fixture(scope="module")
def market() -> Market:
    """A market that no test changes."""
    return Market(7, FakeClock())


def test_one_seed_gives_one_market(market: Market) -> None:
    """Contracts, ids and every price agree between two markets with the same seed and date."""
    other = Market(7, FakeClock())
    assert list(other.instruments()) == list(market.instruments())
    sample = [each.conid for each in market.instruments()][::50]
    assert [other.quote(conid) for conid in sample] == [market.quote(conid) for conid in sample]


def test_another_seed_gives_other_contracts_and_prices(market: Market) -> None:
    """Two seeds cannot be mixed up: they share no contract id."""
    other = Market(8, FakeClock())
    assert not {each.conid for each in other.instruments()} & {each.conid for each in market.instruments()}
    assert other.spot("SPY") != market.spot("SPY")


def test_contract_ids_do_not_depend_on_the_day() -> None:
    """Tomorrow's market lists the same option under the same id."""
    today = Market(7, FakeClock())
    tomorrow = Market(7, FakeClock(datetime(2026, 11, 21, 9, tzinfo=UTC)))
    shared = [each for each in today.find(sec_type="OPT") if each.expiry in tomorrow.expiries]
    assert shared
    assert all(tomorrow.instrument(each.conid) == each for each in shared)


def test_prices_move_with_the_clock_and_stand_still_with_it() -> None:
    """A price is a function of the step of time, and of nothing else."""
    clock = FakeClock()
    market = Market(7, clock, step_seconds=0.5)
    (spy,) = market.find(symbol="SPY", sec_type="STK")
    first = market.quote(spy.conid)
    clock.advance(0.4)
    assert market.quote(spy.conid) == first
    clock.advance(0.2)
    assert market.quote(spy.conid) != first


def test_a_closed_market_keeps_its_last_prices() -> None:
    """What a closed market knows is frozen, and moves on when it opens."""
    clock = FakeClock()
    market = Market(7, clock)
    (spy,) = market.find(symbol="SPY", sec_type="STK")
    market.is_open = False
    frozen = market.quote(spy.conid)
    clock.advance(30)
    assert market.quote(spy.conid) == frozen
    market.is_open = True
    assert market.quote(spy.conid) != frozen


def test_put_call_parity_holds(market: Market) -> None:
    """Call minus put is spot minus discounted strike, for every strike of every chain."""
    today = market.clock.now().date()
    for call in market.find(sec_type="OPT", right="C"):
        (put,) = market.find(
            symbol=call.symbol, sec_type="OPT", expiry=call.expiry or "", strike=call.strike or 0, right="P"
        )
        days = (datetime.strptime(call.expiry or "", "%Y%m%d").replace(tzinfo=UTC).date() - today).days
        years = max(days, 0.5) / DAYS_PER_YEAR  # the last day counts half
        parity = market.spot(call.symbol) - (call.strike or 0) * math.exp(-RATE * years)
        assert market.quote(call.conid).model - market.quote(put.conid).model == pytest.approx(parity, abs=1e-9)


def test_quotes_are_on_the_tick_grid_around_the_model(market: Market) -> None:
    """Bid is below ask, both are multiples of the smallest price step, and the model lies between them."""
    for each in market.find():
        quote = market.quote(each.conid)
        assert 0 < quote.bid < quote.ask
        for price in (quote.bid, quote.ask, quote.last, quote.close):
            tick = min_tick(each.sec_type, price)
            assert price / tick == pytest.approx(round(price / tick), abs=1e-6)
        if quote.model > 0.02:
            assert quote.bid <= quote.model + 1e-9 <= quote.ask + 2e-9


@given(
    spot=st.floats(50, 500),
    moneyness=st.floats(0.7, 1.4),
    years=st.floats(0.02, 2.0),
    vol=st.floats(0.1, 0.8),
    is_call=st.booleans(),
)
def test_greeks_are_the_slopes_of_the_price(
    *, spot: float, moneyness: float, years: float, vol: float, is_call: bool
) -> None:
    """Delta, gamma, vega and theta agree with differences of the price itself."""
    strike = spot * moneyness

    def price(by_spot: float = 0.0, by_vol: float = 0.0, by_years: float = 0.0) -> float:
        shifted = black_scholes(
            spot=spot + by_spot, strike=strike, years=years + by_years, vol=vol + by_vol, is_call=is_call
        )
        return shifted.price

    greeks = black_scholes(spot=spot, strike=strike, years=years, vol=vol, is_call=is_call)
    step = spot * 1e-4
    assert greeks.delta == pytest.approx((price(step) - price(-step)) / (2 * step), abs=1e-4)
    assert greeks.gamma * spot == pytest.approx((price(step) - 2 * price() + price(-step)) / step**2 * spot, abs=2e-2)
    assert greeks.vega == pytest.approx((price(by_vol=1e-5) - price(by_vol=-1e-5)) / 2e-5 / 100, abs=1e-3)
    slope = (price(by_years=1e-6) - price(by_years=-1e-6)) / 2e-6
    assert greeks.theta == pytest.approx(-slope / DAYS_PER_YEAR, abs=1e-3)


def test_the_smile_is_dearer_for_low_strikes(market: Market) -> None:
    """A far put has a higher implied volatility than the money, as in index options."""
    chain = market.find(symbol="SPY", sec_type="OPT", expiry=market.expiries[0], right="P")
    vols = [market.quote(each.conid).greeks.implied_vol for each in chain]
    assert vols[0] > vols[len(vols) // 2] > 0


def test_third_fridays_are_fridays_in_the_third_week() -> None:
    """Standard expiries, checked for every month of fifteen years."""
    days = [third_friday(year, month) for year in range(2020, 2035) for month in range(1, 13)]
    assert all(day.weekday() == 4 and 15 <= day.day <= 21 for day in days)


def test_expiries_come_after_the_given_day() -> None:
    """The day itself does not count, and the year's end is crossed."""
    assert third_fridays(date(2026, 11, 20), 2) == [date(2026, 12, 18), date(2027, 1, 15)]
    assert third_fridays(date(2026, 11, 19), 1) == [date(2026, 11, 20)]


def test_expired_contracts_are_known_but_not_listed(market: Market) -> None:
    """Last month's options can be looked up as expired ones only."""
    assert market.past_expiry < market.clock.now().strftime("%Y%m%d")
    assert market.find(symbol="SPY", expiry=market.past_expiry) == []
    assert market.find(symbol="SPY", expiry=market.past_expiry, include_expired=True)


def test_contracts_expire_when_the_clock_passes_their_last_day() -> None:
    """An option trades on its last day and not on the next."""
    clock = FakeClock()
    market = Market(7, clock)
    soon = market.find(symbol="SPY", sec_type="OPT", expiry="20261218")[0]
    clock.jump(datetime(2026, 12, 18, 23, tzinfo=UTC))
    assert not market.is_expired(soon)
    clock.advance(timedelta(hours=2))
    assert market.is_expired(soon)


@pytest.mark.parametrize("count", [0, 1, 4, 12, 40, 500, 2000, 5500])
def test_an_account_holds_as_many_positions_as_asked(market: Market, count: int) -> None:
    """From an empty account to the largest one."""
    account = Account.generate(count, seed=7, market=market)
    assert len(account.positions) == count


def test_the_first_positions_are_complete_iron_condors(market: Market) -> None:
    """Each four legs are long put < short put < short call < long call, one symbol, one expiry, one quantity."""
    account = Account.generate(500, seed=7, market=market)
    condors = account.iron_condors
    assert len(condors) == 73
    assert [leg for condor in condors for leg in condor] == account.positions[: 4 * len(condors)]
    for condor in condors:
        legs = [leg.instrument for leg in condor]
        strikes = [leg.strike for leg in legs]
        assert strikes == sorted(set(strikes))
        assert [leg.right for leg in legs] == [Right.PUT, Right.PUT, Right.CALL, Right.CALL]
        assert len({(leg.symbol, leg.expiry) for leg in legs}) == 1
        quantity = condor[0].quantity
        assert [leg.quantity for leg in condor] == [quantity, -quantity, -quantity, quantity]


def test_an_account_also_holds_single_options_stocks_and_futures(market: Market) -> None:
    """The kinds that a real account mixes are all there, and none expires before the clock's date."""
    account = Account.generate(500, seed=7, market=market)
    kinds = [each.instrument.sec_type for each in account.positions]
    assert (kinds.count("OPT"), kinds.count("STK"), kinds.count("FUT")) == (488, 10, 2)
    assert not any(market.is_expired(each.instrument) for each in account.positions)


def test_average_cost_includes_the_multiplier(market: Market) -> None:
    """A long option's cost is about a hundred times its price."""
    account = Account.generate(500, seed=7, market=market)
    held = next(each for each in account.positions if market.quote(each.instrument.conid).mid > 5)
    assert held.avg_cost == pytest.approx(100 * market.quote(held.instrument.conid).mid, rel=0.1)


def test_a_changed_position_is_told_to_listeners_and_valued(market: Market) -> None:
    """Opening, changing and closing each reach the listener; value and profit follow the price."""
    account = Account(market)
    told: list[float] = []
    account.on_change(lambda position: told.append(position.quantity))
    conid = market.find(symbol="SPY", sec_type="STK")[0].conid
    account.set_position(conid, 100, avg_cost=500.0)
    valued = account.value(account.set_position(conid, 50))
    account.set_position(conid, 0)
    assert told == [100, 50, 0]
    assert account.positions == []
    assert valued.unrealized == pytest.approx(50 * (valued.price - 500.0), abs=0.01)


def test_a_position_in_an_unlisted_contract_is_refused(market: Market) -> None:
    """The error names the conid and where to find one."""
    with pytest.raises(ValueError, match="conid must be listed in the simulated market, got 5"):
        Account(market).set_position(5, 1)


def test_too_many_positions_are_refused(market: Market) -> None:
    """The error names the argument and the value."""
    with pytest.raises(ValueError, match="n_positions must be at most 5500, got 5501"):
        Account.generate(5501, market=market)
