"""What is looked at in words, and the states of one item as a strip: how long each lasted, and who made it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from v6kit.display import counted, utc
from v6kit.ledger.compare import ADDED, CHANGED, FOUND, GONE, UNKNOWN
from v6kit.panels.pastgrid import TONES, Look, length, text_of
from v6kit.panels.travel import Travel

MOST = 200  # states in the strip; the grid has them all
_SAYS = ("status", "quality", "state")  # columns that say in one word how an item is
_BOOKKEEPING = ("seq", "version", "updated_at", "updated_by", "until", "lasted", "change", "diff")
_MARKS = {ADDED: "+", CHANGED: "~", GONE: "−"}
_SIGNS = {ADDED: "appeared", GONE: "gone", FOUND: "found so", UNKNOWN: "cannot be read"}


def words(seen: Look, travel: Travel) -> str:
    """Return in one line what is looked at."""
    view = seen.view
    match view.mode:
        case "as of":
            return f"{_made(travel, view.new)} · {counted(seen.frame.height, 'row')}"
        case "diff":
            signs = dict(seen.frame[seen.sign].value_counts().iter_rows()) if seen.sign else {}
            counts = " ".join(f"{mark}{signs.get(sign, 0):,}" for sign, mark in _MARKS.items())
            began = _time(travel, view.old)
            said = (f"v{view.old} → {_made(travel, view.new)}", f"from {began}" if began else "", counts)
            return " · ".join(filter(None, said))
        case "item":
            name = " ".join(map(str, view.item))
            if "symbol" in seen.frame.columns and seen.frame.height:
                name = f"{seen.frame['symbol'][-1]} · {name}"
            return f"{name} · {counted(seen.frame.height, 'state')}"


def _time(travel: Travel, version: int) -> str:
    row = travel.row(version)
    return "" if row is None or row["updated_at"] is None else f"{row['updated_at']:%H:%M:%S}"


def _made(travel: Travel, version: int) -> str:
    row = travel.row(version)
    if row is None:
        return f"v{version}"
    at = "" if row["updated_at"] is None else utc(row["updated_at"])
    by = f"by {row['updated_by']}" if row["updated_by"] else ""
    return " · ".join(part for part in (f"v{version}", at, row["changes"] or "", by) if part)


def strip(states: pl.DataFrame, version: int) -> list[dict[str, Any]]:
    """Return the last states of a timeline; the one that held at a version is marked."""
    names = states.columns
    sign = names[0]
    # Ours stand last, so of two columns of a name the later one, with `_` in front, is ours.
    at, until = (next(name for name in reversed(names) if name.strip("_") == ours) for ours in ("version", "lasted"))
    rows = states.tail(MOST + 1).rows(named=True)
    holds = max((row[at] for row in rows if row[at] <= version), default=None)
    befores: list[Mapping[str, Any] | None] = [None, *rows]
    drawn = [
        {
            "version": row[at],
            "text": _text(row, sign, at, until),
            "hint": _hint(row, before, sign),
            "tone": TONES.get(row[sign], ""),
            "on": row[at] == holds,
        }
        for before, row in zip(befores, rows, strict=False)
    ]
    return drawn[-MOST:]


def _text(row: Mapping[str, Any], sign: str, at: str, until: str) -> str:
    said = next((str(row[name]) for name in _SAYS if row.get(name) is not None), None)
    if row[sign] in (GONE, UNKNOWN) or said is None:
        said = _SIGNS.get(row[sign]) or str(row.get("change") or "changed")
    lasted = f" {length(row[until])}" if row[until] is not None else ""
    return f"v{row[at]} {said}{lasted}"


def _hint(row: Mapping[str, Any], before: Mapping[str, Any] | None, sign: str) -> str:
    made = [text_of(row[name]) for name in ("updated_at", "change", "updated_by") if row.get(name) is not None]
    if before is not None and row[sign] == CHANGED:
        changed = [
            f"{name}: {text_of(before[name])} → {text_of(value)}"
            for name, value in row.items()
            if name not in _BOOKKEEPING and name != sign and before[name] != value
        ]
        made += ["", *changed]
    return "\n".join(made)
