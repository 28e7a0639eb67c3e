"""The simulated account: what it holds, what that is worth, and who is told when it changes.

Positions are generated from a seed and may be changed while the gateway runs. Prices come from `market`; messages are
made elsewhere.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from v6kit.contracts import Instrument, Right, check_float, check_int, check_text
from v6kit.gateway.fills import fill
from v6kit.gateway.listing import STRIKES_EACH_SIDE, UNDERLYINGS
from v6kit.gateway.market import Market

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from v6kit.clock import Clock

ACCOUNT_ID = "DU0000001"  # IB's ids of paper accounts begin with DU
MAX_POSITIONS = 5500
STARTING_CASH = 1_000_000.0
CONDOR_SHARE = 3 / 5  # of the option positions
DEEPEST_CONDOR = STRIKES_EACH_SIDE - 4
COMMISSION = 0.65  # per contract; IB counts it into the average cost


@dataclass(frozen=True, slots=True)
class Position:
    """What the account holds of one contract.

    Attributes:
        quantity: Signed number of contracts or shares; 0 only in the notice that it was closed.
        avg_cost: Per contract, multiplier included, as IB gives it.

    Example:
        >>> account = Account.generate(40, seed=7)
        >>> held = account.positions[0]
        >>> held.instrument.symbol, held.quantity, held.avg_cost > 0
        ('SPY', 4.0, True)
    """

    instrument: Instrument
    quantity: float
    avg_cost: float


@dataclass(frozen=True, slots=True)
class Valuation:
    """A position at the market's current prices.

    Attributes:
        price: Per unit, the middle between bid and ask.
        value: quantity * price * multiplier.
        unrealized: Value less cost.
        realized: What its fills have realized so far.
        daily: Change of value since the previous close.
    """

    position: Position
    price: float
    value: float
    unrealized: float
    realized: float
    daily: float


class Account:
    """Positions by conid.

    Args:
        market: Where they are priced, and what can be held.
        account_id: IB's account id.

    Example:
        >>> from v6kit.gateway import SimulatedGateway
        >>> gateway = SimulatedGateway((40, 20), accounts=("DU0000001", "DU0000002"))
        >>> second = gateway.accounts["DU0000002"]
        >>> conid = second.positions[0].instrument.conid
        >>> second.set_position(conid, 0).quantity, len(second.positions)
        (0.0, 19)
    """

    def __init__(self, market: Market, *, account_id: str = ACCOUNT_ID) -> None:
        self.market = market
        self.account_id = account_id
        self.iron_condors: tuple[tuple[Position, ...], ...] = ()
        self.cash = STARTING_CASH
        self._positions: dict[int, Position] = {}
        self._realized: defaultdict[int, float] = defaultdict(float)
        self._listeners: list[Callable[[Position], None]] = []
        self._changing = threading.RLock()  # fills may come from any thread, and each builds on the one before

    @classmethod
    def generate(
        cls,
        n_positions: int = 500,
        *,
        seed: int = 7,
        clock: Clock | None = None,
        market: Market | None = None,
        account_id: str = ACCOUNT_ID,
    ) -> Account:
        """Return an account that holds so many positions; the same ones for the same seed, date and account id.

        First come complete iron condors (long put, short put, short call, long call on one symbol and expiry, one
        quantity), about three fifths of the options; then single options, some stocks, and one or two futures.

        Args:
            n_positions: 0 to 5500.
            seed: Names the account, and the market unless one is given.
            clock: Of the market that is made unless one is given.
            market: Where the positions are listed and priced.
            account_id: IB's account id.
        """
        count = check_int("n_positions", n_positions, minimum=0)
        if count > MAX_POSITIONS:
            raise ValueError(f"n_positions must be at most {MAX_POSITIONS}, got {count}; the market lists no more")
        account = cls(Market(seed, clock) if market is None else market, account_id=account_id)
        _Generator(account, seed).fill(count)
        return account

    @property
    def positions(self) -> list[Position]:
        """All open positions, in the order in which they were opened."""
        return list(self._positions.values())

    def position(self, conid: int) -> Position | None:
        """Return the position in a contract, or `None`."""
        return self._positions.get(conid)

    def set_position(self, conid: int, quantity: float, *, avg_cost: float | None = None) -> Position:
        """Change what the account holds, as a trade would; subscribers get a position and a portfolio message.

        May be called from any thread.

        Args:
            conid: A contract that the market lists.
            quantity: Signed number of contracts or shares; 0 closes the position.
            avg_cost: Per contract, multiplier included. Default: what it was, or the current price.

        Raises:
            ValueError: The market does not list the conid, or a number is not finite.
        """
        instrument = self._listed(conid)
        with self._changing:
            held = self._positions.get(conid)
            if avg_cost is None:
                avg_cost = held.avg_cost if held else self.market.quote(conid).mid * instrument.multiplier
            return self._hold(
                Position(instrument, check_float("quantity", quantity), check_float("avg_cost", avg_cost))
            )

    def trade(self, conid: int, quantity: float, price: float | None = None) -> Position:
        """Fill an order: the position changes with its average cost, the cash, and the profit that is realized.

        No commission is taken. May be called from any thread.

        Args:
            conid: A contract that the market lists.
            quantity: Signed number of contracts or shares: bought is positive.
            price: Per unit, without the multiplier. Default: the ask for what is bought, the bid for what is sold.

        Returns:
            The position afterwards; with quantity 0 if the fill closed it.

        Raises:
            ValueError: The market does not list the conid, or a number is out of range.
        """
        instrument = self._listed(conid)
        if check_float("quantity", quantity) == 0:
            raise ValueError("quantity must not be 0; a fill buys or sells something")
        if price is None:
            quote = self.market.quote(conid)
            price = quote.ask if quantity > 0 else quote.bid
        cost = check_float("price", price) * instrument.multiplier
        with self._changing:
            held = self._positions.get(conid, Position(instrument, 0.0, 0.0))
            filled = fill(held.quantity, held.avg_cost, quantity, cost)
            self.cash -= quantity * cost
            self._realized[conid] += filled.realized
            return self._hold(Position(instrument, filled.quantity, round(filled.avg_cost, 4)))

    def replace(self, old: Position, new: Position) -> None:
        """Exchange a position for that in a successor contract; what was realized goes along."""
        with self._changing:
            self._realized[new.instrument.conid] += self._realized.pop(old.instrument.conid, 0.0)
            self._hold(dataclasses.replace(old, quantity=0.0, avg_cost=0.0))
            self._hold(new)

    def on_change(self, listener: Callable[[Position], None]) -> None:
        """Have a function called with each position that was changed, in the thread that changed it."""
        self._listeners.append(listener)

    def value(self, position: Position) -> Valuation:
        """Return what a position is worth now."""
        quote = self.market.quote(position.instrument.conid)
        units = position.quantity * position.instrument.multiplier
        return Valuation(
            position=position,
            price=round(quote.mid, 4),
            value=round(units * quote.mid, 2),
            unrealized=round(units * quote.mid - position.quantity * position.avg_cost, 2),
            realized=self.realized(position.instrument.conid),
            daily=round(units * (quote.mid - quote.close), 2),
        )

    def realized(self, conid: int | None = None) -> float:
        """Return the profit that fills in one contract have realized so far, or those in all contracts."""
        profit = sum(self._realized.values()) if conid is None else self._realized.get(conid, 0.0)
        return round(profit, 2)

    def totals(self) -> dict[str, str]:
        """Return the account values that a client sees, by IB's keys; amounts are in USD."""
        valued = [self.value(each) for each in self._positions.values()]
        held = sum(each.value for each in valued)
        return {
            "NetLiquidation": f"{self.cash + held:.2f}",
            "TotalCashValue": f"{self.cash:.2f}",
            "GrossPositionValue": f"{sum(abs(each.value) for each in valued):.2f}",
            "UnrealizedPnL": f"{sum(each.unrealized for each in valued):.2f}",
            "RealizedPnL": f"{self.realized():.2f}",
            "BuyingPower": f"{4 * STARTING_CASH:.2f}",
            "ExcessLiquidity": f"{STARTING_CASH / 2:.2f}",
        }

    def _listed(self, conid: int) -> Instrument:
        instrument = self.market.instrument(check_int("conid", conid))
        if instrument is None:
            raise ValueError(f"conid must be listed in the simulated market, got {conid}; see gateway.market.find()")
        return instrument

    def _hold(self, position: Position) -> Position:
        if position.quantity:
            self._positions[position.instrument.conid] = position
        else:
            self._positions.pop(position.instrument.conid, None)
        for listener in self._listeners:
            listener(position)
        return position

    def _open(self, position: Position) -> None:
        self._positions[position.instrument.conid] = position


def generate_accounts(
    positions: int | tuple[int, ...], account_ids: Sequence[str], *, seed: int, market: Market
) -> dict[str, Account]:
    """Return a login's accounts by id.

    Args:
        positions: How many positions each account holds, 0 to 2000; or a number for each, in the order of the ids.
        account_ids: Different ids, at least one.
        seed: Names the positions, together with the id.
        market: Where they are listed and priced.
    """
    ids = [] if isinstance(account_ids, str) else [check_text("accounts", each) for each in account_ids]
    if not ids or len(set(ids)) < len(ids) or any("," in each for each in ids):
        raise ValueError(f"accounts must be different ids without commas, at least one, got {account_ids!r}")
    counts = positions if isinstance(positions, tuple) else (positions,) * len(ids)
    if len(counts) != len(ids):
        raise ValueError(f"positions must be one number, or one for each of {len(ids)} accounts, got {positions!r}")
    for count in counts:
        if check_int("positions", count, minimum=0) > MAX_POSITIONS:
            raise ValueError(f"positions must be at most {MAX_POSITIONS}, got {count}")
    made = zip(ids, counts, strict=True)
    return {each: Account.generate(count, seed=seed, market=market, account_id=each) for each, count in made}


class _Generator:
    """Fills an account from a seed: draws everything in one fixed order."""

    def __init__(self, account: Account, seed: int) -> None:
        self._account = account
        self._market = account.market
        name = "account" if account.account_id == ACCOUNT_ID else f"account:{account.account_id}"
        self._draw = random.Random(f"{seed}:{name}")  # noqa: S311 - an account that repeats itself, not a secret

    def fill(self, count: int) -> None:
        futures = 0 if count < 12 else 1 if count < 40 else 2  # noqa: PLR2004 - small accounts stay simple
        stocks = min(len(self._market.find(sec_type="STK")), count // 12)
        options = count - futures - stocks
        condors = max(int(options * CONDOR_SHARE) // 4, 1) if options >= len(("P", "P", "C", "C")) else 0
        self._account.iron_condors = tuple(self._condors(condors))
        self._singles(options - sum(map(len, self._account.iron_condors)))
        for instrument in self._draw.sample(self._market.find(sec_type="STK"), stocks):
            self._take(instrument, self._draw.choice((-200, 100, 100, 200, 300, 500)))
        front_month = min((each.expiry or "" for each in self._market.find(sec_type="FUT")), default="")
        for instrument in self._market.find(sec_type="FUT", expiry=front_month)[:futures]:
            self._take(instrument, self._draw.choice((-2, -1, 1, 2)))

    def _condors(self, count: int) -> Iterator[tuple[Position, ...]]:
        symbols = [each.symbol for each in UNDERLYINGS if each.strike_step]
        ahead = [each for each in self._market.expiries if each != self._market.todays_expiry]
        todays = [self._market.todays_expiry] if self._market.todays_expiry else []
        chains = [(symbol, expiry) for expiry in [*ahead[:4], *todays] for symbol in symbols]
        places = [(*chain, width) for width in range(2, DEEPEST_CONDOR, 2) for chain in chains]
        for symbol, expiry, width in places[:count]:
            quantity = self._draw.randint(1, 5)
            strikes = self._market.strikes(symbol)
            middle = len(strikes) // 2
            legs = (
                (middle - width - 1, Right.PUT, quantity),
                (middle - width, Right.PUT, -quantity),
                (middle + width, Right.CALL, -quantity),
                (middle + width + 1, Right.CALL, quantity),
            )
            yield tuple(
                self._take(self._option(symbol, expiry, strikes[at], right), signed) for at, right, signed in legs
            )

    def _option(self, symbol: str, expiry: str, strike: float, right: Right) -> Instrument:
        (instrument,) = self._market.find(symbol=symbol, sec_type="OPT", expiry=expiry, strike=strike, right=right)
        return instrument

    def _singles(self, count: int) -> None:
        free = [each for each in self._market.find(sec_type="OPT") if self._account.position(each.conid) is None]
        for instrument in self._draw.sample(free, count):
            self._take(instrument, self._draw.choice((-1, 1)) * self._draw.randint(1, 10))

    def _take(self, instrument: Instrument, quantity: int) -> Position:
        paid = self._market.quote(instrument.conid).mid * self._draw.uniform(0.92, 1.08) * instrument.multiplier
        fee = COMMISSION if instrument.sec_type == "OPT" else 0.0
        position = Position(
            instrument, float(quantity), round(max(paid - fee if quantity < 0 else paid + fee, 0.01), 4)
        )
        self._account._open(position)  # noqa: SLF001 - the generator is the account's own other half
        return position
