"""Request ids: UUIDs of version 7, which sort by the time and the order in which they were made.

So "oldest first" has a total order, also among requests of one commit, and a table's files hold neighbouring ids.

Source: RFC 9562, section 5.7; the counter is its "fixed bit-length dedicated counter" (6.2, method 1), 32 bits here.
"""

from __future__ import annotations

import secrets
from array import array
from datetime import datetime

_LINE_CHARS = 37  # a UUID's text and what ends the line
_COUNTER_BITS = 32
_COUNTER = (15, 16, 17, 20, 21, 22, 24, 25)  # where its hex digits stand: behind the version, around the variant


class RequestIds:
    """Makes ids that increase within one process, even if its clock goes back."""

    def __init__(self) -> None:
        self._next = 0
        self._milliseconds = 0

    def take(self, count: int, now: datetime) -> list[str]:
        """Return `count` new ids, in increasing order.

        They differ in the counter and share their random digits, which tell them from those of other processes. Made
        column by column, since one `uuid.uuid4()` after the other takes four times as long as writing the rows.
        """
        self._milliseconds = max(self._milliseconds, int(now.timestamp() * 1000))
        if self._next + count > 2**_COUNTER_BITS:
            self._next = 0
            self._milliseconds += 1  # RFC 9562, 6.2: a counter that rolls over moves the time ahead
        time, node = f"{self._milliseconds:012x}", secrets.token_hex(5)
        text = bytearray(f"{time[:8]}-{time[8:]}-7000-8000-00{node}\n".encode() * count)
        numbers = array("I", range(self._next, self._next + count))
        self._next += count
        numbers.byteswap()  # big-endian, so that the text sorts as the number does
        digits = numbers.tobytes().hex().encode()
        for index, place in enumerate(_COUNTER):
            text[place::_LINE_CHARS] = digits[index :: len(_COUNTER)]
        return text.decode("ascii").split()
