"""What `v6kit doctor` says: findings, their levels, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text

from v6kit.cli.terminal import one_line, say


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Attributes:
        level: How bad it is.
        subject: What was looked at.
        text: What was seen.
        advice: What to do about it, or an empty string.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(Level.OK, subject, text)


def warn(subject: str, text: str, advice: str) -> Finding:
    """Say that something should be looked at."""
    return Finding(Level.WARN, subject, text, advice)


def fail(subject: str, text: str, advice: str = "") -> Finding:
    """Say that something does not work."""
    return Finding(Level.FAIL, subject, text, advice)


def show(findings: Iterable[Finding], console: Console) -> None:
    """Print findings: wrapped into columns on a terminal, exactly one line each in a pipe."""
    if not console.is_terminal:
        for each in findings:
            advice = f" -> {one_line(each.advice)}" if each.advice else ""
            say(console, f"{each.level:<5} {each.subject:<18} {one_line(each.text)}{advice}")
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for each in findings:
        style = STYLES[each.level]
        text = Text(one_line(each.text))
        if each.advice:
            text.append(f"\n-> {one_line(each.advice)}", style)
        grid.add_row(Text(each.level, style), each.subject, text)
    console.print(grid)


def span(time: timedelta) -> str:
    """Return a duration as people say it: `42 s`, `7 min`, `3 h`, `5 days`."""
    seconds = max(time.total_seconds(), 0.0)
    for unit, size, upto in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < upto:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
