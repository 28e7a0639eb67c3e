"""Names for the fields of messages, as IB's documentation has them, for people who read a record of traffic.

Only messages whose fields stand at fixed places are here; a record of any other message has its bare fields.
"""

from __future__ import annotations

_CONTRACT = (
    "conId symbol secType lastTradeDateOrContractMonth strike right multiplier exchange primaryExchange currency "
    "localSymbol tradingClass"
)
_HELD = _CONTRACT.replace(" primaryExchange", "")

_LAYOUTS = {
    "REQ_MKT_DATA": f"version reqId {_CONTRACT} deltaNeutral genericTicks snapshot regulatorySnapshot options",
    "CANCEL_MKT_DATA": "version reqId",
    "REQ_ACCOUNT_UPDATES": "version subscribe account",
    "REQ_EXECUTIONS": "version reqId",
    "REQ_CONTRACT_DETAILS": f"version reqId {_CONTRACT} includeExpired secIdType secId issuerId",
    "REQ_HISTORICAL_DATA": f"reqId {_CONTRACT}",
    "REQ_MARKET_DATA_TYPE": "version marketDataType",
    "REQ_ACCOUNT_SUMMARY": "version reqId group tags",
    "CANCEL_ACCOUNT_SUMMARY": "version reqId",
    "START_API": "version clientId optionalCapabilities",
    "REQ_POSITIONS_MULTI": "version reqId account modelCode",
    "REQ_ACCOUNT_UPDATES_MULTI": "version reqId account modelCode ledgerAndNLV",
    "REQ_SEC_DEF_OPT_PARAMS": "reqId symbol exchange secType conId",
    "REQ_PNL": "reqId account modelCode",
    "CANCEL_PNL": "reqId",
    "REQ_PNL_SINGLE": "reqId account modelCode conId",
    "CANCEL_PNL_SINGLE": "reqId",
    "TICK_PRICE": "version reqId tickType price size attributes",
    "TICK_SIZE": "version reqId tickType size",
    "ERROR": "version reqId code text advancedReject",
    "ACCOUNT_VALUE": "version key value currency account",
    "PORTFOLIO_VALUE": (
        f"version {_HELD} position marketPrice marketValue averageCost unrealizedPNL realizedPNL account"
    ),
    "MANAGED_ACCOUNTS": "version accounts",
    "NEXT_VALID_ID": "version orderId",
    "TICK_OPTION_COMPUTATION": "reqId tickType attributes impliedVol delta price pvDividend gamma vega theta undPrice",
    "TICK_GENERIC": "version reqId tickType value",
    "TICK_STRING": "version reqId tickType value",
    "CURRENT_TIME": "version time",
    "CONTRACT_DETAILS_END": "version reqId",
    "ACCOUNT_DOWNLOAD_END": "version account",
    "TICK_SNAPSHOT_END": "version reqId",
    "MARKET_DATA_TYPE": "version reqId marketDataType",
    "POSITION": f"version account {_HELD} position avgCost",
    "ACCOUNT_SUMMARY": "version reqId account tag value currency",
    "ACCOUNT_SUMMARY_END": "version reqId",
    "POSITION_MULTI": f"version reqId account {_HELD} position avgCost modelCode",
    "POSITION_MULTI_END": "version reqId",
    "ACCOUNT_UPDATE_MULTI": "version reqId account modelCode key value currency",
    "ACCOUNT_UPDATE_MULTI_END": "version reqId",
    "SEC_DEF_OPT_PARAMS_END": "reqId",
    "TICK_REQ_PARAMS": "reqId minTick bboExchange snapshotPermissions",
    "PNL": "reqId dailyPnL unrealizedPnL realizedPnL",
    "PNL_SINGLE": "reqId position dailyPnL unrealizedPnL realizedPnL value",
}
FIELD_NAMES: dict[str, tuple[str, ...]] = {name: ("id", *names.split()) for name, names in _LAYOUTS.items()}
"""Field names by the name of the message, the message id first."""

LEGS_FOLLOW = len(("id", "version", "reqId", *_CONTRACT.split()))
"""Fields of REQ_MKT_DATA that come before the legs of a combination, whose number shifts the rest."""


def named(name: str, fields: tuple[str, ...]) -> dict[str, str]:
    """Return a message's fields by name; empty where the message's layout is not known here."""
    found = dict(zip(FIELD_NAMES.get(name, ()), fields, strict=False))
    if name == "REQ_MKT_DATA" and found.get("secType") == "BAG":
        found = dict(zip(FIELD_NAMES[name][:LEGS_FOLLOW], fields, strict=False))
    return found
