"""What holds for every test: when it has ended, no thread of a panel that it made is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

_DEADLINE = 10


@pytest.fixture(autouse=True)
def no_thread_of_panels_is_left() -> Iterator[None]:
    """Wait for the threads of panels that were closed; of one that was not, and whose desk is open, there is no end."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("v6kit-panels"):
            thread.join(_DEADLINE)
            assert not thread.is_alive(), f"{thread.name} was left behind: a panel was not closed"
