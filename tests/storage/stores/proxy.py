"""A real HTTP proxy between deltalake and an object store, which can be told to misbehave.

It listens on a socket of its own and passes every request on to the store and every answer back. A `Fault` makes it
do otherwise with the requests that match: lose the request, lose its answer, answer in the store's place, dawdle, or
hold the request until the test lets it go. Nothing in v6kit or deltalake is patched.

It runs in a process of its own, since some calls of deltalake wait for an answer with the GIL held (1.6.6: `history`),
and a proxy in the same process could then not give one.

Signatures: S3's cover the Host header and moto does not check them; Azure's do not cover it.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.managers import BaseManager
from typing import Any, NamedTuple

COMMIT = r"_delta_log/\d+\.json$"  # the entry whose put-if-absent is the commit
DATA = r"part-[^/]*\.parquet$"
DEADLINE_SECONDS = 30
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message><RequestId>1</RequestId><HostId>1</HostId></Error>"
)


class Do(Enum):
    """What a fault does to a request."""

    LOSE_REQUEST = "the connection breaks before the store hears of it"
    LOSE_ANSWER = "the store does it, then the connection breaks"
    THROTTLE = "503 SlowDown, and the store never hears of it"
    THROTTLE_AFTERWARDS = "the store does it, and 503 is the answer all the same"
    REFUSE = "403, and the store never hears of it"
    HOLD_REQUEST = "it waits for `release` before it is passed on"
    HOLD_REQUEST_LOSE_ANSWER = "both, one after the other"
    FORGET_CONDITION = "the store is not told that it must not overwrite, as if it did not know how"
    HOLD_REQUEST_FORGET_CONDITION = "both"
    HOLD_ANSWER = "the store does it, and the answer waits for `release`"
    DAWDLE = "the answer comes late"


_HOLD_REQUEST = (Do.HOLD_REQUEST, Do.HOLD_REQUEST_LOSE_ANSWER, Do.HOLD_REQUEST_FORGET_CONDITION)
_FORGET = (Do.FORGET_CONDITION, Do.HOLD_REQUEST_FORGET_CONDITION)
_BEFORE = (Do.LOSE_REQUEST, Do.THROTTLE, Do.REFUSE, *_HOLD_REQUEST)  # what strikes before the store hears of it


class Seen(NamedTuple):
    """One request that came by, and the status that the store answered; 0 where the store was not asked."""

    method: str
    path: str
    status: int


class Fault(NamedTuple):
    """What to do with the requests that match.

    Attributes:
        do: What happens.
        method: A regular expression for the whole method.
        path: A regular expression, searched in the path without its query.
        skip: How many matching requests pass unharmed first.
        times: How many are harmed after these; the rest passes.
        delay: Seconds, for `DAWDLE`.
    """

    do: Do
    method: str = "PUT"
    path: str = COMMIT
    skip: int = 0
    times: float = 1
    delay: float = 0.0


class _Force:
    """A fault in force: counts what it saw and did."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.matches = 0
        self.hits = 0
        self.has_struck = threading.Event()
        self.is_released = threading.Event()
        self.is_done = threading.Event()

    def wants(self, method: str, path: str) -> bool:
        """Count a request and tell whether it is to be harmed."""
        if not (re.fullmatch(self.fault.method, method) and re.search(self.fault.path, path)):
            return False
        self.matches += 1
        wanted = self.fault.skip < self.matches <= self.fault.skip + self.fault.times
        self.hits += wanted
        return wanted

    def hold(self) -> None:
        """Wait to be released."""
        self.is_released.wait(DEADLINE_SECONDS)


class FaultProxy(ThreadingHTTPServer):
    """Listens on the loopback and passes on to `upstream`, except where a fault says otherwise."""

    daemon_threads = True
    block_on_close = False  # a client's pooled connection may stay open for as long as it likes
    request_queue_size = 128

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.requests: list[Seen] = []
        self._forces: list[_Force] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def port(self) -> int:
        """Return where it listens."""
        return self.server_address[1]

    def seen(self) -> list[Seen]:
        """Return the requests so far, in the order in which they were done with."""
        return list(self.requests)

    def add(self, fault: Fault) -> int:
        """Put a fault in force and return its number; where several match, the first one strikes."""
        with self._lock:
            self._forces.append(_Force(fault))
            return len(self._forces) - 1

    def wait(self, number: int) -> bool:
        """Wait until a fault has struck; returns whether it has."""
        return self._forces[number].has_struck.wait(DEADLINE_SECONDS)

    def wait_until_done(self, number: int) -> bool:
        """Wait until the store has done what a fault held up; returns whether it has."""
        return self._forces[number].is_done.wait(DEADLINE_SECONDS)

    def hits(self, number: int) -> int:
        """Return how often a fault has struck."""
        return self._forces[number].hits

    def release(self, number: int) -> None:
        """End a fault and let go what it holds."""
        with self._lock:
            force = self._forces[number]
            force.fault = force.fault._replace(times=0)
        force.is_released.set()

    def stop(self) -> None:
        """Let go whatever is held, and listen no more."""
        for number in range(len(self._forces)):
            self.release(number)
        self.shutdown()
        self.server_close()

    def force_for(self, method: str, path: str) -> _Force | None:
        """Return the fault that strikes this request."""
        with self._lock:
            # All of them count it, also those behind the one that strikes.
            return next((force for force in [f for f in self._forces if f.wants(method, path)]), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that went away: some were killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    """One client connection, and one to the store for as long as it lasts."""

    protocol_version = "HTTP/1.1"  # keep-alive, as stores do
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FaultProxy

    def setup(self) -> None:
        super().setup()
        self.store = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=DEADLINE_SECONDS)

    def finish(self) -> None:
        self.store.close()
        super().finish()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def handle_request(self) -> None:
        """Pass one request on, unless a fault strikes it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        force = self.server.force_for(self.command, path)
        do = force.fault.do if force is not None else None
        if force is not None and do in _BEFORE:
            force.has_struck.set()
            if do not in _HOLD_REQUEST:
                self.server.requests.append(Seen(self.command, path, 0))
                self._instead(do)
                return
            force.hold()
        if do in _FORGET:
            del self.headers["If-None-Match"]
        answer, content = self._ask(body)
        self.server.requests.append(Seen(self.command, path, answer.status))
        if force is not None:
            force.has_struck.set()
            force.is_done.set()
            if do in (Do.LOSE_ANSWER, Do.THROTTLE_AFTERWARDS, Do.HOLD_REQUEST_LOSE_ANSWER):
                self._instead(do)
                return
            if do is Do.HOLD_ANSWER:
                force.hold()
            time.sleep(force.fault.delay)
        self._reply(answer.status, answer.getheaders(), content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request  # noqa: N815 - the base class calls them so

    def _instead(self, do: Do) -> None:
        """Give no answer, or one of our own."""
        if do in (Do.LOSE_REQUEST, Do.LOSE_ANSWER, Do.HOLD_REQUEST_LOSE_ANSWER):
            # A reset rather than an orderly end, as when a machine or a NAT entry is gone.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif do is Do.REFUSE:
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self._reply(403, [("Content-Type", "application/xml")], body)
        else:
            self._reply(503, [("Content-Type", "application/xml"), ("x-ms-error-code", "ServerBusy")], _SLOW_DOWN)

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        self.store.request(self.command, self.path, body, headers)
        answer = self.store.getresponse()
        return answer, answer.read()

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD: that of the content which is not sent
            elif name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()


class ProxyServer(BaseManager):
    """The process in which the proxies run; a test calls them from its own."""


ProxyServer.register(
    "make_proxy", FaultProxy, exposed=("port", "seen", "add", "wait", "wait_until_done", "hits", "release", "stop")
)


class Trouble:
    """A fault in force, as the test sees it."""

    def __init__(self, proxy: Any, number: int) -> None:
        self._proxy, self._number = proxy, number

    @property
    def hits(self) -> int:
        """How often it has struck."""
        return self._proxy.hits(self._number)

    def wait(self) -> None:
        """Return as soon as it has struck for the first time."""
        assert self._proxy.wait(self._number), "no such request came by"

    def wait_until_done(self) -> None:
        """Return as soon as the store has done what it held up."""
        assert self._proxy.wait_until_done(self._number), "the store was never asked"

    def release(self) -> None:
        """End it, and let go what it holds."""
        self._proxy.release(self._number)


class Proxy:
    """A proxy in front of a store, as the test sees it."""

    def __init__(self, server: ProxyServer, upstream: int) -> None:
        self._proxy = server.make_proxy(upstream)
        self.port: int = self._proxy.port()

    def trouble(self, do: Do, **which: Any) -> Trouble:
        """Put a fault in force."""
        return Trouble(self._proxy, self._proxy.add(Fault(do, **which)))

    def seen(self) -> list[Seen]:
        """Return the requests so far."""
        return self._proxy.seen()

    def stop(self) -> None:
        """Let go whatever is held, and listen no more."""
        self._proxy.stop()
