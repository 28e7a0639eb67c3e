"""The form that puts a strategy together: underlying, expiry, shape, strikes, quantity; and the code it stands for.

State only: it asks for nothing. What it needs from the gateway, its panel fetches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from v6kit.contracts import DEFAULT_STRATEGY_PRIORITY, Instrument, Leg, OptionSeries, Right, check_float, check_int
from v6kit.desk.structures import STRUCTURES, Role, Structure, first_strikes, legs_of, strikes_of, with_wings
from v6kit.display import unknown
from v6kit.panels import formats, parts
from v6kit.panels.parts import Field, Part

_CODE = """\
legs = [
{legs}
]
await desk.registry.add_strategy({name!r}, legs, {how})"""
_ANY = "any"  # of the login's accounts
_REVERSED = {"long": "short", "short": "long"}
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")  # any other comma may be somebody's decimal point


@dataclass(slots=True)
class Form:
    """What has been filled in so far.

    Attributes:
        strategy_id: Under which it will be registered.
        hint: An underlying that might be meant.
        symbol: The underlying; empty until one is chosen.
        price: Of the underlying, if it is known.
        series: What is listed on it.
        chosen: The series whose chain is shown.
        chain: Its options.
        shape: A key of `STRUCTURES`.
        strikes: By role.
        width: Between a role and its wing; `None` once a wing was chosen by hand.
        delta: The size of the delta that chosen strikes were looked for by, if they were.
        quantity: Signed.
        accounts: Of the login; there is something to choose if there are several.
        account: That is to hold the legs; `None`: any. At first the first of several.
        priority: 1 goes before 2 where there are not enough lines for all.
    """

    strategy_id: str = ""
    hint: str = ""
    symbol: str = ""
    price: float | None = None
    series: Sequence[OptionSeries] = ()
    chosen: OptionSeries | None = None
    chain: Sequence[Instrument] = ()
    shape: str = "iron_condor"
    strikes: dict[str, float] = field(default_factory=dict)
    width: float | None = None
    delta: float | None = None
    quantity: float = 1.0
    accounts: Sequence[str] = ()
    account: str | None = field(init=False)
    priority: int = DEFAULT_STRATEGY_PRIORITY

    def __post_init__(self) -> None:
        self.account = self.accounts[0] if len(self.accounts) > 1 else None

    @property
    def key(self) -> str:
        """What the strategy's row will be called, as `frames.strategies` does."""
        return self.strategy_id if self.account is None else f"{self.strategy_id}@{self.account}"

    @property
    def structure(self) -> Structure:
        """The shape."""
        return STRUCTURES[self.shape]

    # --- filling in ---------------------------------------------------------------------------------------------

    def fill(self, name: str, value: str) -> None:
        """Take in what was typed or chosen in a field that asks the gateway for nothing.

        Raises:
            ValueError: The value is none for this field, or there is no such field.
        """
        takes: dict[str, Callable[[str], None]] = {
            "strategy_id": self._name,
            "shape": self._reshape,
            "width": self._widen,
            "quantity": self._count,
            "account": self._bind,
            "priority": self._rank,
        }
        if name in takes:
            takes[name](value)
        elif name in {role.name for role in self.structure.roles}:
            self.put({name: _number(name, value)})
        else:
            raise unknown("field", name, [each.name for each in self._fields(date.min)])

    def list_series(self, symbol: str, series: Sequence[OptionSeries], price: float | None) -> None:
        """Take in what is listed on a symbol; a chain of another symbol goes."""
        self.symbol, self.series, self.price = symbol, series, price
        self.chosen, self.chain, self.strikes, self.delta = None, (), {}, None

    def take_chain(self, series: OptionSeries, chain: Sequence[Instrument]) -> None:
        """Take in the options of the chosen series, and begin with strikes near the money."""
        self.chosen, self.chain, self.delta = series, chain, None
        self._begin()

    def find_series(self, label: str) -> OptionSeries:
        """Return the series that a choice, or an expiry, stands for.

        Raises:
            ValueError: It is not listed, or in several classes, which settle at different times.
        """
        named = [each for each in self.series if label == _series_name(each)]
        found = named or [each for each in self.series if label == each.expiry]
        if len(found) > 1:
            raise ValueError(f"expiry {label} is listed in several classes: {', '.join(map(_series_name, found))}")
        if not found:
            raise unknown("expiry", label, map(_series_name, self.series))
        return found[0]

    def wanted_delta(self, value: str) -> float:
        """Return the size of the delta that was typed.

        Raises:
            ValueError: It is no number, or there are no options yet to look for it among.
        """
        if not self.chain:
            raise ValueError("choose an expiry first: the delta is looked for among its options")
        return _number("delta", value)

    def put(self, strikes: dict[str, float]) -> None:
        """Choose strikes; wings follow at their width, until one of them was chosen itself."""
        self.strikes |= strikes
        if any(role.wing for role in self.structure.roles if role.name in strikes):
            self.width = None
        elif self.width is not None:
            self.strikes = with_wings(self.structure, self.chain, self.strikes, self.width)

    def _name(self, value: str) -> None:
        self.strategy_id = value.strip()

    def _reshape(self, value: str) -> None:
        if value not in STRUCTURES:
            raise unknown("shape", value, STRUCTURES)
        self.shape, self.delta = value, None
        self._begin()

    def _begin(self) -> None:
        self.strikes = first_strikes(self.structure, self.chain, self.price) if self.chain else {}
        self.width = self._distance()

    def _distance(self) -> float | None:
        """Return how far all wings lie from what they protect, or `None` if they differ."""
        apart = set(self._wings().values())
        return apart.pop() if len(apart) == 1 else None

    def _wings(self) -> dict[str, float]:
        """Return how far each wing lies from what it protects, by role."""
        found = {}
        for at, role in enumerate(self.structure.roles):
            beside = self.structure.roles[at - role.wing].name
            if role.wing and role.name in self.strikes and beside in self.strikes:
                found[role.name] = abs(self.strikes[role.name] - self.strikes[beside])
        return found

    def _widen(self, value: str) -> None:
        self.width = check_float("width", _number("width", value), above=0.0)
        self.strikes = with_wings(self.structure, self.chain, self.strikes, self.width)

    def _count(self, value: str) -> None:
        self.quantity = _number("quantity", value)

    def _bind(self, value: str) -> None:
        if value not in (*self.accounts, _ANY):
            raise unknown("account", value, (*self.accounts, _ANY))
        self.account = None if value == _ANY else value

    def _rank(self, value: str) -> None:
        try:
            self.priority = check_int("priority", int(value))
        except ValueError:
            raise ValueError(f"priority must be a whole number, and 1 goes first, got {value!r}") from None

    # --- what comes of it ---------------------------------------------------------------------------------------

    def legs(self) -> list[Leg]:
        """Return the legs.

        Raises:
            ValueError: Something is missing or wrong; says what.
        """
        if not self.symbol:
            raise ValueError("choose an underlying")
        if self.chosen is None:
            raise ValueError("choose an expiry" if self.series else f"no options are listed on {self.symbol}")
        if not self.strategy_id:
            raise ValueError("give the strategy an id")
        for name, apart in self._wings().items():
            if self.width is not None and not math.isclose(apart, self.width):
                raise ValueError(
                    f"no {name} is listed {self.width:g} away; the nearest is {apart:g} away, at "
                    f"{self.strikes[name]:g}: choose another width, or choose that strike"
                )
        return legs_of(self.structure, self.chain, self.strikes, self.quantity)

    def lacks(self) -> str:
        """Return what is missing or wrong, in words; empty when it can be registered."""
        try:
            self.legs()
        except ValueError as error:
            return str(error)
        return ""

    @property
    def code(self) -> str:
        """The Python that registers it; empty until it is complete."""
        if self.lacks():
            return ""
        told = [
            {"conid": leg.conid, "symbol": leg.symbol, "right": str(leg.right), "strike": _plain(leg.strike or 0.0),
             "expiry": leg.expiry, "quantity": _plain(leg.quantity)}
            for leg in self.legs()
        ]  # fmt: skip
        how = {"kind": self.structure.kind, **self.options}
        return _CODE.format(
            legs="\n".join(f"    {each!r}," for each in told),
            name=self.strategy_id,
            how=", ".join(f"{name}={value!r}" for name, value in how.items()),
        )

    @property
    def options(self) -> dict[str, Any]:
        """What `add_strategy` is told besides; nothing that is its default."""
        bound = {} if self.account is None else {"account": self.account}
        return bound if self.priority == DEFAULT_STRATEGY_PRIORITY else bound | {"priority": self.priority}

    def part(self, today: date) -> Part:
        """Return what the page draws."""
        rows: list[list[str]] = []
        if not self.lacks():
            for leg in self.legs():
                number = formats.number(leg.quantity, signed=True)
                rows.append([number, leg.label(), "bought" if leg.quantity > 0 else "sold", str(leg.conid)])
        return parts.form(self._fields(today), ["qty", "leg", "", "conid"], rows, self.code, self.lacks())

    def _fields(self, today: date) -> list[Field]:
        shapes = [(name, each.title) for name, each in STRUCTURES.items()]
        series = [(_series_name(each), _series_label(each, today, self.symbol)) for each in self.series]
        accounts = [(each, each) for each in (*self.accounts, _ANY)]
        quoted = f"underlying · {formats.number(self.price, 2)}" if self.price is not None else "underlying"
        fields = [
            Field("symbol", quoted, self.symbol, hint=self.hint),
            Field("expiry", "expiry", _series_name(self.chosen) if self.chosen else "", choices=series),
            Field("shape", "strategy", self.shape, choices=shapes),
        ]
        for role in self.structure.roles:
            strikes = [f"{strike:g}" for strike in strikes_of(self.chain, role.right)] if self.chain else []
            value = f"{self.strikes[role.name]:g}" if role.name in self.strikes else ""
            fields.append(Field(role.name, self._title(role), value, choices=[(each, each) for each in strikes]))
        if any(role.wing for role in self.structure.roles):
            fields.append(Field("width", "width", "" if self.width is None else f"{self.width:g}"))
        return [
            *fields,
            Field("delta", "at Δ", "" if self.delta is None else f"{self.delta:g}"),
            Field("quantity", "quantity", f"{self.quantity:g}"),
            Field("strategy_id", "id", self.strategy_id),
            *([Field("account", "account", self.account or _ANY, choices=accounts)] if len(accounts) > 2 else []),  # noqa: PLR2004 - with one account there is nothing to choose
            Field("priority", "priority", str(self.priority)),
        ]

    def _title(self, role: Role) -> str:
        """Return what a leg is called: the other way round, what was long is short."""
        side, _, right = role.name.rpartition(" ")
        return f"{_REVERSED[side]} {right}" if side and self.quantity < 0 else role.name

    def looked_for(self) -> list[tuple[str, Right]]:
        """Return the roles whose strikes are looked for by delta."""
        return [(role.name, role.right) for role in self.structure.roles if not role.wing]


def _series_name(series: OptionSeries) -> str:
    return f"{series.expiry} {series.trading_class}"


def _series_label(series: OptionSeries, today: date, symbol: str) -> str:
    day = date(int(series.expiry[:4]), int(series.expiry[4:6]), int(series.expiry[6:]))
    other = f" {series.trading_class}" if series.trading_class != symbol else ""
    return f"{day:%Y-%m-%d}{other} · {(day - today).days} d"


def _plain(number: float) -> float:
    """Return a number as one writes it: 470, and not 470.0."""
    return int(number) if number.is_integer() else number


def _number(name: str, value: str) -> float:
    text = value.strip().replace("−", "-")
    try:
        return check_float(name, float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text))
    except ValueError:
        raise ValueError(f"{name} must be a number, got {value!r}") from None
