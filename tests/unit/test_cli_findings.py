"""What the doctor says, and in which words."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
from rich.console import Console
from v6kit.cli.doctor import verdict
from v6kit.cli.doctor_contents import is_gone
from v6kit.cli.findings import fail, ok, show, span, warn


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (timedelta(seconds=-3), "0 s"),
        (timedelta(seconds=42), "42 s"),
        (timedelta(minutes=7), "7 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(days=5), "5 days"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_fits(time, text):
    """Nobody reads 259200 seconds."""
    assert span(time) == text


def test_a_finding_is_one_line_in_a_pipe_whatever_its_text_holds():
    """Errors of other libraries have line breaks and colours; brackets are no markup."""
    out = io.StringIO()
    show([fail("queue", "it\n\x1b[31mbroke\x1b[0m [bold]", "mend\n it")], Console(file=out, width=20))
    assert out.getvalue() == "fail  queue              it broke [bold] -> mend it\n"


def test_a_finding_on_a_terminal_is_wrapped_and_nothing_of_it_is_lost():
    """A path is longer than any column."""
    out = io.StringIO()
    show([warn("lake", "x" * 200, "go on")], Console(file=out, width=60, force_terminal=True, color_system=None))
    assert out.getvalue().count("x") == 200
    assert "-> go on" in out.getvalue()


def test_the_verdict_counts_what_is_to_be_done():
    """The last line is what a hurried reader sees."""
    fine, doubtful, broken = ok("a", "b"), warn("a", "b", "c"), fail("a", "b")
    assert verdict([fine]) == "All is well: 1 ok."
    assert verdict([fine, doubtful]) == "It works; 1 to look at, 1 ok."
    assert verdict([fine, doubtful, broken]) == "1 failed, 1 to look at, 1 ok."


@pytest.mark.skipif(os.name != "posix", reason="only POSIX tells whether a process lives without ending it")
def test_a_worker_is_gone_only_if_it_ran_here_and_its_process_has_ended():
    """What runs elsewhere, or cannot be told, counts as alive."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert is_gone(f"{socket.gethostname()}:{ended.pid}:abc")
    assert not is_gone(f"{socket.gethostname()}:{os.getpid()}:abc")
    assert not is_gone(f"another-host:{ended.pid}:abc")
    assert not is_gone("a name of the user's")
