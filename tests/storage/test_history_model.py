"""Random pasts of a plain Delta table against the simplest model there is: a list of all its states."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v6kit.errors import VersionUnavailableError
from v6kit.history import TableHistory

KINDS = {"n": pl.Int64(), "p": pl.String(), "x": pl.String(), "y": pl.Float64()}
KEYS = range(4)
Row = tuple[Any, ...]
State = dict[int, Row]  # n → the whole row

texts = st.sampled_from(["a", "O'b", '"<b>"', None])
rows = st.dictionaries(
    st.sampled_from(KEYS),
    st.tuples(st.sampled_from(["k", "l m"]), texts, st.sampled_from([0.0, 1.5, None])),
    max_size=4,
)
steps = st.one_of(
    st.tuples(st.just("append"), rows),
    st.tuples(st.just("overwrite"), rows),
    st.tuples(st.just("merge"), rows),
    st.tuples(st.just("delete"), st.sampled_from(KEYS)),
    st.tuples(st.just("update"), st.sampled_from(KEYS)),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("vacuum"), st.none()),
)


class Seen(NamedTuple):
    """One version in the model."""

    state: State
    is_readable: bool


def frame(some: State) -> pl.DataFrame:
    """Return rows as they are written."""
    return pl.DataFrame(list(some.values()), schema=KINDS, orient="row")


def write(place: Path, step: str, what: Any, state: State, partition_by: list[str] | None) -> State:
    """Do one step to the table, and return what it must hold afterwards."""
    given_rows: State = {n: (n, *row) for n, row in what.items()} if isinstance(what, dict) else {}
    if step == "append":
        new = {n: row for n, row in given_rows.items() if n not in state}
        write_deltalake(place, frame(new), mode="append", partition_by=partition_by)
        return state | new
    if step == "overwrite":
        write_deltalake(place, frame(given_rows), mode="overwrite", partition_by=partition_by)
        return given_rows
    table = DeltaTable(place)
    if step == "merge":
        merge = table.merge(pa.table(frame(given_rows)), "t.n = s.n", "s", "t")
        merge.when_matched_update_all().when_not_matched_insert_all().execute()
        return state | given_rows
    if step == "delete":
        table.delete(f"n = {what}")
        return {n: row for n, row in state.items() if n != what}
    if step == "update":
        table.update(new_values={"x": "new"}, predicate=f"n = {what}")
        return {n: (*row[:2], "new", row[3]) if n == what else row for n, row in state.items()}
    if step == "compact":
        table.optimize.compact()
    else:
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    return state


def expected_diff(before: State, after: State) -> list[Row]:
    """Return sign, key, and the new and the old values."""
    nothing = (None,) * len(KINDS)
    signs = [
        ("+" if n not in before else "-" if n not in after else "~", n, after.get(n, nothing), before.get(n, nothing))
        for n in before.keys() | after.keys()
        if before.get(n) != after.get(n)
    ]
    return [
        (sign, n, *itertools.chain(*zip(new[1:], old[1:], strict=True)))
        for sign, n, new, old in sorted(signs, key=lambda s: s[:2])
    ]


def expected_timeline(past: list[Seen], n: int) -> list[Row]:
    """Return sign, version and values of each state that differs from the one before, and each gap."""
    line: list[Row] = []
    known: Row | None = None
    is_gap = False
    for version, seen in enumerate(past):
        row = seen.state.get(n)
        if not seen.is_readable:
            if not is_gap:
                line.append(("?", version, None))
            is_gap = True
            continue
        if row is None and (known is not None or is_gap):
            line.append(("-", version, None))
        elif row is not None and is_gap:
            line.append(("=", version, row))
        elif row is not None and row != known:
            line.append(("+" if known is None else "~", version, row))
        known, is_gap = row, False
    return line


def expected_blame(past: list[Seen], upto: int) -> dict[tuple[int, str], tuple[int, bool]]:
    """Return of each value the version since which it is so, and whether it may have been so before."""
    since: dict[tuple[int, str], tuple[int, bool]] = {}
    before: State = {}
    is_gap = False
    for version, seen in enumerate(past[: upto + 1]):
        if not seen.is_readable:
            is_gap = True
            continue
        fresh = {}
        for n, row in seen.state.items():
            for name, value, old in zip(list(KINDS)[1:], row[1:], before.get(n, row)[1:], strict=True):
                is_same = n in before and value == old and not is_gap
                fresh[n, name] = since[n, name] if is_same else (version, is_gap)
        since, before, is_gap = fresh, seen.state, False
    return since


def readable_files(place: Path, version: int) -> bool:
    """Tell whether a version can be read, by reading it."""
    try:
        DeltaTable(place, version=version).to_pyarrow_table()
    except FileNotFoundError:
        return False
    return True


@pytest.mark.timeout(300)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=st.lists(steps, min_size=1, max_size=9), is_partitioned=st.booleans())
def test_the_past_of_a_plain_table_is_what_a_list_of_its_states_says(script, is_partitioned):
    """Versions, states, differences, timelines and blame, of readable and of vacuumed versions."""
    partition_by = ["p"] if is_partitioned else None
    with TemporaryDirectory() as folder:
        place = Path(folder, "table")
        state: State = {}
        write_deltalake(place, frame(state), partition_by=partition_by)
        states = [state]
        for step, what in script:
            state = write(place, step, what, state, partition_by)
            states += [state] * (DeltaTable(place).version() + 1 - len(states))  # a vacuum makes two versions
        past = [Seen(each, readable_files(place, version)) for version, each in enumerate(states)]
        check(place, past)


def check(place: Path, past: list[Seen]) -> None:
    """Compare every answer."""
    by_key, by_row = TableHistory(place, "n"), TableHistory(place)
    versions = by_key.versions()
    assert versions["version"].to_list() == list(range(len(past)))
    assert versions["readable"].to_list() == [seen.is_readable for seen in past]
    for version, seen in enumerate(past):
        if seen.is_readable:
            assert by_key.as_of(version).select(*KINDS).rows() == [seen.state[n] for n in sorted(seen.state)]
        else:
            with pytest.raises(VersionUnavailableError):
                by_key.as_of(version)
    check_differences(by_key, by_row, past)
    for n in KEYS:
        line = by_key.timeline(n)
        told = [
            (sign, version, None if sign in "-?" else row)
            for sign, version, *row in line.select("diff", "version", pl.struct(*KINDS)).rows()
            for row in [tuple(row[0].values())]
        ]
        assert told == expected_timeline(past, n)
    for upto in {len(past) - 1, len(past) // 2}:
        if past[upto].is_readable:
            blame = by_key.blame(upto)
            told = {
                (row["n"], row["column"]): (row["version"], row["or_earlier"]) for row in blame.iter_rows(named=True)
            }
            assert told == expected_blame(past, upto)
            assert blame["change"].is_null().to_list() == blame["or_earlier"].to_list()


def check_differences(by_key: TableHistory, by_row: TableHistory, past: list[Seen]) -> None:
    """Compare each version with the next one, and the first with the last."""
    readable = [version for version, seen in enumerate(past) if seen.is_readable]
    for old, new in [*itertools.pairwise(readable), (readable[0], readable[-1]), (readable[-1], readable[0])]:
        before, after = past[old].state, past[new].state
        diff = by_key.diff(old, new)
        columns = ["diff", "n", *(part for name in list(KINDS)[1:] for part in (name, f"{name}_old"))]
        assert diff.select(columns).rows() == expected_diff(before, after)
        came, went = Counter(after.values()), Counter(before.values())
        counted = {
            (sign, tuple(row)): count
            for sign, count, *row in by_row.diff(old, new).select("diff", "count", *KINDS).rows()
        }
        assert counted == {("+", row): n for row, n in (came - went).items()} | {
            ("-", row): n for row, n in (went - came).items()
        }
