"""Power cuts: what is left on the disk when everything that was not synced may be gone.

A whole life of a queue is played once for each `durable=`; the journal of its system calls tells what was on the disk
at each of its steps, and what of that was certain (`faults/disk.py` says what is promised, and what is not). From
there on the disk is laid out as a power cut may leave it, and opened.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from faults import children, disk, laws
from tests import summary
from v6kit.ledger import upkeep

pytestmark = pytest.mark.timeout(300)

AT_ONCE = 2
Files = dict[str, bytes | None]
# What became of names and of contents that were not synced; see `Disk.after_a_power_cut`.
EXTREMES = {
    "nothing that was not synced": ("lost", "lost"),
    "names without contents": ("kept", "lost"),
    "names with half of the contents": ("kept", "half"),
    "a part of the names in order, any contents": ("ordered", "any"),
    "any names, any contents": ("scattered", "any"),
}
# Nothing is promised without a sync of the folder; that names are kept in order is what ext4 and xfs do.
CASES = [
    (durable, extreme)
    for durable in ("power", "process")
    for extreme in EXTREMES
    if (durable, extreme) != ("process", "any names, any contents")
]


class Life(NamedTuple):
    """What was played.

    Attributes:
        durable: How.
        steps: What it did to the disk, and what was acknowledged in between.
        histories: What the table held, one after the other, a change apart.
        reached: How many of these histories had been acknowledged, by the version that was.
    """

    durable: str
    steps: list[disk.Step]
    histories: list[laws.Shapes]
    reached: dict[int, int]


class Cut(NamedTuple):
    """A disk after a power cut.

    Attributes:
        after: The last step before the cut, of those that leave the same disk.
        reached: How many histories had been acknowledged by then.
        files: What is left.
    """

    after: disk.Step
    reached: int
    files: Files


@pytest.fixture(autouse=True)
def _no_upkeep_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have no retention here, so a turn in the background would take them from under a reader."""
    monkeypatch.setattr(upkeep, "is_due", lambda *_: False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled layer."""
    return disk.build(tmp_path_factory.mktemp("layer"))


@pytest.fixture(scope="module")
def lives(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Life]:
    """A whole life of a queue, played in each way."""
    found = {}
    with children.Server(library) as server:
        for durable in ("power", "process"):
            base = tmp_path_factory.mktemp(durable)
            folder, journal = base / "disk", base / "journal"
            folder.mkdir()
            assert server.run("whole_life", folder=folder, journal=journal, durable=durable) == 0
            steps = disk.read(journal, folder)
            found[durable] = Life(durable, steps, *histories_of(steps, base / "then"))
    return found


def histories_of(steps: list[disk.Step], folder: Path) -> tuple[list[laws.Shapes], dict[int, int]]:
    """Return what the table held at each acknowledgement, and how many of these states there were by each version."""
    found: list[laws.Shapes] = [[]]
    reached = {-1: 1}
    now = disk.Disk()
    for step in steps:
        now.follow([step])
        if not step.is_step:
            disk.lay_out(now.files(), folder)
            shapes = laws.shapes(laws.history(folder / "queue"))
            if shapes != found[-1]:
                found.append(shapes)
            reached[json.loads(step.payload)["version"]] = len(found)
    return found, reached


@pytest.fixture(scope="module")
def score(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts of what was done and found; ends up in one line of the summary."""
    counts: Counter[str] = Counter()
    yield counts
    for durable in ("power", "process"):
        summary.say(
            request.config,
            f"power cuts, durable={durable}: {counts[durable, 'disks']} disks; "
            f"{counts[durable, 'mended']} were torn and mended, {counts[durable, 'lost']} lost acknowledged changes "
            f"(at most the newest {counts[durable, 'most']}), {counts[durable, 'harmed']} did not open or were wrong",
        )


def cuts_of(life: Life, extreme: str) -> list[Cut]:
    """Return the disks that a cut at any step may leave, each one once."""
    names, contents = EXTREMES[extreme]
    found: dict[bytes, Cut] = {}
    now, reached = disk.Disk(), 1
    for number, step in enumerate(life.steps):
        now.follow([step])
        if not step.is_step:
            reached = life.reached[json.loads(step.payload)["version"]]
        files = now.after_a_power_cut(names, contents, Random(f"{extreme} {number}"))
        # Staged files are there as well, but nobody ever reads one.
        seen = sorted((name, content) for name, content in files.items() if not name.endswith("#1"))
        found[hashlib.sha256(repr(seen).encode()).digest()] = Cut(
            step, reached, files
        )  # the last has most to answer for
    return list(found.values())


async def look(life: Life, cut: Cut, uri: Path, score: Counter[Any]) -> list[str]:
    """Open what a power cut has left and go on; return what is wrong."""
    queue, harm = await laws.opened(uri)
    is_mended = any(name.endswith(".torn") for name in disk.found_below(uri))
    try:
        rows = laws.history(uri)
        harm += laws.broken_laws(rows, laws.horizon_of(queue))
        shapes = laws.shapes(rows)
        if shapes not in life.histories[: cut.reached + 1]:
            harm.append(f"the history is none that there ever was: {shapes}")
        else:
            lost = cut.reached - 1 - life.histories.index(shapes)
            score[life.durable, "lost"] += lost > 0
            score[life.durable, "most"] = max(lost, score[life.durable, "most"])
            if life.durable == "power" and lost > 0:
                harm.append(f"{lost} acknowledged changes are lost")
        score[life.durable, "mended"] += is_mended
        return harm + await laws.goes_on(queue)
    finally:
        await queue.close()


def harm_of(life: Life, cut: Cut, folder: Path, score: Counter[Any]) -> list[str]:
    """Lay a disk out, and look."""
    disk.lay_out(cut.files, folder)
    try:
        harm = asyncio.run(look(life, cut, folder / "queue", score))
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the list with its cut
        harm = [f"{type(error).__name__}: {error}"]
    shutil.rmtree(folder)
    return [f"power cut after {cut.after}: {each}" for each in harm]


@pytest.mark.parametrize(("durable", "extreme"), CASES)
def test_after_a_power_cut_the_table_opens_with_the_history_up_to_some_change(durable, extreme, lives, score, tmp_path):
    """With durable="power" up to every acknowledged change; otherwise the newest may be lost, and nothing else."""
    life = lives[durable]
    cuts = cuts_of(life, extreme)

    def one(number: int) -> list[str]:
        return harm_of(life, cuts[number], tmp_path / str(number), score)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        harm = list(pool.map(one, range(len(cuts))))
    score.update({(durable, "disks"): len(cuts), (durable, "harmed"): sum(map(bool, harm))})
    assert [line for lines in harm for line in lines] == []


def test_without_syncs_a_power_cut_does_lose_what_was_acknowledged(lives):
    """The model bites: a process that does not sync is seen to lose, so the zero of the other one means something."""
    assert lives["process"].histories == lives["power"].histories
    cuts = cuts_of(lives["process"], "nothing that was not synced")
    assert any(cut.reached > 1 and not any(cut.files.values()) for cut in cuts)


def test_a_kill_while_a_torn_log_is_mended_leaves_a_log_that_can_be_mended(lives, library, tmp_path):
    """SIGKILL before and after each step of the mending: the next opening has the same longest whole history."""
    life = lives["process"]
    cut = max(cuts_of(life, "names without contents"), key=torn_entries)
    assert torn_entries(cut) > 2
    wanted: set[str] = set()
    with children.Server(library) as server:
        for moment, step in [
            ("never", 0),
            *((moment, step) for step in range(1, 200) for moment in ("before", "after")),
        ]:
            folder, journal = tmp_path / f"{moment} {step}", tmp_path / f"{moment} {step}.journal"
            disk.lay_out(cut.files, folder)
            status = server.run("only_opening", folder=folder, journal=journal, moment=moment, step=step)
            if moment == "never":
                assert status == 0
            elif status == 0:
                break  # there is no such step: all have been killed at
            queue, harm = asyncio.run(opened_and_closed(folder / "queue"))
            assert harm == [], f"killed {moment} step {step}"
            wanted.add(queue)
    assert len(wanted) == 1, "whatever was killed, the same history comes back"
    assert step > 4, "the mending has steps"


def torn_entries(cut: Cut) -> int:
    """Return how many log entries came back empty."""
    return sum(content == b"" and name.endswith(".json") for name, content in cut.files.items())


async def opened_and_closed(uri: Path) -> tuple[str, list[str]]:
    """Open a table; return its history, and what is wrong with it."""
    queue, harm = await laws.opened(uri)
    await queue.close()
    rows = laws.history(uri)
    return repr(laws.shapes(rows)), harm + laws.broken_laws(rows, laws.horizon_of(queue))
