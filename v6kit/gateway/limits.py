"""IB's limits as a model: market data lines and rates. Pure: time comes in as a monotonic number.

The numbers are IB's published ones; how IB counts is not published, so the counting here is a model: every stream, and
every snapshot in flight if so configured, holds one line; a rate is counted over each sliding second.
"""

from __future__ import annotations

from collections import Counter, deque


class LineTable:
    """Who holds which market data line.

    Args:
        limit: Lines for all clients together, or for each client if `per_client`.
        per_client: Whether each client id has its own `limit`.

    Attributes:
        taken: Lines that TWS's own windows hold; they may leave fewer than are in use, which ends nothing.
        peak: Most lines that clients ever held at once.
    """

    def __init__(self, limit: int, *, per_client: bool = False) -> None:
        self.limit = limit
        self.per_client = per_client
        self.peak = 0
        self.taken = 0
        self._held: set[tuple[int, int]] = set()
        self._by_client: Counter[int] = Counter()

    @property
    def in_use(self) -> int:
        """Lines held now, by all clients together."""
        return len(self._held)

    def acquire(self, client_id: int, req_id: int) -> bool:
        """Take a line for a request; `False` when none is left."""
        taken = self._by_client[client_id] if self.per_client else len(self._held)
        if taken + self.taken >= self.limit:
            return False
        self._held.add((client_id, req_id))
        self._by_client[client_id] += 1
        self.peak = max(self.peak, len(self._held))
        return True

    def release(self, client_id: int, req_id: int) -> None:
        """Give a request's line back; a request without one is fine."""
        if (client_id, req_id) in self._held:
            self._held.remove((client_id, req_id))
            self._by_client[client_id] -= 1


class SlidingWindow:
    """Counts events over each sliding window of time.

    Args:
        limit: Events that a window may hold, or `None` for no limit.
        seconds: Length of the window.
    """

    def __init__(self, limit: int | None, seconds: float = 1.0) -> None:
        self.limit = limit
        self.seconds = seconds
        self.peak = 0
        self._times: deque[float] = deque()

    def count(self, now: float) -> int:
        """Return the events of the window that ends now."""
        while self._times and now - self._times[0] >= self.seconds:
            self._times.popleft()
        return len(self._times)

    def add(self, now: float) -> int:
        """Count an event whatever the limit; return the window's count with it."""
        self._times.append(now)
        count = self.count(now)
        self.peak = max(self.peak, count)
        return count

    def admit(self, now: float) -> bool:
        """Count an event if the limit allows it; `False`, uncounted, when it does not."""
        if self.limit is not None and self.count(now) >= self.limit:
            return False
        self.add(now)
        return True


class MessageRate:
    """One client's requests per second, and its strikes.

    Messages over the limit within one second are one strike; the third strike within a minute ends the connection.
    """

    STRIKES = 3
    MEMORY = 60.0

    def __init__(self, limit: int | None) -> None:
        self.window = SlidingWindow(limit)
        self._strikes: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Count a message, refused or not; return whether it is within the limit."""
        count = self.window.add(now)
        return self.window.limit is None or count <= self.window.limit

    def strike(self, now: float) -> int:
        """Note a refused message; return the number of the strike it opens, or 0 if it belongs to the last one."""
        if self._strikes and now - self._strikes[-1] < self.window.seconds:
            return 0
        while self._strikes and now - self._strikes[0] >= self.MEMORY:
            self._strikes.popleft()
        self._strikes.append(now)
        return len(self._strikes)
