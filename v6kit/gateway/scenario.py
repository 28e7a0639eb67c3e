"""A scenario: what happens to a simulated gateway, and when. Written in TOML or in Python, and checked when it is read.

    zone = "America/New_York"
    start = 2026-11-20T09:20:00

    [[event]]
    at = "11:00"                    # on the clock of the zone; or after = "5 min", counted from the start
    action = "halt"                 # a method of `Moods`
    symbol = "AAPL"                 # its arguments, by name
    until = "11:05"                 # or for = "5 min": what has an end may be given one

Owns no time and no gateway: `schedule` is a pure function of the instant at which it is played. Playing is `player`.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from v6kit.contracts import check_text
from v6kit.gateway.moods import CHECKS, Moods
from v6kit.gateway.naming import ContractName

ZONE = "America/New_York"
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
ENDS = {
    "halt": "resume",
    "begin_competing_session": "end_competing_session",
    "break_farm": "restore_farm",
    "take_lines": "give_lines_back",
}
"""What may end by itself, and the action that ends it, with the same arguments."""

ACTIONS: Mapping[str, tuple[inspect.Parameter, ...]] = {
    name: tuple(inspect.signature(method).parameters.values())[1:]
    for name, method in vars(Moods).items()
    if inspect.isfunction(method) and not name.startswith("_")
}
"""The methods of `Moods` and their parameters; where one takes a conid, an event has a `contract`."""

TIMING = ("at", "after", "until", "for")


@dataclass(frozen=True, init=False)
class Event:
    """One thing that happens, checked when it is made.

    Args:
        action: The name of a method of `Moods`.
        at: When: a time of day in the scenario's zone, `"HH:MM"`, `"HH:MM:SS"` or a `time`.
        after: Instead of `at`: how long after the scenario's start, in seconds, as a `timedelta`, or `"90 s"`,
            `"5 min"`, `"1 h"`.
        until: When it ends, like `at`; for what can end by itself (`ENDS`).
        lasts: Instead of `until`: how long it lasts, like `after`. In TOML, `for`.
        arguments: Those of the method, by name; a `contract` (see `ContractName`) where it takes a conid.

    Raises:
        TypeError: An argument is of the wrong kind; names it and its value.
        ValueError: The action, an argument or an instant is wrong; names it, its value, and what is allowed.

    Example:
        >>> Event("halt", at="10:00", until="10:05", symbol="SPY").until
        datetime.time(10, 5)
    """

    action: str
    at: time | None
    after: timedelta | None
    until: time | None
    lasts: timedelta | None
    arguments: Mapping[str, object]

    def __init__(
        self,
        action: str,
        *,
        at: str | time | None = None,
        after: str | float | timedelta | None = None,
        until: str | time | None = None,
        lasts: str | float | timedelta | None = None,
        **arguments: object,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
        if (at is None) == (after is None):
            raise ValueError(f"an event needs either at or after, got at={at!r} and after={after!r}")
        if until is not None and lasts is not None:
            raise ValueError(f"an event ends either until or for, got until={until!r} and for={lasts!r}")
        if action not in ENDS and (until is not None or lasts is not None):
            name, value = ("until", until) if until is not None else ("for", lasts)
            raise ValueError(f"{name} is allowed for {', '.join(ENDS)} only, got {value!r} for {action}")
        self._put("action", action)
        self._put("at", None if at is None else parse_time("at", at))
        self._put("after", None if after is None else parse_duration("after", after))
        self._put("until", None if until is None else parse_time("until", until))
        self._put("lasts", None if lasts is None else parse_duration("for", lasts))
        self._put("arguments", _check_arguments(action, arguments))
        if self.at is not None and self.until is not None and self.until <= self.at:
            raise ValueError(f"until must be later than at, {self.at}; got {self.until}")

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # a frozen dataclass has no other door


class Planned(NamedTuple):
    """What is due at an instant.

    Attributes:
        at: In UTC.
        number: Of its event in the scenario, from 1.
        action: The method that is called; for an end, the one that ends the event's.
    """

    at: datetime
    number: int
    action: str
    arguments: Mapping[str, object]


@dataclass(frozen=True)
class Scenario:
    """What happens, in the order in which it is written; `SimulatedGateway.play` plays it.

    Args:
        events: What happens.
        start: When the scenario begins, e.g. `"2026-11-20 09:20"`; without a zone of its own it is in `zone`. Default:
            the instant at which it is played.
        end: When it is over, a time of day like an event's `at`. Default: with its last event.
        zone: Of all times of day, a name of the IANA time zone database.
        name: What messages call it.

    Raises:
        TypeError: An argument is of the wrong kind; names it and its value.
        ValueError: An argument is wrong; names it and its value.

    Example:
        >>> Scenario([Event("halt", after="5 min", symbol="SPY")]).name
        'scenario'
        >>> len(Scenario.load("trading_day").events) > 10
        True
    """

    events: Sequence[Event]
    start: datetime | None = None
    end: time | None = None
    zone: str = ZONE
    name: str = field(default="scenario", compare=False)

    def __post_init__(self) -> None:
        """Bring each argument into its own type."""
        self._put("events", tuple(self.events))
        try:
            zone = ZoneInfo(check_text("zone", self.zone))
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"zone must be a time zone such as {ZONE}, got {self.zone!r}") from error
        if self.start is not None:
            self._put("start", _parse_start(self.start, zone))
        if self.end is not None:
            self._put("end", parse_time("end", self.end))

    @classmethod
    def load(cls, source: str | Path) -> Scenario:
        """Read a scenario from a TOML file, or one that comes with v6kit by its name.

        Args:
            source: A path that ends with `.toml`, or a name such as `trading_day`.

        Raises:
            ValueError: There is no such scenario, it is no TOML, or something in it is wrong: names the file, the
                event, the field, its value and what is allowed.
        """
        path = Path(source)
        if path.suffix != ".toml":
            path = _built_in(str(source))
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path.name} cannot be read as a scenario: {error}") from error
        return _from_table(table, path)

    def schedule(self, now: datetime) -> list[Planned]:
        """Return all that happens when the scenario is played from an instant on, in the order of time.

        Args:
            now: Aware. Stands in for a `start` that was not given.
        """
        start = self._start(now)
        planned: list[Planned] = []
        for number, event in enumerate(self.events, 1):
            begins = self._at(start, event.at) if event.after is None else start + event.after
            planned.append(Planned(begins, number, event.action, event.arguments))
            ends = begins + event.lasts if event.lasts is not None else self._at(start, event.until)
            if event.lasts is not None or event.until is not None:
                if ends <= begins:
                    raise ValueError(f"{self.name}, event {number} ({event.action}): until must come after its begin")
                planned.append(Planned(ends, number, ENDS[event.action], event.arguments))
        return sorted(planned, key=lambda each: each.at)

    def ends_at(self, now: datetime) -> datetime:
        """Return when the scenario is over, played from an instant on, in UTC."""
        last = max((each.at for each in self.schedule(now)), default=self._start(now))
        return last if self.end is None else max(last, self._at(self._start(now), self.end))

    def _start(self, now: datetime) -> datetime:
        return (self.start or now).astimezone(UTC)

    def _at(self, start: datetime, at: time | None) -> datetime:
        day = start.astimezone(ZoneInfo(self.zone)).date()
        return datetime.combine(day, at or time(), ZoneInfo(self.zone)).astimezone(UTC)

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # a frozen dataclass has no other door


def built_in() -> list[str]:
    """Return the names of the scenarios that come with v6kit."""
    folder = resources.files("v6kit.gateway") / "scenarios"
    return sorted(Path(each.name).stem for each in folder.iterdir() if each.name.endswith(".toml"))


def parse_time(name: str, value: object) -> time:
    """Return a time of day."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?", value):
        try:
            return time.fromisoformat(value)
        except ValueError:
            pass  # 25:00: said below
    elif isinstance(value, time) and value.tzinfo is None:
        return value
    raise ValueError(f"{name} must be a time of day such as 09:30 or 09:30:15, got {value!r}")


def parse_duration(name: str, value: object) -> timedelta:
    """Return a duration of 0 seconds or more."""
    if isinstance(value, timedelta) and value >= timedelta(0):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < timedelta.max.total_seconds():
        return timedelta(seconds=value)
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{name} must be seconds, 0 or more, or a text such as 90 s, 5 min or 1 h; got {value!r}")
    return timedelta(seconds=float(found[1]) * SECONDS[found[2]])


def _parse_start(value: object, zone: ZoneInfo) -> datetime:
    try:
        start = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        start = None
    if not isinstance(start, datetime):
        raise ValueError(  # noqa: TRY004 - a text that is no date and a number are the same mistake in a file
            f"start must be a date and time such as 2026-11-20 09:20, got {value!r}"
        )
    return start if start.tzinfo else start.replace(tzinfo=zone)


def _check_arguments(action: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
    parameters = {"contract" if each.name == "conid" else each.name: each for each in ACTIONS[action]}
    for name, value in arguments.items():
        if name not in parameters:
            allowed = ", ".join(("action", *TIMING, *parameters))
            raise ValueError(f"{name} is no field of {action}, got {value!r}; allowed are {allowed}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ValueError(f"{name} is needed for {action}, got none; its fields are {', '.join(parameters)}")
    return {
        name: ContractName.parse(value) if name == "contract" else CHECKS[name](name, value)
        for name, value in arguments.items()
    }


def _built_in(name: str) -> Path:
    if name not in built_in():
        raise ValueError(
            f"scenario must be a path that ends with .toml or one of {', '.join(built_in())}, got {name!r}"
        )
    return Path(str(resources.files("v6kit.gateway") / "scenarios" / f"{name}.toml"))


def _from_table(table: Mapping[str, Any], path: Path) -> Scenario:
    for name, value in table.items():
        if name not in ("zone", "start", "end", "event"):
            allowed = "zone, start, end and [[event]]"
            raise ValueError(f"{path.name}: {name} is no field of a scenario, got {value!r}; allowed are {allowed}")
    written = table.get("event", [])
    if not isinstance(written, list) or not all(isinstance(each, dict) for each in written):
        raise ValueError(f"{path.name}: event must be tables, each below a line [[event]], got {written!r}")
    events = [_event(path, number, each) for number, each in enumerate(written, 1)]
    settings = {name: value for name, value in table.items() if name != "event"}
    try:
        return Scenario(events, name=path.stem, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _event(path: Path, number: int, written: Mapping[str, Any]) -> Event:
    if "lasts" in written:
        raise ValueError(f"{path.name}, event {number}: lasts is written for in TOML, got {written['lasts']!r}")
    fields = {("lasts" if name == "for" else name): value for name, value in written.items()}
    action = fields.pop("action", None)
    try:
        return Event(action, **fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}, event {number} ({action}): {error}") from error
