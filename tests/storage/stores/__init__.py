"""Where the tests of storage run: a local path, S3 and Azure, and a proxy that makes a store misbehave."""

from __future__ import annotations

from stores.places import EVERYWHERE, OBJECT_STORES, Place
from stores.proxy import COMMIT, DATA, Do, Proxy, ProxyServer, Seen, Trouble

__all__ = ["COMMIT", "DATA", "EVERYWHERE", "OBJECT_STORES", "Do", "Place", "Proxy", "ProxyServer", "Seen", "Trouble"]
