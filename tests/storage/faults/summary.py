"""One line per experiment at the end of the test run, for whoever reads the log of CI."""

from __future__ import annotations

import pytest


class Line:
    """A plugin that says one thing in the summary."""

    def __init__(self, text: str) -> None:
        self._text = text

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it."""
        terminalreporter.write_line(self._text)


def say(config: pytest.Config, text: str) -> None:
    """Put a line into the summary of this run."""
    config.pluginmanager.register(Line(text))
