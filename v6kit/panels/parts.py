"""What a panel shows besides its grid: small things that the page draws from plain data, and their static text.

Each is a dictionary with a `kind`, which `parts.js` has a drawing for. All texts are text, never markup.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from v6kit.panels import versionbars

Part = dict[str, Any]


def chips(counts: Mapping[str, int], kept: Collection[str], tones: Mapping[str | None, str]) -> Part:
    """Return counts by name that filter the grid when they are clicked."""
    each = [
        {"name": name, "count": f"{n:,}", "on": name in kept, "tone": tones.get(name, "")} for name, n in counts.items()
    ]
    return {"kind": "chips", "chips": each}


def meter(text: str, of: float, segments: Sequence[tuple[str, float, str]]) -> Part:
    """Return a bar of segments (name, size, tone) of a whole, with its figures in words."""
    each = [
        {"name": name, "share": round(100 * size / of, 2) if of else 0.0, "tone": tone} for name, size, tone in segments
    ]
    return {"kind": "meter", "text": text, "segments": each}


def steps(names: Sequence[str], current: str, detail: str) -> Part:
    """Return the steps of a process, those before the current one done; none is current when it rests."""
    at = names.index(current) if current in names else -1
    states = ["done" if number < at else "now" if number == at else "todo" for number in range(len(names))]
    return {"kind": "steps", "steps": [list(pair) for pair in zip(names, states, strict=True)], "text": detail}


def bars(values: Sequence[float], tones: Sequence[str], text: str) -> Part:
    """Return a row of small bars, oldest first, each with its tone, and what they say in words."""
    top = max(values, default=0.0) or 1.0
    each = [{"share": round(100 * value / top, 1), "tone": tone} for value, tone in zip(values, tones, strict=True)]
    return {"kind": "bars", "bars": each, "text": text}


class Field(NamedTuple):
    """A field of a form.

    Attributes:
        name: For messages.
        label: Above it.
        value: What is in it.
        choices: What may be chosen, each with its label; `None`: it is typed.
        hint: What might be typed.
    """

    name: str
    label: str
    value: str
    choices: Sequence[tuple[str, str]] | None = None
    hint: str = ""


def form(fields: Sequence[Field], heads: Sequence[str], rows: Sequence[Sequence[str]], code: str, lacks: str) -> Part:
    """Return fields to fill in, a preview of what comes of them, its code, and what is still missing."""
    each = [one._asdict() for one in fields]
    return {"kind": "form", "fields": each, "heads": list(heads), "rows": list(rows), "code": code, "text": lacks}


def table(text: str, heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], tones: Sequence[str]) -> Part:
    """Return a small table under a line of words; heads say whether a column has numbers, each row has a tone."""
    each = [{"cells": list(row), "tone": tone} for row, tone in zip(rows, tones, strict=True)]
    return {"kind": "table", "text": text, "heads": [list(head) for head in heads], "rows": each}


def figures(groups: Sequence[tuple[str, Sequence[tuple[str, int, str]]]]) -> Part:
    """Return counts (name, number, tone) in named groups; those that are 0 are left out, unless all are."""
    each = [
        {"name": name, "figures": [{"name": word, "count": f"{n:,}", "tone": tone} for word, n, tone in told]}
        for name, counts in groups
        for told in [[one for one in counts if one[1]] or list(counts[:1])]
    ]
    return {"kind": "figures", "groups": each}


def tabs(names: Sequence[tuple[str, str]], chosen: str, as_of: str) -> Part:
    """Return tabs (name, title), which one is open, and the field for the instant that they show."""
    return {"kind": "tabs", "tabs": [list(each) for each in names], "chosen": chosen, "as_of": as_of}


def note(text: str, tone: str = "") -> Part:
    """Return one line of words."""
    return {"kind": "note", "text": text, "tone": tone}


def static(part: Part) -> str:
    """Return a part as HTML that needs neither JavaScript nor a style sheet."""
    match part["kind"]:
        case "chips":
            text = " · ".join(f"{each['name']} {each['count']}" for each in part["chips"])
        case "versions":
            return versionbars.svg(part)
        case "states":
            text = " ── ".join(each["text"] for each in part["states"])
        case "travel":
            text = ""
        case "steps":
            marks = {"done": "✓", "now": "▸", "todo": "·"}
            text = " → ".join(f"{marks[state]} {name}" for name, state in part["steps"]) + f" · {part['text']}"
        case "table":
            heads = [(name, "right" if is_number else "left") for name, is_number in part["heads"]]
            rows = [row["cells"] for row in part["rows"]]
            return f"<p>{escape(part['text'])}</p>" + (static_table(heads, rows) if rows else "")
        case "figures":
            groups = [f"{each['name']}: {_told(each['figures'])}" for each in part["groups"]]
            text = " · ".join(groups)
        case "form" | "tabs":
            return ""  # nothing to be filled in or turned to without a kernel
        case _:
            text = part["text"]
    return f"<p>{escape(text)}</p>" if text else ""


def static_table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as an HTML table.

    Args:
        heads: The columns' titles, each with its side, `left` or `right`.
        rows: Their cells, as texts.
    """
    sides = [side for _, side in heads]
    head = "".join(f"<th align='{side}'>{escape(name)}</th>" for name, side in heads)
    cells = (
        "".join(f"<td align='{side}'>{escape(text)}</td>" for text, side in zip(row, sides, strict=True))
        for row in rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _told(figures: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{each['count']} {each['name']}" for each in figures)
