"""IB's text protocol as bytes: frames, fields, numbers, message ids. Pure; owns no socket and no meaning.

A frame is a 4-byte big-endian length and NUL-terminated text fields. The client opens with `API` and a NUL, and then a
frame `v<lowest>..<highest>` that offers protocol versions; everything after that is frames in both directions.
What a message means is `answers` (server to client) and `requests` (client to server).
"""

from __future__ import annotations

import math
import re
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

API_SIGN = b"API\0"
SERVER_VERSION = 178
OLDEST_VERSION = 157  # the newest that IB's client on the package index speaks; nothing older is in use
MAX_FRAME = 65_536  # bytes; IB's requests stay far below, so more is garbage or an attack
LENGTH = struct.Struct(">I")

Field = str | int | float


class WireError(ValueError):
    """The peer's bytes are not IB's protocol; the only answer is to close the connection."""


class Request(IntEnum):
    """Client to server: all message ids up to version 178.

    Example:
        >>> Request(1).name
        'REQ_MKT_DATA'
    """

    REQ_MKT_DATA = 1
    CANCEL_MKT_DATA = 2
    PLACE_ORDER = 3
    CANCEL_ORDER = 4
    REQ_OPEN_ORDERS = 5
    REQ_ACCOUNT_UPDATES = 6
    REQ_EXECUTIONS = 7
    REQ_IDS = 8
    REQ_CONTRACT_DETAILS = 9
    REQ_MKT_DEPTH = 10
    CANCEL_MKT_DEPTH = 11
    REQ_NEWS_BULLETINS = 12
    CANCEL_NEWS_BULLETINS = 13
    SET_SERVER_LOG_LEVEL = 14
    REQ_AUTO_OPEN_ORDERS = 15
    REQ_ALL_OPEN_ORDERS = 16
    REQ_MANAGED_ACCOUNTS = 17
    REQ_FA = 18
    REPLACE_FA = 19
    REQ_HISTORICAL_DATA = 20
    EXERCISE_OPTIONS = 21
    REQ_SCANNER_SUBSCRIPTION = 22
    CANCEL_SCANNER_SUBSCRIPTION = 23
    REQ_SCANNER_PARAMETERS = 24
    CANCEL_HISTORICAL_DATA = 25
    REQ_CURRENT_TIME = 49
    REQ_REAL_TIME_BARS = 50
    CANCEL_REAL_TIME_BARS = 51
    REQ_FUNDAMENTAL_DATA = 52
    CANCEL_FUNDAMENTAL_DATA = 53
    REQ_CALC_IMPLIED_VOLAT = 54
    REQ_CALC_OPTION_PRICE = 55
    CANCEL_CALC_IMPLIED_VOLAT = 56
    CANCEL_CALC_OPTION_PRICE = 57
    REQ_GLOBAL_CANCEL = 58
    REQ_MARKET_DATA_TYPE = 59
    REQ_POSITIONS = 61
    REQ_ACCOUNT_SUMMARY = 62
    CANCEL_ACCOUNT_SUMMARY = 63
    CANCEL_POSITIONS = 64
    VERIFY_REQUEST = 65
    VERIFY_MESSAGE = 66
    QUERY_DISPLAY_GROUPS = 67
    SUBSCRIBE_TO_GROUP_EVENTS = 68
    UPDATE_DISPLAY_GROUP = 69
    UNSUBSCRIBE_FROM_GROUP_EVENTS = 70
    START_API = 71
    VERIFY_AND_AUTH_REQUEST = 72
    VERIFY_AND_AUTH_MESSAGE = 73
    REQ_POSITIONS_MULTI = 74
    CANCEL_POSITIONS_MULTI = 75
    REQ_ACCOUNT_UPDATES_MULTI = 76
    CANCEL_ACCOUNT_UPDATES_MULTI = 77
    REQ_SEC_DEF_OPT_PARAMS = 78
    REQ_SOFT_DOLLAR_TIERS = 79
    REQ_FAMILY_CODES = 80
    REQ_MATCHING_SYMBOLS = 81
    REQ_MKT_DEPTH_EXCHANGES = 82
    REQ_SMART_COMPONENTS = 83
    REQ_NEWS_ARTICLE = 84
    REQ_NEWS_PROVIDERS = 85
    REQ_HISTORICAL_NEWS = 86
    REQ_HEAD_TIMESTAMP = 87
    REQ_HISTOGRAM_DATA = 88
    CANCEL_HISTOGRAM_DATA = 89
    CANCEL_HEAD_TIMESTAMP = 90
    REQ_MARKET_RULE = 91
    REQ_PNL = 92
    CANCEL_PNL = 93
    REQ_PNL_SINGLE = 94
    CANCEL_PNL_SINGLE = 95
    REQ_HISTORICAL_TICKS = 96
    REQ_TICK_BY_TICK_DATA = 97
    CANCEL_TICK_BY_TICK_DATA = 98
    REQ_COMPLETED_ORDERS = 99
    REQ_WSH_META_DATA = 100
    CANCEL_WSH_META_DATA = 101
    REQ_WSH_EVENT_DATA = 102
    CANCEL_WSH_EVENT_DATA = 103
    REQ_USER_INFO = 104


class Answer(IntEnum):
    """Server to client: the message ids that the gateway sends.

    Example:
        >>> Answer.TICK_SNAPSHOT_END.value
        57
    """

    TICK_PRICE = 1
    TICK_SIZE = 2
    ERROR = 4
    ACCOUNT_VALUE = 6
    PORTFOLIO_VALUE = 7
    ACCOUNT_UPDATE_TIME = 8
    NEXT_VALID_ID = 9
    CONTRACT_DETAILS = 10
    MANAGED_ACCOUNTS = 15
    SCANNER_PARAMETERS = 19
    TICK_OPTION_COMPUTATION = 21
    TICK_GENERIC = 45
    TICK_STRING = 46
    CURRENT_TIME = 49
    CONTRACT_DETAILS_END = 52
    OPEN_ORDER_END = 53
    ACCOUNT_DOWNLOAD_END = 54
    EXECUTION_END = 55
    TICK_SNAPSHOT_END = 57
    MARKET_DATA_TYPE = 58
    POSITION = 61
    POSITION_END = 62
    ACCOUNT_SUMMARY = 63
    ACCOUNT_SUMMARY_END = 64
    DISPLAY_GROUP_LIST = 67
    DISPLAY_GROUP_UPDATED = 68
    POSITION_MULTI = 71
    POSITION_MULTI_END = 72
    ACCOUNT_UPDATE_MULTI = 73
    ACCOUNT_UPDATE_MULTI_END = 74
    SEC_DEF_OPT_PARAMS = 75
    SEC_DEF_OPT_PARAMS_END = 76
    SOFT_DOLLAR_TIERS = 77
    FAMILY_CODES = 78
    SYMBOL_SAMPLES = 79
    MKT_DEPTH_EXCHANGES = 80
    TICK_REQ_PARAMS = 81
    SMART_COMPONENTS = 82
    NEWS_PROVIDERS = 85
    MARKET_RULE = 93
    PNL = 94
    PNL_SINGLE = 95
    COMPLETED_ORDERS_END = 102
    USER_INFO = 107


def number(value: float) -> str:
    """Return a number as IB writes it: whole ones without a point, because old clients read sizes as integers."""
    if not math.isfinite(value):
        raise ValueError(f"value must be finite, got {value!r}; a missing number has its own marker per message")
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)  # noqa: PLR2004 - exact in a float


def texts(message: tuple[Field, ...]) -> tuple[str, ...]:
    """Return a message's fields as the text that goes over the wire."""
    return tuple(str(field) if isinstance(field, str) else number(field) for field in message)


def frame(fields: tuple[str, ...]) -> bytes:
    """Return one message as it goes over the wire: its length, then each field ended by NUL."""
    body = "".join(f"{field}\0" for field in fields).encode()
    return LENGTH.pack(len(body)) + body


class Fields:
    """The fields of one message from a client, read by position; field 0 is the message id."""

    def __init__(self, body: bytes) -> None:
        if not body.endswith(b"\0"):
            raise WireError(f"a message must end with NUL, got {body[:40]!r}")
        try:
            self._texts = body[:-1].decode().split("\0")
        except UnicodeDecodeError as error:
            raise WireError(f"a message must be UTF-8 text, got {body[:40]!r}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def text(self, at: int) -> str:
        """Return the field at a position.

        Raises:
            WireError: The message is shorter than that.
        """
        if not 0 <= at < len(self._texts):
            raise WireError(f"message {self._texts[0]} must have more than {at} fields, got {len(self._texts)}")
        return self._texts[at]

    def integer(self, at: int) -> int:
        """Return a whole number; an empty field is 0."""
        text = self.text(at)
        if not re.fullmatch(r"-?\d{0,18}", text, re.ASCII) or text == "-":
            raise WireError(f"field {at} of message {self._texts[0]} must be an integer, got {text[:40]!r}")
        return int(text or 0)

    def decimal(self, at: int) -> float:
        """Return a finite number; an empty field is 0."""
        text = self.text(at)
        try:
            value = float(text or 0)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise WireError(f"field {at} of message {self._texts[0]} must be a number, got {text[:40]!r}")
        return value

    def flag(self, at: int) -> bool:
        """Return whether the field says yes."""
        return self.text(at) not in ("", "0", "False", "false")


def negotiate(offer: bytes) -> int:
    """Return the protocol version for a client's offer, e.g. 157 for `v100..157`.

    Raises:
        WireError: The offer is no range of versions, or none of them is spoken here.
    """
    match = re.match(rb"v(\d{1,4})(?:\.\.(\d{1,4}))?(?: |\0|$)", offer)
    if match is None:
        raise WireError(f"the first frame must offer versions like 'v157..178', got {offer[:40]!r}")
    lowest, highest = int(match[1]), int(match[2] or match[1])
    version = min(highest, SERVER_VERSION)
    if version < max(lowest, OLDEST_VERSION):
        raise WireError(f"no common version: {lowest}..{highest} offered, {OLDEST_VERSION}..{SERVER_VERSION} spoken")
    return version


class FrameReader:
    """Cuts a client's byte stream, however it is chunked, into the bodies of its frames.

    Bytes are taken in by `feed` and come out of `next_body`, so a caller may stop between two frames.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    @property
    def waiting(self) -> int:
        """Bytes that were taken in and have not come out."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take in what the socket gave."""
        self._buffer += data

    def next_body(self) -> bytes | None:
        """Return the next complete frame's body, or `None` until more bytes have come.

        Raises:
            WireError: The stream does not open with `API`, or a frame is empty or longer than `MAX_FRAME`.
        """
        if not self._greeted and not self._take_sign():
            return None
        if len(self._buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer)
        if not 0 < length <= MAX_FRAME:
            raise WireError(f"a frame must have 1..{MAX_FRAME} bytes, got a length of {length}")
        end = LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return body

    def _take_sign(self) -> bool:
        """Check the opening bytes as early as they can be told apart, so garbage is not waited for."""
        start = bytes(self._buffer[: len(API_SIGN)])
        if not API_SIGN.startswith(start):
            raise WireError(f"a client must open with {API_SIGN!r}, got {start!r}")
        if len(start) < len(API_SIGN):
            return False
        del self._buffer[: len(API_SIGN)]
        self._greeted = True
        return True
