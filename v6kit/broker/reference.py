"""What the gateway tells of contracts: what they are, where they trade, and which options are listed. Holds no line.

Owns these questions, and what is remembered of their answers for as long as a session lasts.
"""
# ib_async's client carries no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING

from v6kit.broker.instruments import (
    contract_at,
    exchange_for,
    instrument_from_details,
    options_on,
    series_from,
    underlying_called,
)
from v6kit.errors import RequestFailedError

if TYPE_CHECKING:
    from ib_async import Contract, ContractDetails, OptionChain
    from ib_async.client import Client

    from v6kit.broker.pacing import Pacer
    from v6kit.broker.session import Session
    from v6kit.contracts import Instrument, OptionSeries

NO_SUCH_CONTRACT = 200


class Reference:
    """Asks what contracts are, each for its turn; all of it raises as `Session.ask` does, and with code 200 in vain.

    Args:
        pacer: Gives the turns.
        seconds: That an answer may take.
    """

    def __init__(self, pacer: Pacer, *, seconds: float) -> None:
        self._pacer, self._seconds = pacer, seconds
        self._known: dict[int, Instrument] = {}

    def forget(self) -> None:
        """Ask anew: another session has begun."""
        self._known.clear()

    async def instrument(self, session: Session, conid: int) -> Instrument:
        """Return what a conid is, and where it trades; asked once."""
        if conid not in self._known:
            rows = await self._details(session, contract_at(conid, ""), f"the details of conid {conid}")
            if not rows:
                raise RequestFailedError(f"the gateway knows no contract with conid {conid}", code=NO_SUCH_CONTRACT)
            self._known[conid] = instrument_from_details(rows[0])
        return self._known[conid]

    async def exchange(self, session: Session, instrument: Instrument) -> str:
        """Return where the prices of a contract are to be asked for."""
        return exchange_for(instrument) or await self.native_exchange(session, instrument.conid)

    async def native_exchange(self, session: Session, conid: int) -> str:
        """Return the exchange that the contract's details name."""
        return (await self.instrument(session, conid)).exchange

    async def fresh_exchange(self, session: Session, conid: int) -> str:
        """Return the same, whatever was known before."""
        self._known.pop(conid, None)
        return await self.native_exchange(session, conid)

    async def underlying(self, session: Session, symbol: str) -> Instrument:
        """Return what options of a symbol are written on: the stock, or else the index."""
        try:
            return await self._called(session, symbol, "STK")
        except RequestFailedError as error:
            if error.code != NO_SUCH_CONTRACT:
                raise
        return await self._called(session, symbol, "IND")

    async def _called(self, session: Session, symbol: str, sec_type: str) -> Instrument:
        rows = await self._details(session, underlying_called(symbol, sec_type), f"what {symbol} is")
        if not rows:
            raise RequestFailedError(f"the gateway knows no {sec_type} with symbol {symbol}", code=NO_SUCH_CONTRACT)
        return instrument_from_details(rows[0])

    async def series(self, session: Session, underlying: Instrument) -> list[OptionSeries]:
        """Return the expiries and classes that are listed on an underlying, soonest first."""

        def send(client: Client, req_id: int) -> None:
            client.reqSecDefOptParams(req_id, underlying.symbol, "", underlying.sec_type, underlying.conid)

        await self._pacer.turn()
        chains: list[OptionChain] = await session.ask(
            send, seconds=self._seconds, what=f"the expiries of {underlying.symbol}"
        )
        return series_from(chains)

    async def chain(self, session: Session, symbol: str, series: OptionSeries) -> list[Instrument]:
        """Return all options of one series, by strike, each call before its put."""
        asked = options_on(symbol, series.expiry, series.trading_class)
        rows = await self._details(session, asked, f"the options of {symbol} {series.expiry}")
        options = [instrument_from_details(row) for row in rows]
        return sorted(options, key=lambda each: (each.strike or 0.0, each.right or ""))

    async def _details(self, session: Session, contract: Contract, what: str) -> list[ContractDetails]:
        await self._pacer.turn()
        return await session.ask(
            lambda client, req_id: client.reqContractDetails(req_id, contract), seconds=self._seconds, what=what
        )
