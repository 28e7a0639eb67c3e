"""Worker processes on one queue, and what must be true of the table when they are done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import polars as pl
from v6kit.ledger.store import Store
from v6kit.queue.requests import SPEC

PROGRAM = Path(__file__).parents[1] / "drainer.py"
DEADLINE_SECONDS = 500


class Worker:
    """One process that works on a queue; `drainer.py` says what it can do."""

    def __init__(self, process: subprocess.Popen[str], options: Mapping[str, str]) -> None:
        self.process = process
        self.tell(json.dumps(dict(options)))  # a command line could be read by everybody

    def tell(self, line: str = "") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Wait for a line of it; empty when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def conids(self) -> set[int]:
        """Wait for the conids of its next batch."""
        return {int(conid) for conid in self.hear().split()}

    def begin(self) -> None:
        """Let it go to work; it has opened the queue by then."""
        assert self.hear() == "ready"
        self.tell()

    def finish(self) -> list[int]:
        """Wait for its end and return the conids that it claimed."""
        output, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert self.process.returncode == 0
        return [int(conid) for conid in output.split()]

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()


@contextmanager
def crew(
    uri: str, *names: str, task: str = "drain", size: int = 20, options: Mapping[str, str] | None = None
) -> Iterator[list[Worker]]:
    """Start worker processes, one per name; they are gone afterwards, whatever happened."""
    with ExitStack() as stack:
        workers = []
        for name in names:
            command = [sys.executable, str(PROGRAM), uri, name, task, str(size)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            workers.append(Worker(process, options or {}))
        yield workers


def work_together(workers: list[Worker]) -> list[list[int]]:
    """Let them begin at once, when each has opened the queue, and return what each one claimed."""
    for worker in workers:
        assert worker.hear() == "ready"
    for worker in workers:
        worker.tell()
    return [worker.finish() for worker in workers]


def history(uri: str, options: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Return every row that the table ever got."""
    return Store(uri, options).rows_since(0, SPEC.empty())


def assert_each_request_ended_once(uri: str, count: int, options: Mapping[str, str] | None = None) -> None:
    """Check the whole past: as many requests as were inserted, each with one end, in an order that makes sense."""
    rows = history(uri, options)
    ends = rows.filter(pl.col("status").is_in(["SUCCESS", "FAILED", "CANCELLED"]))
    assert rows["request_id"].n_unique() == count
    assert ends["request_id"].is_unique().all()
    assert ends.height == count
    assert rows["seq"].to_list() == list(range(1, rows.height + 1))
    assert rows["updated_at"].is_sorted()
    assert rows["version"].is_sorted()
    claims = rows.filter(pl.col("change") == "CLAIM")
    assert (claims.group_by("version").agg(pl.col("updated_by").n_unique())["updated_by"] == 1).all()


def assert_nothing_twice_and_nothing_lost(taken: list[list[int]], count: int) -> None:
    """Check that the workers together claimed the conids from 1 to `count`, each of them once."""
    assert Counter(conid for batch in taken for conid in batch) == Counter(range(1, count + 1))


def shares(taken: list[list[int]]) -> list[float]:
    """Return what each worker got, as a part of a fair share, from the least to the most."""
    fair = sum(map(len, taken)) / len(taken)
    return sorted(round(len(batch) / fair, 2) for batch in taken)
