"""One line per experiment at the end of the test run, for whoever reads the log of CI."""

from __future__ import annotations

from typing import Any

import pytest


class Line:
    """A plugin that says one thing in the summary."""

    def __init__(self, text: str) -> None:
        self._text = text

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it."""
        terminalreporter.write_line(self._text)


def say(config: pytest.Config, text: str) -> None:
    """Put a line into the summary of this run; a process that runs a part of the tests hands it on."""
    handed_on: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if handed_on is None:
        config.pluginmanager.register(Line(text))
    else:
        handed_on.setdefault("said", []).append(text)


class FromWorkers:
    """A plugin that takes what the processes of pytest-xdist hand on."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take it when one of them has ended."""
        for text in getattr(node, "workeroutput", {}).get("said", []):
            say(node.config, text)
