"""What a client asks for: client-to-server fields parsed into types. Pure; answers nothing.

Field orders are those of section 5 of the wire protocol notes; they are the same for all versions from 100 on, save for
fields at the end of a message, which are not read here.
"""

from __future__ import annotations

from dataclasses import dataclass

from v6kit.contracts import Instrument, Right
from v6kit.gateway.listing import OPTION_EXCHANGES
from v6kit.gateway.market import Market
from v6kit.gateway.wire import Fields, WireError

REQ_ID_FIRST = frozenset(
    {3, 20, 22, 78, 79, 81, 83, 84, 86, 87, 88, 89, 90, 92, 93, 94, 95, 96, 97, 98, 100, 101, 102, 103, 104}
)
"""Message ids that carry no version, so the request id comes right after the message id."""

AFTER_CONTRACT = 15
FIELDS_PER_LEG = 4
FIELDS_OF_DELTA_NEUTRAL = 4  # the flag, conid, delta, price

RIGHTS = {"C": Right.CALL, "CALL": Right.CALL, "P": Right.PUT, "PUT": Right.PUT}


@dataclass(frozen=True, slots=True)
class ContractQuery:
    """A contract as a client describes it; empty fields leave it open."""

    conid: int
    symbol: str
    sec_type: str
    expiry: str
    strike: float
    right: str
    exchange: str
    currency: str
    local_symbol: str
    trading_class: str

    @classmethod
    def parse(cls, fields: Fields) -> ContractQuery:
        """Read the twelve contract fields that open contract details and market data requests, from field 3 on."""
        return cls(
            conid=fields.integer(3),
            symbol=fields.text(4),
            sec_type=fields.text(5),
            expiry=fields.text(6),
            strike=fields.decimal(7),
            right=RIGHTS.get(fields.text(8).upper(), ""),
            exchange=fields.text(10),
            currency=fields.text(12),
            local_symbol=fields.text(13),
            trading_class=fields.text(14),
        )

    def resolve(self, market: Market, *, include_expired: bool = False) -> list[Instrument]:
        """Return the listed contracts that fit; the conid alone decides if there is one."""
        if self.conid:
            instrument = market.instrument(self.conid)
            found = [instrument] if instrument and (include_expired or not market.is_expired(instrument)) else []
        elif self.symbol or self.local_symbol:
            found = market.find(
                symbol=self.symbol,
                sec_type=self.sec_type,
                expiry=self.expiry,
                strike=self.strike,
                right=self.right,
                include_expired=include_expired,
            )
        else:
            found = []
        return [each for each in found if self._names_fit(each)]

    def _names_fit(self, instrument: Instrument) -> bool:
        return (
            (not self.exchange or self.exchange in exchanges(instrument))
            and (not self.currency or self.currency == instrument.currency)
            and (not self.local_symbol or self.local_symbol == instrument.local_symbol)
            and (not self.trading_class or self.trading_class == instrument.trading_class)
        )


@dataclass(frozen=True, slots=True)
class MarketDataRequest:
    """One reqMktData."""

    req_id: int
    query: ContractQuery
    generic_ticks: str
    snapshot: bool
    regulatory: bool

    @classmethod
    def parse(cls, fields: Fields) -> MarketDataRequest:
        """Read the message; combination legs and a delta-neutral contract are skipped."""
        query = ContractQuery.parse(fields)
        at = AFTER_CONTRACT
        if query.sec_type == "BAG":
            at += 1 + FIELDS_PER_LEG * fields.integer(at)
        at += FIELDS_OF_DELTA_NEUTRAL if fields.flag(at) else 1
        return cls(
            req_id=fields.integer(2),
            query=query,
            generic_ticks=fields.text(at),
            snapshot=fields.flag(at + 1),
            regulatory=fields.flag(at + 2),
        )


def exchanges(instrument: Instrument) -> list[str]:
    """Return the exchanges under which a contract can be asked for; futures only under their own."""
    if instrument.sec_type == "OPT":
        return OPTION_EXCHANGES.split(",")
    if instrument.sec_type == "STK":
        return ["SMART", instrument.exchange]
    return [instrument.exchange]


def request_id(fields: Fields) -> int:
    """Return the request id of a message whose meaning is not known here, or -1 where there is none."""
    try:
        return fields.integer(1 if fields.integer(0) in REQ_ID_FIRST else 2)
    except WireError:
        return -1
