"""The doctor: what it finds in real lakes, healthy and ill, and that looking changes nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import psutil
import pytest
from deltalake import write_deltalake
from tests.patience import DEADLINE
from v6kit.cli.doctor import check_lake
from v6kit.cli.doctor_gateway import check_gateway
from v6kit.cli.findings import Finding, Level
from v6kit.clock import Clock
from v6kit.contracts import AccountPosition, Instrument
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry


def doctor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `v6kit doctor` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "v6kit", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def found(lake: Path, level: Level) -> list[Finding]:
    """Return what the doctor finds in a lake, of one level."""
    return [each for each in check_lake(str(lake)) if each.level is level]


@pytest.fixture
async def lake(tmp_path: Path) -> Path:
    """A lake with one strategy, two positions and three requests."""
    async with (
        StrategyRegistry(tmp_path / "active_strategies") as registry,
        PositionQueue(tmp_path / "position_queue") as queue,
        PositionBook(tmp_path / "position_updates") as book,
    ):
        later = Clock().now().date() + timedelta(days=30)
        await registry.add_active(1, "SPY", "P", 500, later, 1)
        await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in (2, 3, 4)])
        held = [Instrument(conid=conid, symbol="SPY", sec_type="STK") for conid in (1, 2)]
        await book.sync(AccountPosition(account="DU1", instrument=each, position=1.0, avg_cost=1.0) for each in held)
    return tmp_path


def test_a_healthy_lake_is_told_table_by_table_and_exits_with_0(lake):
    """A warning, here quotes that did not come yet, is no failure."""
    ran = doctor(lake)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "fail" not in ran.stdout
    for said in (
        "ok    position_queue     Delta version 1, schema 2; 3 rows in 1 file",
        "ok    strategies         1 active leg of 1 strategy",
        "ok    queue              3 PENDING",
        "warn  book               2 positions without a quote yet -> refresh them: v6kit worker",
    ):
        assert said in ran.stdout


def test_a_torn_log_is_told_and_left_to_the_next_desk(lake):
    """A power cut emptied the newest entry: looking says so, opening goes on from what was whole before."""
    log = lake / "position_queue" / "_delta_log"
    entry = log / f"{1:020}.json"
    entry.write_bytes(b"")
    os.utime(entry, (psutil.boot_time() - 60,) * 2)
    (torn,) = [each for each in found(lake, Level.WARN) if each.subject == "position_queue"]
    assert "power cut has torn" in torn.text
    assert not list(log.glob("*.torn"))


async def test_where_the_history_begins_is_told(lake):
    """After a prune, the doctor names the instant."""
    async with PositionQueue(lake / "position_queue") as queue:
        await queue.cancel(list(queue.current()["request_id"]))
        horizon = (await queue.prune(Clock().now())).horizon
    (shape, *_) = [each for each in found(lake, Level.OK) if each.subject == "position_queue"]
    assert f"0 rows in 0 files; history since {horizon.at:%Y-%m-%d %H:%M} UTC" in shape.text


def test_looking_changes_nothing(lake):
    """Neither in a lake nor where there is none."""
    (lake / "position_updates").rename(lake / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in lake.rglob("*")}
    check_lake(str(lake))
    check_lake(str(lake / "elsewhere"))
    check_lake(str(lake / "nowhere"))
    assert {path: path.stat().st_mtime_ns for path in lake.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "said"), [("missing", "nothing at this path"), ("file", "this is a file"), ("empty", "none of the")]
)
def test_what_is_no_lake_is_one_clear_line(tmp_path, name, said):
    """With what to do about it."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (finding,) = check_lake(str(tmp_path / name))
    assert finding.level is Level.FAIL
    assert said in finding.text
    assert finding.advice


def test_a_lake_that_does_not_exist_exits_with_1(tmp_path):
    """One line on stdout says it, and nothing was made there."""
    ran = doctor(tmp_path / "missing")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "fail  lake               there is nothing at this path -> check it" in ran.stdout
    assert not list(tmp_path.iterdir())


def test_the_table_of_another_tool_is_recognised(lake):
    """Its columns are named, and the other tables are still looked at."""
    write_deltalake(str(lake / "position_queue"), pl.DataFrame({"a": [1]}), mode="overwrite", schema_mode="overwrite")
    write_deltalake(str(lake / "foreign" / "position_queue"), pl.DataFrame({"theirs": [1]}))
    (foreign,) = found(lake / "foreign", Level.FAIL)
    assert "another tool's table (columns: theirs)" in foreign.text
    (changed,) = found(lake, Level.FAIL)
    assert "columns are missing" in changed.text


def test_one_ledger_in_the_place_of_another_is_recognised(lake):
    """Somebody has mixed up two folders."""
    (lake / "position_queue").rename(lake / "aside")
    (lake / "active_strategies").rename(lake / "position_queue")
    (mixed,) = found(lake, Level.FAIL)
    assert "a 'active_strategies' ledger" in mixed.text


def test_a_table_that_is_not_there_yet_is_only_a_warning(lake):
    """A desk makes it; a demo that was stopped early leaves such a lake."""
    (lake / "position_updates").rename(lake / "aside")
    assert not found(lake, Level.FAIL)
    assert any("not there yet" in each.text for each in found(lake, Level.WARN))


@pytest.mark.parametrize("harm", ["log entry", "log", "data file"])
def test_a_corrupted_table_is_a_line_and_the_others_are_still_looked_at(lake, harm):
    """Whichever part of it is lost, and nothing is raised."""
    table = lake / "position_queue"
    if harm == "log entry":
        (table / "_delta_log" / f"{0:020}.json").write_text("{not json")
    elif harm == "log":
        for entry in (table / "_delta_log").iterdir():
            entry.unlink()
    else:
        next(table.glob("*.parquet")).unlink()
    (failure,) = found(lake, Level.FAIL)
    assert failure.subject == "position_queue"
    assert failure.advice


async def test_a_claim_whose_lease_has_ended_is_told_with_its_holder(lake):
    """That is what a dead worker leaves behind; the next one takes it."""
    async with PositionQueue(lake / "position_queue", worker_id="desk-of-ann") as queue:
        await queue.get_batch(2, lease=timedelta(milliseconds=1))
        async with asyncio.timeout(DEADLINE):
            while not queue.stats().expired_leases:  # noqa: ASYNC110 - only time ends a lease
                await asyncio.sleep(0.01)
    (stuck,) = [each for each in found(lake, Level.WARN) if each.subject == "claims"]
    assert "2 held by desk-of-ann, whose lease ended" in stuck.text
    assert "v6kit worker" in stuck.advice


def test_the_claim_of_a_process_that_is_gone_is_told_before_its_lease_ends(lake):
    """A process that claimed and was killed; its name holds its machine and its process id."""
    code = (
        "import asyncio, os, sys\nfrom v6kit.queue import PositionQueue\n"
        "async def claim():\n"
        "    async with PositionQueue(sys.argv[1]) as queue:\n"
        "        await queue.get_batch(1)\n"
        "        os._exit(9)\n"
        "asyncio.run(claim())"
    )
    subprocess.run([sys.executable, "-c", code, lake / "position_queue"], timeout=DEADLINE, check=False)
    (stuck,) = [each for each in found(lake, Level.WARN) if each.subject == "claims"]
    assert "a process that is gone" in stuck.text


async def test_a_paused_queue_and_failed_requests_are_told(lake):
    """Both look like a worker that does nothing."""
    async with PositionQueue(lake / "position_queue") as queue:
        (item,) = await queue.get_batch(1)
        await queue.mark_failed(item, "no such contract")
        await queue.pause("maintenance")
    told = [each.text for each in found(lake, Level.WARN) if each.subject == "queue"]
    assert told == ["paused: maintenance", "1 failed for good; 1 of them: no such contract"]


async def test_an_active_leg_past_its_expiry_is_told(lake):
    """It would hold a line for nothing."""
    async with StrategyRegistry(lake / "active_strategies") as registry:
        await registry.add_active(9, "SPY", "C", 400, date(2020, 1, 17), "old")
    (past,) = [each for each in found(lake, Level.WARN) if each.subject == "strategies"]
    assert "1 of them are past their expiry (strategies old)" in past.text
    assert "registry.expire()" in past.advice


async def test_a_gateway_that_answers_is_described(gateway):
    """What a desk needs of it, at no market data line."""
    seen = await check_gateway(gateway.host, gateway.port, client_id=7, clock=gateway.market.clock)
    assert {each.level for each in seen} == {Level.OK}
    told = " / ".join(each.text for each in seen)
    for said in ("simulated gateway, no real account", "server version 178", gateway.account.account_id, "40;"):
        assert said in told
    assert gateway.line_peak == 0


def test_a_gateway_that_nobody_runs_is_a_failure_with_the_next_step(lake):
    """The lake is checked all the same."""
    ran = doctor(lake, "--broker", "127.0.0.1:1")
    assert (ran.returncode, ran.stderr) == (1, "")
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("fail")]
    assert "no gateway at 127.0.0.1:1" in line
    assert "3 PENDING" in ran.stdout
