"""Killed anywhere: SIGKILL before, within and after every step that a ledger makes on its disk.

A layer below the process (`faults/disk.c`) counts the system calls that change something, and ends the process at the
one that it is told. What is left must open, hold every acknowledged change and at most the one in flight, as a whole
or not at all, and go on.
"""

from __future__ import annotations

import asyncio
import json
import queue as queues
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from faults import children, disk, laws
from tests import summary
from v6kit.clock import FakeClock
from v6kit.ledger import upkeep
from v6kit.queue import PAUSED, PositionQueue

pytestmark = pytest.mark.timeout(300)

AT_ONCE, KILLED = 2, -9
SCENES = ("every_change", "two_turns", "forgetting")
KILLS, WORKERS = 500, 4
LONGEST_MEAN_LIFE = 0.6  # seconds; a worker opens the queue in a tenth to a third of it
KINDS = (
    "creation",
    "data file",
    "log entry",
    "property",
    "compaction",
    "clean-up",
    "checkpoint",
    "log clean-up",
    "snapshot",
    "prune",
)
_ENTRY = re.compile(r"queue/_delta_log/\d{20}\.json(#1)?")
_OPERATIONS = {
    "CREATE TABLE": "creation",
    "SET TBLPROPERTIES": "property",
    "VACUUM START": "clean-up",
    "VACUUM END": "clean-up",
}


class Reference(NamedTuple):
    """What a scene does when nobody kills it."""

    start: Path
    steps: list[disk.Step]
    shapes: laws.Shapes
    notes: list[dict[str, Any]]
    before_pruning: laws.Shapes


class Kill(NamedTuple):
    """One way to die."""

    scene: str
    moment: str
    step: disk.Step

    def __str__(self) -> str:
        return f"{self.scene}: killed {self.moment} {self.step}"


def notes_of(steps: list[disk.Step]) -> list[dict[str, Any]]:
    """Return what was acknowledged."""
    return [json.loads(step.payload) for step in steps if not step.is_step]


def kinds_of(scene: str, steps: list[disk.Step]) -> dict[int, str]:
    """Return what each step is part of. Steps of a sync are left out: it changes nothing that a kill could show."""
    kinds: dict[int, str] = {}
    unsaid: list[int] = []  # data files and entries are named by what the entry says
    for step in steps:
        is_log, is_new = "/_delta_log/" in step.path, step.path.endswith("#1")
        if not step.is_step or step.operation == "fsync":
            continue
        if step.path.startswith("queue/_snapshot"):
            kinds[step.number] = "snapshot"
        elif "checkpoint" in step.path and step.operation != "unlink":
            kinds[step.number] = "checkpoint"
        elif step.operation == "unlink" and not is_new:
            kinds[step.number] = "log clean-up" if is_log else "clean-up"
        else:
            unsaid.append(step.number)
            kinds[step.number] = "log entry" if is_log else "data file"
        if step.operation == "write" and _ENTRY.fullmatch(step.path):
            info = next(json.loads(line)["commitInfo"] for line in step.payload.splitlines() if b'"commitInfo"' in line)
            is_overwrite = info.get("operationParameters", {}).get("mode") == "Overwrite"
            said = "compaction" if is_overwrite else _OPERATIONS.get(info["operation"])
            if scene == "forgetting" and said in ("compaction", "property"):
                said = "prune"  # it sets the horizon, and replaces rows by fewer
        if step.operation == "unlink" and _ENTRY.fullmatch(step.path) and is_new:
            kinds |= dict.fromkeys(unsaid, said) if said else {}
            unsaid = []
    return kinds


@pytest.fixture(autouse=True)
def _no_upkeep_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have no retention here, so a turn in the background would take them from under a reader."""
    monkeypatch.setattr(upkeep, "is_due", lambda *_: False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled layer."""
    return disk.build(tmp_path_factory.mktemp("layer"))


@pytest.fixture(scope="module")
def servers(library: Path) -> Iterator[list[children.Server]]:
    """Makers of children."""
    with children.servers(library, AT_ONCE) as started:
        yield started


@pytest.fixture(scope="module")
def references(servers: list[children.Server], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """Each scene unharmed, one after the other on the same table."""
    base = tmp_path_factory.mktemp("references")
    found: dict[str, Reference] = {}
    shapes: laws.Shapes = []
    folder = base / "unharmed"
    folder.mkdir()
    for scene in SCENES:
        start, journal = base / f"before {scene}", base / f"{scene}.journal"
        shutil.copytree(folder, start)
        assert servers[0].run(scene, folder=folder, journal=journal, moment="never", step=0) == 0
        steps = disk.read(journal, folder)
        before, shapes = shapes, laws.shapes(laws.history(folder / "queue"))
        found[scene] = Reference(start, steps, shapes, notes_of(steps), before if scene == "forgetting" else [])
    return found


@pytest.fixture(scope="module")
def score(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts of what was done and found; ends up in one line of the summary."""
    counts: Counter[str] = Counter()
    yield counts
    moments = ", ".join(f"{moment} {counts[moment]}" for moment in disk.MOMENTS)
    summary.say(
        request.config,
        f"kills: {counts['kills']} at {counts['steps']} steps ({moments}); "
        f"{counts['harmed']} left something lost, half or not usable",
    )


def kills_of(kind: str, references: dict[str, Reference]) -> list[Kill]:
    """Return every way to die in steps of a kind."""
    found = []
    for scene, reference in references.items():
        kinds = kinds_of(scene, reference.steps)
        for step in reference.steps:
            if step.is_step and kinds.get(step.number) == kind:
                found += [Kill(scene, moment, step) for moment in disk.MOMENTS if moment != "within" or step.payload]
    return found


def harm_of(kill: Kill, reference: Reference, server: children.Server, folder: Path) -> list[str]:
    """Kill a child there; return what is wrong afterwards."""
    shutil.copytree(reference.start, folder)
    journal = folder.with_suffix(".journal")
    status = server.run(kill.scene, folder=folder, journal=journal, moment=kill.moment, step=kill.step.number)
    notes = notes_of(disk.read(journal, folder))
    if status != KILLED:
        return [f"{kill}: it ended with {status}"]
    is_thorough = kill.moment != "before" or kill.step.number == 1
    harm = asyncio.run(look(folder / "queue", reference, notes, is_thorough=is_thorough))
    shutil.rmtree(folder)
    return [f"{kill}: {each}" for each in harm]


async def look(uri: Path, reference: Reference, notes: list[dict[str, Any]], *, is_thorough: bool) -> list[str]:
    """Open what a kill has left, compare it with what was acknowledged, and go on; return what is wrong.

    Going on is tried once per content of the disk: before a step it is what it was after the last one, since nothing
    goes past the layer (see the last test).
    """
    queue, harm = await laws.opened(uri)
    try:
        rows, horizon = laws.history(uri), laws.horizon_of(queue)
        harm += laws.broken_laws(rows, horizon) + missing(reference, notes, queue.ledger.version, laws.shapes(rows))
        harm += [f"{name} is lost" for note in notes for name in note["ids"] if name not in rows["request_id"]]
        paused = [note["paused"] for note in reference.notes if note["version"] <= queue.ledger.version]
        if paused and bool(queue.ledger.property(PAUSED)) != paused[-1]:
            harm.append(f"paused is not {paused[-1]}")
        if not is_thorough:
            return harm
        harm += await laws.goes_on(queue) + await laws.keeps(queue)
    finally:
        await queue.close()
    again, more = await laws.opened(uri)
    await again.close()
    return harm + more + laws.broken_laws(laws.history(uri), horizon)


def missing(reference: Reference, notes: list[dict[str, Any]], version: int, found: list[Any]) -> list[str]:
    """Compare the table with the acknowledged changes: all of these, and at most one more."""
    acknowledged = max((note["version"] for note in notes), default=-1)
    count = sum(number <= acknowledged for number, _ in reference.shapes)
    if version < acknowledged:
        return [f"version {acknowledged} was acknowledged, the table is at {version}"]
    if reference.before_pruning and found == reference.before_pruning:
        return []  # not pruned yet: what cannot be seen any more is on the disk, all of it
    if not count <= len(found) <= count + 1:
        return [f"{count} changes were acknowledged, {len(found)} are there"]
    if found != reference.shapes[: len(found)]:
        return [f"the history is another one: {found}"]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_any_step_loses_nothing_and_halves_nothing(kind, references, servers, score, tmp_path):
    """SIGKILL before and after each step of a kind, and within each write: what was told is there, the rest goes on."""
    kills = kills_of(kind, references)
    assert kills, f"no scene has a step of the kind {kind}"
    free: queues.SimpleQueue[children.Server] = queues.SimpleQueue()
    for server in servers:
        free.put(server)

    def one(number: int) -> list[str]:
        server = free.get()
        try:
            return harm_of(kills[number], references[kills[number].scene], server, tmp_path / str(number))
        finally:
            free.put(server)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        harm = list(pool.map(one, range(len(kills))))
    score.update(kill.moment for kill in kills)
    score.update(
        kills=len(kills), steps=len({(kill.scene, kill.step.number) for kill in kills}), harmed=sum(map(bool, harm))
    )
    assert [line for lines in harm for line in lines] == []


@pytest.mark.timeout(600)
def test_500_random_kills_over_a_running_drain_lose_nothing(library, request, tmp_path):
    """Four workers insert, claim and settle, and are killed at any moment, 500 times; a survivor ends the rest."""
    began = time.monotonic()
    with children.servers(library, WORKERS) as started, ThreadPoolExecutor(WORKERS) as pool:
        for _ in range(2):  # the first one reads the libraries from the disk
            opening = time.monotonic()
            assert started[0].run("opening", folder=tmp_path, journal=tmp_path / "first") == 0
        mean = min(3 * (time.monotonic() - opening), LONGEST_MEAN_LIFE)
        share = list(pool.map(lambda number: life_and_death(started[number], number, mean, tmp_path), range(WORKERS)))
    notes = [note for part in share for note in part]
    asyncio.run(drain(tmp_path / "queue"))

    rows = laws.history(tmp_path / "queue")
    assert laws.broken_laws(rows) == []
    ends = rows.filter(pl.col("status").is_in(laws.ENDS))
    assert ends.height == rows["request_id"].n_unique(), "each request has one end"
    inserted = {name for note in notes for name in note.get("inserted", [])}
    settled = {name: status for note in notes for name, status in note.get("settled", {}).items()}
    lost_inserts = inserted - set(rows["request_id"])
    lost_ends = settled.items() - dict(ends.select("request_id", "status").iter_rows()).items()
    again = rows.filter(
        pl.col("change") == "CLAIM", pl.col("status").shift(1).over("request_id") == "PROCESSING"
    ).height
    summary.say(
        request.config,
        f"random kills: {KILLS} in {time.monotonic() - began:.0f} s; {ends.height} requests, {again} claimed again "
        f"after a kill, {rows['version'][-1]} versions; lost: {len(lost_inserts)} of {len(inserted)} acknowledged "
        f"inserts, {len(lost_ends)} of {len(settled)} acknowledged ends; ended twice: "
        f"{ends.height - ends['request_id'].n_unique()}",
    )
    assert not lost_inserts
    assert not lost_ends
    assert again > 0, "no kill ever met a claim"
    assert len(settled) > WORKERS * 10, "the workers were killed before they did anything"


def life_and_death(server: children.Server, number: int, mean: float, folder: Path) -> list[dict[str, Any]]:
    """Let one worker after the other live for a random time; return what they were told was done."""
    chance = random.Random(number)
    journal = folder / f"{number}.journal"
    notes = []
    for _ in range(KILLS // WORKERS):
        lifetime = chance.expovariate(1 / mean)
        assert server.run("work_for_ever", folder=folder, journal=journal, lifetime=lifetime) == KILLED
        if journal.exists():
            notes += notes_of(disk.read(journal, folder))
            journal.unlink()
    return notes


async def drain(uri: Path) -> None:
    """End everything that is live, an hour later."""
    async with PositionQueue(uri, clock=FakeClock(datetime.now(UTC) + timedelta(hours=1))) as survivor:
        while batch := await survivor.get_batch(1_000):
            await survivor.mark_success(batch)


def test_every_step_is_of_a_kind_that_is_killed(references):
    """The scenes have no step that the tests above pass over."""
    kinds = {kind for scene, reference in references.items() for kind in kinds_of(scene, reference.steps).values()}
    assert kinds == set(KINDS)


def test_the_layer_sees_everything_that_changes_on_the_disk(servers, tmp_path):
    """A disk that is built from the journal alone is the real one, byte by byte: no step goes past the layer."""
    folder, journal = tmp_path / "lake", tmp_path / "journal"
    folder.mkdir()
    assert servers[0].run("whole_life", folder=folder, journal=journal, moment="never", step=0) == 0
    assert disk.Disk().follow(disk.read(journal, folder)).files() == disk.found_below(folder)
