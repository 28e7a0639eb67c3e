"""How values read in a cell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from v6kit.panels import formats

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "digits", "value", "text"),
    [
        ("text", None, "SPY", "SPY"),
        ("text", None, None, "–"),
        ("number", None, 3, "3"),
        ("number", None, -2.0, "−2"),
        ("number", None, 0.5, "0.5"),
        ("number", 0, -1234567.8, "−1,234,568"),
        ("signed", 2, 0.314, "+0.31"),
        ("signed", 2, -0.314, "−0.31"),
        ("signed", 0, 0.0, "0"),
        ("signed", 0, -0.2, "0"),
        ("age", None, NOW - timedelta(seconds=41), "41s"),
        ("age", None, NOW - timedelta(minutes=11, seconds=59), "11m"),
        ("age", None, NOW - timedelta(hours=50), "2d"),
        ("age", None, NOW + timedelta(seconds=2), "0s"),
        ("left", None, NOW + timedelta(seconds=61), "01:01"),
        ("left", None, NOW, "over"),
        ("left", None, None, "–"),
        ("time", None, NOW, "14:30:00"),
    ],
)
def test_a_value_reads_as(kind, digits, value, text):
    """Short, aligned, a real minus, and a dash for what is not known."""
    assert formats.cell(kind, digits, value, NOW) == text
