"""ib_async's message handler with our ears on it: what comes in from the socket goes to the session and its listener.

Owns no state. `session` says why ib_async's internals are used at all.
"""
# Half of ib_async's methods carry no annotations; the names of those that are extended, their arguments and what they
# mean are IB's.
# mypy: allow-untyped-calls
# ruff: noqa: D102, N802, N803

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ib_async import IB, Contract, ContractDetails, PortfolioItem, Position
from ib_async.decoder import Decoder
from ib_async.wrapper import Wrapper

from v6kit.broker.instruments import position_from

if TYPE_CHECKING:
    from v6kit.broker.listener import SessionListener
    from v6kit.broker.session import Session


class Reader(Decoder):
    """ib_async's decoder, which only logs what it cannot read; of a position, somebody has to know."""

    def __init__(self, router: Router, listener: SessionListener) -> None:
        super().__init__(router, 0)
        self._listener = listener

    def position(self, fields: list[str]) -> None:
        try:
            super().position(fields)
        except Exception:
            account = fields[2] if len(fields) > 2 else ""  # noqa: PLR2004 - behind the message's id and version
            self._listener.on_position_unreadable(account, " ".join(filter(None, fields[2:])))
            raise


class Router(Wrapper):
    """ib_async's message handler with our ears on it, and deaf to what arrives for a request that has ended.

    What a method raises is logged by ib_async's decoder; only `tcpDataProcessed` would cut the socket.
    """

    def __init__(self, ib: IB, session: Session, listener: SessionListener) -> None:
        super().__init__(ib)
        self._session = session
        self._listener = listener

    def error(self, reqId: int, errorCode: int, errorString: str, advancedOrderRejectJson: str) -> None:
        super().error(reqId, errorCode, errorString, advancedOrderRejectJson)
        self._hand_ticks_on()
        self._session.on_error(reqId, errorCode, errorString)
        self._listener.on_message(self._session, reqId, errorCode, errorString)

    def position(self, account: str, contract: Contract, posSize: float, avgCost: float) -> None:
        super().position(account, contract, posSize, avgCost)
        self._listener.on_position_row(position_from(Position(account, contract, posSize, avgCost)))

    def positionEnd(self) -> None:
        super().positionEnd()
        self._listener.on_positions_end()

    def updatePortfolio(  # noqa: PLR0917 - IB's message has so many fields
        self,
        contract: Contract,
        posSize: float,
        marketPrice: float,
        marketValue: float,
        averageCost: float,
        unrealizedPNL: float,
        realizedPNL: float,
        account: str,
    ) -> None:
        row = (contract, posSize, marketPrice, marketValue, averageCost, unrealizedPNL, realizedPNL, account)
        super().updatePortfolio(*row)
        self._listener.on_portfolio_row(PortfolioItem(*row))

    def updateAccountValue(self, tag: str, val: str, currency: str, account: str) -> None:
        super().updateAccountValue(tag, val, currency, account)
        self._listener.on_account_value(account, tag, val, currency)

    def accountDownloadEnd(self, account: str) -> None:
        super().accountDownloadEnd(account)
        self._listener.on_portfolio_end(account)
        self._session.on_portfolio_end(account)

    def contractDetails(self, reqId: int, contractDetails: ContractDetails) -> None:
        if self._session.awaits(reqId):
            super().contractDetails(reqId, contractDetails)

    def securityDefinitionOptionParameter(self, reqId: int, *chain: Any) -> None:  # noqa: ANN401 - passed on
        if self._session.awaits(reqId):
            super().securityDefinitionOptionParameter(reqId, *chain)

    def priceSizeTick(self, reqId: int, tickType: int, price: float, size: float) -> None:
        if reqId in self.reqId2Ticker:
            super().priceSizeTick(reqId, tickType, price, size)

    def tickSize(self, reqId: int, tickType: int, size: float) -> None:
        if reqId in self.reqId2Ticker:
            super().tickSize(reqId, tickType, size)

    def tickOptionComputation(self, reqId: int, *values: float) -> None:
        if reqId in self.reqId2Ticker:
            super().tickOptionComputation(reqId, *values)  # type: ignore[arg-type]  # passed on as they came

    def tickSnapshotEnd(self, reqId: int) -> None:
        super().tickSnapshotEnd(reqId)
        self._listener.on_snapshot_end(reqId)

    def tcpDataProcessed(self) -> None:
        super().tcpDataProcessed()
        if self.pendingTickers:
            self._listener.on_ticks(self.pendingTickers)

    def _hand_ticks_on(self) -> None:
        """Hand on what the packet brought so far: ticks from before an outage must not look as if they ended it."""
        if self.pendingTickers:
            self._listener.on_ticks(self.pendingTickers)
            super().tcpDataArrived()  # which forgets them
