"""What tests of all folders share: after each, no thread of a panel is left; and a shell to show things in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.patience import DEADLINE
from tests.summary import FromWorkers

Complete = Callable[..., list[str]]


def pytest_configure(config: pytest.Config) -> None:
    """Let the summary have what other processes found out."""
    config.pluginmanager.register(FromWorkers())


@pytest.fixture(autouse=True)
def no_thread_of_panels_is_left() -> Iterator[None]:
    """Wait for the threads of panels that were closed; of one that was not, and whose desk is open, there is no end."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("v6kit-panels"):
            thread.join(DEADLINE)
            assert not thread.is_alive(), f"{thread.name} was left behind: a panel was not closed"


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell of the test's own, whose completions come from live objects, as a notebook's do without jedi."""
    config = Config()
    config.HistoryManager.enabled = False
    config.Completer.use_jedi = False
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


@pytest.fixture
def complete(shell: InteractiveShell) -> Complete:
    """Press tab behind some code, with some names defined."""

    def press(code: str, **names: Any) -> list[str]:
        shell.user_ns.update(names)
        with provisionalcompleter():  # the kernel asks so, too
            return [each.text for each in shell.Completer.completions(code, len(code))]

    return press
