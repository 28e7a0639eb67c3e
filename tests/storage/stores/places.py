"""What a test needs to know of the place where its tables are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

# Marks for a test or a module: it runs once in each of these places.
EVERYWHERE = pytest.mark.parametrize("place", ["local", "s3", "azure"], indirect=True)
OBJECT_STORES = pytest.mark.parametrize("place", ["s3", "azure"], indirect=True)


@dataclass(frozen=True)
class Place:
    """A lake that is a test's own.

    Attributes:
        name: `local`, `s3` or `azure`.
        lake: A folder, or the URI of one.
        options: The storage options that reach it; empty for a folder.
        secret: What must show nowhere: the key, which is new in each run.
        port: Where its server listens, on the loopback; 0 for a folder.
    """

    name: str
    lake: str
    options: Mapping[str, str] = field(default_factory=dict)
    secret: str = ""
    port: int = 0

    def table(self, name: str) -> str:
        """Return the place of a table in the lake."""
        return f"{self.lake}/{name}"

    def through(self, port: int, **more: str) -> Place:
        """Return the same lake as it is reached by another port of this machine, with some more options."""
        moved = {
            key: re.sub(rf":{self.port}\b", f":{port}", value) if "endpoint" in key else value
            for key, value in self.options.items()
        }
        return replace(self, options=moved | more, port=port)
