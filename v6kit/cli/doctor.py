"""`v6kit doctor`: checks a lake, and a gateway if one is named, without changing either.

Owns the order of the checks and the verdict. What is checked is in `doctor_tables`, `doctor_contents` and
`doctor_gateway`.
"""

from __future__ import annotations

from collections import Counter

from v6kit.cli import doctor_contents, doctor_tables, findings, terminal
from v6kit.cli.doctor_gateway import check_gateway
from v6kit.cli.findings import Finding, Level
from v6kit.clock import Clock
from v6kit.desk import parse_address
from v6kit.ledger import normalise


def run(lake: str, *, broker: str | None, client_id: int) -> int:
    """Print all findings; return 1 if something failed, 0 otherwise."""
    console = terminal.console()
    terminal.show_warnings(console)
    address = parse_address(broker) if broker is not None else None
    uri = normalise(lake)
    terminal.say(console, f"Lake {uri}")
    seen = check_lake(uri)
    findings.show(seen, console)
    if address is not None:
        terminal.say(console, f"\nGateway {broker}")
        about_gateway = terminal.run(check_gateway(*address, client_id=client_id, clock=Clock()))
        findings.show(about_gateway, console)
        seen += about_gateway
    terminal.say(console, "\n" + verdict(seen))
    return int(any(each.level is Level.FAIL for each in seen))


def check_lake(uri: str) -> list[Finding]:
    """Return what there is to say about the lake at this place."""
    if (nowhere := doctor_tables.check_place(uri)) is not None:
        return [nowhere]
    seen, tables = doctor_tables.check_tables(uri)
    return seen + doctor_contents.check_contents(tables, Clock().now(), uri)


def verdict(seen: list[Finding]) -> str:
    """Return the last line."""
    counts = Counter(each.level for each in seen)
    if counts[Level.FAIL]:
        return f"{counts[Level.FAIL]} failed, {counts[Level.WARN]} to look at, {counts[Level.OK]} ok."
    if counts[Level.WARN]:
        return f"It works; {counts[Level.WARN]} to look at, {counts[Level.OK]} ok."
    return f"All is well: {counts[Level.OK]} ok."
