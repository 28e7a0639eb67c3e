"""How v6kit's objects look as the last line of a cell: one card for all of them, as HTML and as plain text.

A card is made of what its object knows already: no I/O, and nothing that differs from run to run by itself. Whatever
comes from outside is escaped. Styles are inline, so that they survive saving and conversion, and take Jupyter's colours
where there are any; without styles, as GitHub shows a notebook, plain tables are left.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import escape
from typing import Protocol

from v6kit.errors import V6KitError

_CELL_LENGTH = 160  # longer ones are cut: error messages, mostly
_NAMES_TOLD = 10
_BOX = "color:var(--jp-content-font-color1,inherit);line-height:1.5"
_MUTED = "color:var(--jp-content-font-color2,#777)"
_WARNING = "color:var(--jp-error-color1,#c62828)"
_TABLE = "border-collapse:collapse;margin:4px 0;text-align:left"
_CELL = "text-align:{};padding:2px 16px 2px 0;vertical-align:top;border:0"
_HEAD = f"{_CELL};{_MUTED};font-weight:600;border-bottom:1px solid var(--jp-border-color2,#8886)"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a card.

    Attributes:
        headings: One per column.
        rows: The cells to show, as text.
        more: How many further rows there are.
        numbers: Headings of the columns that are aligned to the right.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: int = 0
    numbers: Collection[str] = ()

    def html(self) -> str:
        """Return it as an HTML table, and below it how many rows are left out."""
        sides = ["right" if name in self.numbers else "left" for name in self.headings]
        head = "".join(
            f'<th style="{_HEAD.format(side)}">{_safe(name)}</th>'
            for name, side in zip(self.headings, sides, strict=True)
        )
        rows = (
            "".join(
                f'<td style="{_CELL.format(side)}">{_safe(_cut(cell))}</td>'
                for cell, side in zip(row, sides, strict=True)
            )
            for row in self.rows
        )
        body = "".join(f"<tr>{cells}</tr>" for cells in rows)
        more = f'<div style="{_MUTED}">... and {self.more:,} more</div>' if self.more else ""
        return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'

    def lines(self) -> Iterator[str]:
        """Return it as lines of text, columns aligned."""
        table = [[_plain(_cut(cell)) for cell in row] for row in (self.headings, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        sides = [str.rjust if name in self.numbers else str.ljust for name in self.headings]
        for row in table:
            yield "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        if self.more:
            yield f"... and {self.more:,} more"


@dataclass(frozen=True, slots=True)
class Card:
    """What an object shows of itself.

    Attributes:
        title: What it is.
        warnings: What is wrong; marked by a sign, not by colour alone.
        facts: Name → value.
        notes: Sentences.
        tables: In full view.
        folds: Summary → table, to be opened by a click; not in the plain text.
    """

    title: str
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    folds: Mapping[str, Table] = field(default_factory=dict)

    def html(self) -> str:
        """Return the card as HTML without a script."""
        parts = [f"<div><b>{_safe(self.title)}</b></div>"]
        parts += [f'<div style="{_WARNING}">⚠ {_safe(each)}</div>' for each in self.warnings]
        if self.facts:
            parts.append(f'<table style="{_TABLE}"><tbody>{"".join(self._fact_rows())}</tbody></table>')
        parts += [f'<div style="{_MUTED}">{_safe(each)}</div>' for each in self.notes]
        parts += [each.html() for each in self.tables]
        parts += [
            f"<details><summary>{_safe(summary)}</summary>{table.html()}</details>"
            for summary, table in self.folds.items()
        ]
        return f'<div style="{_BOX}">{"".join(parts)}</div>'

    def text(self) -> str:
        """Return the card as plain text."""
        width = max(map(len, self.facts), default=0)
        lines = [_plain(self.title), *(f"! {_plain(each)}" for each in self.warnings)]
        lines += [f"  {_plain(name).ljust(width)}  {_plain(fact)}".rstrip() for name, fact in self.facts.items()]
        lines += map(_plain, self.notes)
        for table in self.tables:
            lines += ["", *table.lines()] if len(lines) > 1 else table.lines()
        return "\n".join(lines)

    def _fact_rows(self) -> Iterator[str]:
        fact_style = _CELL.format("left")
        name_style = f"{fact_style};{_MUTED};font-weight:600;white-space:nowrap"
        for name, fact in self.facts.items():
            yield f'<tr><th style="{name_style}">{_safe(name)}</th><td style="{fact_style}">{_safe(fact)}</td></tr>'


class Printer(Protocol):
    """IPython's printer, as far as it is used."""

    def text(self, text: str) -> None:
        """Print text."""


class Shown:
    """Shows itself as a card; what inherits from it says by `_card` what is on it.

    Looking never raises one of our own errors: a table that was closed meanwhile says so on the card.
    """

    __slots__ = ()

    def _card(self) -> Card:
        raise TypeError(f"{type(self).__name__} must say what is on its card")

    def _card_or_trouble(self) -> Card:
        try:
            return self._card()
        except V6KitError as error:
            return Card(type(self).__name__, warnings=[str(error)])

    def __repr__(self) -> str:
        return self._card_or_trouble().text()

    def _repr_html_(self) -> str:
        return self._card_or_trouble().html()


def span(time: timedelta) -> str:
    """Return a duration in the two largest units that matter: `4.2 s`, `11 min 4 s`, `2 h 5 min`, `3 d 2 h`."""
    seconds = time.total_seconds()
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{math.floor(seconds * 10) / 10:.1f} s"
    whole = int(seconds)
    for unit, size, part, part_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part_size
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def utc(at: datetime) -> str:
    """Return an instant, aware UTC, to the second: `2026-11-22 14:32:05 UTC`."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def number(value: float | None, form: str = ",.2f") -> str:
    """Return a number as text; nothing for `None`."""
    return "" if value is None else format(value, form)


def counted(count: int, one: str, many: str = "") -> str:
    """Return how many there are: `1 leg`, `2,000 legs`, `3 strategies`.

    Args:
        count: How many.
        one: What one is called.
        many: What several are called, if that is not `one` with an `s`.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def unknown(name: str, value: object, known: Iterable[str]) -> ValueError:
    """Return the error about a value that is none of those there are: names it, them, and which may be meant.

    Args:
        name: Of the argument or setting.
        value: What was given.
        known: What there is.
    """
    names = list(known)
    near = difflib.get_close_matches(str(value), names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{name} must be one of {', '.join(names) or 'none'}, got {value!r}{guess}")


def among(wanted: str, known: Iterable[str], there: str = "known") -> str:
    """Return what to say after "there is no such name; ": near matches, and which names are `there`."""
    names = list(known)
    near = difflib.get_close_matches(wanted, names, n=3)
    guess = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    told = ", ".join(names[:_NAMES_TOLD]) or "none"
    more = f", and {len(names) - _NAMES_TOLD:,} more" if len(names) > _NAMES_TOLD else ""
    return f"{guess}{there} are {told}{more}"


def _cut(text: str) -> str:
    return text if len(text) <= _CELL_LENGTH else f"{text[:_CELL_LENGTH]}…"


def _plain(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def _safe(text: str) -> str:
    return escape(_plain(text))
