"""The doctor's look at the tables themselves: are they there, are they ours, are they whole, are they kept in shape.

Reads through `Store.open`, which neither creates nor changes anything.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from v6kit.cli.findings import Finding, Level, fail, ok, warn
from v6kit.display import counted
from v6kit.errors import SchemaMismatchError, StorageError, TableMissingError
from v6kit.ledger import Horizon, TableSpec, newest_per_key, snapshot
from v6kit.ledger.durability import is_torn
from v6kit.ledger.opening import read_origin
from v6kit.ledger.place import is_local
from v6kit.ledger.store import SCHEMA_PROPERTY, Store
from v6kit.ledger.upkeep import COMMITS_PER_TURN, TARGET_BYTES
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry

SPECS: tuple[TableSpec[Any], ...] = (StrategyRegistry.SPEC, PositionQueue.SPEC, PositionBook.SPEC)
TURNS_MISSED = 3  # short-lived processes may miss one; after three, upkeep fails or never runs
CHECK_STORE = "check the address, and the credentials in the environment"
CHECK_FOLDER = "see who owns the folder; if it is damaged, restore it from a backup"
MEND = "open a desk on this lake: the table goes on from what was whole, and the rest is moved aside"


class Table(NamedTuple):
    """A table that could be read.

    Attributes:
        rows: The newest row of each key; of finished requests only those that the snapshot still holds.
        properties: The table's own, e.g. why the queue is paused.
    """

    rows: pl.DataFrame
    properties: dict[str, str]


def check_place(uri: str) -> Finding | None:
    """Return why there can be no lake here, or `None`; an object store answers only when its tables are opened."""
    if not is_local(uri):
        return None
    path = Path(uri)
    if not path.exists():
        return fail(
            "lake", "there is nothing at this path", f"check it, or make a lake: v6kit demo --lake {shlex.quote(uri)}"
        )
    if not path.is_dir():
        return fail("lake", "this is a file, but a lake is a folder", "choose the folder that holds the three tables")
    return None


def check_tables(uri: str) -> tuple[list[Finding], dict[str, Table]]:
    """Return what there is to say about the three tables, and those that could be read, by name."""
    seen: list[Finding] = []
    tables: dict[str, Table] = {}
    missing: list[str] = []
    for spec in SPECS:
        store = Store(f"{uri}/{spec.name}")
        if is_local(store.uri) and is_torn(Path(store.uri)):
            seen.append(warn(spec.name, "a power cut has torn the end of its log", MEND))
            continue
        try:
            store.open()
            if (foreign := _check_schema(store, spec)) is not None:
                seen.append(foreign)
                continue
            seen += _check_shape(store, spec)
            tables[spec.name] = Table(_newest(store, spec), store.properties)
        except TableMissingError:
            missing.append(spec.name)
        except StorageError as error:
            seen.append(fail(spec.name, str(error), CHECK_STORE if not is_local(uri) else CHECK_FOLDER))
    return seen + _check_missing(uri, missing), tables


def read_newest(uri: str, spec: TableSpec[Any]) -> pl.DataFrame:
    """Return the newest row of each key of one of a lake's tables, as `spec` has it; an older schema will do.

    Raises:
        StorageError: It is not there, not of this kind, or cannot be read.
    """
    store = Store(f"{uri}/{spec.name}")
    store.open()
    foreign = _check_schema(store, spec)
    if foreign is not None and foreign.level is Level.FAIL:
        raise SchemaMismatchError(f"the table at {store.uri}: {foreign.text}; {foreign.advice}")
    return _newest(store, spec)


def _newest(store: Store, spec: TableSpec[Any]) -> pl.DataFrame:
    return newest_per_key(pl.concat([spec.empty(), *read_origin(store, spec, {}).batches]), spec.key)


def _check_missing(uri: str, missing: list[str]) -> list[Finding]:
    if len(missing) == len(SPECS):
        return [
            fail(
                "lake", "none of the three tables is here", f"check the path, or: v6kit demo --lake {shlex.quote(uri)}"
            )
        ]
    return [_check_remains(f"{uri}/{name}", name) for name in missing]


def _check_remains(uri: str, name: str) -> Finding:
    """Tell a table that was not made yet from one whose log is gone."""
    remains = (
        [] if not is_local(uri) or not Path(uri).is_dir() else [path for path in Path(uri).rglob("*") if path.is_file()]
    )
    if remains:
        return fail(
            name,
            f"{counted(len(remains), 'file')}, but no Delta log that could be read: no table, or the log was lost",
            "restore this folder from a backup, or move it away to begin anew",
        )
    return warn(name, "not there yet", "nothing to do: it is made when a desk opens this lake")


def _check_schema(store: Store, spec: TableSpec[Any]) -> Finding | None:
    """Return why this is not the table that belongs here, or `None`."""
    kind, _, version = store.properties.get(SCHEMA_PROPERTY, "").partition("/")
    have = store.empty().schema
    if kind != spec.name:
        owner = f"a {kind!r} ledger" if kind else f"another tool's table (columns: {', '.join(have.names())})"
        return fail(spec.name, f"this is {owner}; v6kit does not touch it", "move it away, or choose another lake")
    if not version.isdigit() or int(version) > spec.version:
        return fail(spec.name, f"schema {version or '?'}, but this v6kit knows up to {spec.version}", "update v6kit")
    if int(version) < spec.version:
        return warn(spec.name, f"schema {version} is an older one", "nothing to do: the next desk migrates it")
    different = [name for name, kind_ in spec.columns.items() if have.get(name) != kind_]
    if different:
        return fail(
            spec.name, f"columns are missing or of another type: {', '.join(different)}", "restore it from a backup"
        )
    return None


def _check_shape(store: Store, spec: TableSpec[Any]) -> list[Finding]:
    """Return a line on what the table holds and since when, and one on its upkeep."""
    files = store.files()
    if lost := _lost_files(store, files):
        raise StorageError(f"{len(lost)} of {files.height} data files are missing, such as {lost[0]}")
    rows = int(files["num_records"].sum()) if "num_records" in files.columns else 0
    much = f"{counted(rows, 'row')} in {counted(files.height, 'file')}"
    holds = f"Delta version {store.version}, schema {spec.version}; {much}"
    if (horizon := Horizon.of(store.properties)) is not None:
        holds += f"; history since {horizon.at:%Y-%m-%d %H:%M} UTC"
    return [ok(spec.name, holds), _check_upkeep(store, spec, snapshot.read(store, spec, {}))]


def _lost_files(store: Store, files: pl.DataFrame) -> list[str]:
    if not is_local(store.uri):
        return []  # asking an object store for each file would take too long; reading tells
    return [path for path in files["path"] if not Path(store.uri, path).is_file()]


def _check_upkeep(store: Store, spec: TableSpec[Any], kept: snapshot.Snapshot | None) -> Finding:
    small = store.shape(TARGET_BYTES).small_files
    overdue = TURNS_MISSED * COMMITS_PER_TURN
    facts = [counted(small, "small file")]
    if is_local(store.uri):
        entries = list(Path(store.uri, "_delta_log").glob("*.json"))
        facts.append(counted(len(entries), "log entry", "log entries"))
    facts.append(f"snapshot at seq {kept.seq}" if kept else "no snapshot yet")
    text = f"upkeep: {', '.join(facts)}; due every {COMMITS_PER_TURN} versions"
    if small > overdue or (store.version > overdue and kept is None):
        return warn(spec.name, text, "it is overdue: keep a desk or a worker open on this lake, and read its warnings")
    return ok(spec.name, text)
