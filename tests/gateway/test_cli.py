"""The command line as its users meet it: real processes, real lakes, real signals."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.history import TableHistory
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue, Status

# A shell that starts pytest in the background has told all its children to ignore Ctrl-C; these shall hear it.
COMMAND = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from v6kit.cli import main; main()",
]
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
SMALL = ("--positions", "60", "--strategies", "3")


def v6kit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m v6kit` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "v6kit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class Ended(NamedTuple):
    """How a command ended, and what it said after the last line that was waited for."""

    code: int
    out: str
    err: str


class Running:
    """A command that runs until it is told to stop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, text: str) -> str:
        """Wait for a line on stdout that contains this."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := (await self._process.stdout.readline()).decode():
                if text in line:
                    return line
        raise AssertionError(f"the command ended without saying {text!r}: {await self.end()}")

    async def told(self, start: str) -> str:
        """Wait for an address on stderr that begins like this, and return it up to its path."""
        assert self._process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            while line := (await self._process.stderr.readline()).decode():
                if found := re.search(rf"{re.escape(start)}[^/\s]*", line):
                    return found[0]
        raise AssertionError(f"the command ended without saying {start!r}: {await self.end()}")

    async def end(self, number: signal.Signals | None = None) -> Ended:
        """Send a signal, if one is given, and wait for the end."""
        if number is not None:
            self._process.send_signal(number)
        async with asyncio.timeout(DEADLINE):
            out, err = await self._process.communicate()
        return Ended(self._process.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def started(*arguments: str | Path) -> AsyncIterator[Running]:
    """Start a command; it is killed at the end of the test if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def statuses(lake: Path) -> dict[str, int]:
    """Return how many requests stand where, as another process sees it."""
    async with PositionQueue(lake / "position_queue") as queue:
        return queue.stats().by_status


async def claimed(lake: Path) -> None:
    """Wait until a worker holds claims."""
    past = TableHistory(lake / "position_queue")
    async with asyncio.timeout(DEADLINE):
        while "CLAIM" not in past.versions()["changes"][-1]:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)


# --- demo -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A lake on which the demo has run to its end, and what it printed."""
    lake = tmp_path_factory.mktemp("cli") / "lake"
    return lake, v6kit("demo", "--json", "--lake", lake, *SMALL)


def test_the_demo_tells_one_json_object_whose_numbers_agree(finished):
    """Machines read stdout: nothing else may be there, and every position was streamed or refreshed once."""
    lake, ran = finished
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 1), ran
    told = json.loads(ran.stdout)
    assert told["finished"]
    assert (told["positions"], told["fresh"], told["streamed"]) == (60, 60, 12)
    assert told["queued"] == told["settled"] == 60 - 12
    assert (told["failed"], told["refused"], told["refusals"]) == (0, 0, {"100": 0, "101": 0, "321": 0})
    assert 12 < told["line_peak"] <= told["line_limit"] == 100
    assert told["cycles"] >= 1
    assert told["seconds"] > 0
    assert told["quality"] == {"ok": 60}
    assert (told["gateway"], told["lake"]) == ("simulated", str(lake))
    assert "simulated" in ran.stderr


def test_the_demo_runs_again_on_its_lake_and_sums_up_for_a_trader(finished):
    """A second pass refreshes everything again, and shows what its last cycle changed in the queue."""
    lake, _ = finished
    ran = v6kit("demo", "--lake", lake, *SMALL)
    assert ran.returncode == 0, ran
    for said in (
        "simulated",
        "60 of 60 fresh",
        "48 by snapshot",
        "of 100 in use at the simulated gateway",
        "none (code 100: 0, 101: 0, 321: 0)",
        "Market value",
        "ok (60 of 60 positions)",
        "Time travel",
        "SUCCESS",
        f"v6kit doctor {lake}",
    ):
        assert said in ran.stdout, said
    assert ran.stderr == ""


async def test_ctrl_c_in_a_cycle_gives_claims_back_and_a_second_run_goes_on(tmp_path):
    """What was refreshed stays refreshed, what was claimed waits again."""
    size = ("--positions", "80", "--strategies", "2")
    async with started("demo", "--lake", tmp_path, *size) as demo:
        await demo.line("cycle 1:")
        await claimed(tmp_path)
        ended = await demo.end(signal.SIGINT)
    assert (ended.code, ended.err) == (130, "")
    assert "Stopped after 1 cycle" in ended.out
    assert f"v6kit demo --lake {tmp_path} --positions=80 --strategies=2" in ended.out
    left = await statuses(tmp_path)
    assert left[Status.PROCESSING] == left[Status.FAILED] == 0
    assert 0 < left[Status.PENDING] < 72

    again = v6kit("demo", "--json", "--lake", tmp_path, *size)
    told = json.loads(again.stdout)
    assert (again.returncode, told["queued"], told["settled"]) == (0, left[Status.PENDING], left[Status.PENDING])
    assert (told["fresh"], told["refused"]) == (80, 0)


async def test_a_lake_whose_queue_is_paused_is_refused(tmp_path):
    """The demo would wait for ever; it says who must do what."""
    async with PositionQueue(tmp_path / "position_queue") as queue:
        await queue.pause("maintenance")
    async with started("demo", "--lake", tmp_path, "--positions", "4", "--strategies", "0") as demo:
        ended = await demo.end()
    assert ended.code == 1
    assert "is paused (maintenance); resume it" in ended.err


async def test_ctrl_c_while_the_desk_opens_ends_in_order(tmp_path):
    """The first streams are being asked for."""
    async with started("demo", "--lake", tmp_path, *SMALL) as demo:
        await demo.line("Lake:")
        ended = await demo.end(signal.SIGINT)
    assert (ended.code, ended.err) == (130, "")
    assert "Stopped before the first cycle" in ended.out


async def test_a_day_is_told_as_it_happens_until_ctrl_c(tmp_path):
    """Its first events come with the time in New York and how the book stands; the lake stays."""
    async with started("demo", "--day", "--lake", tmp_path / "day") as day:
        await day.line("simulated")
        await day.line("80 positions, 6 iron condors of them active, 50 market data lines")
        assert re.match(r"\d\d:\d\d", await day.line("pre_market"))
        ended = await day.end(signal.SIGINT)
    assert (ended.code, ended.err) == (130, "")
    assert f"the day so far is in {tmp_path / 'day'}" in ended.out
    async with PositionBook(tmp_path / "day" / "position_updates") as book:
        assert len(book.rows()) >= 80  # one more if the day went on to its first trade


# --- gateway --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def simulated_gateway() -> AsyncIterator[tuple[Running, str]]:
    """Serve a gateway as a process of its own; gives its address, too."""
    async with started("gateway", "--port", "0", "--positions", "40", "--snapshot-hold", "0.02") as gateway:
        said = await gateway.line("Simulated IB gateway")
        yield gateway, said.split(" at ")[1].split(": ")[0]


async def test_the_gateway_serves_a_real_client_until_ctrl_c():
    """It says how to connect, who connects, and ends with exit code 0: that is how it is meant to end."""
    async with simulated_gateway() as (gateway, address):
        host, port = address.split(":")
        assert f'connectAsync("{host}", {port}, clientId=1)' in await gateway.line("ib_async")
        client = ib_async.IB()
        await client.connectAsync(host, int(port), clientId=5, timeout=5, raiseSyncErrors=True)
        try:
            assert len(client.positions()) == 40
            await gateway.line("client 5 has connected")
        finally:
            client.disconnect()
        await gateway.line("client 5 has gone")
        ended = await gateway.end(signal.SIGINT)
    assert (ended.code, ended.err) == (0, "")
    assert "Stopped" in ended.out


async def test_the_gateway_ends_on_sigterm_too():
    """Service managers and background jobs of a shell know no Ctrl-C."""
    async with simulated_gateway() as (gateway, _):
        assert (await gateway.end(signal.SIGTERM)).code == 0


async def test_the_gateway_plays_a_scenario_to_any_client_and_ends_with_it(tmp_path: Path):
    """What happens is printed as it happens, a real client sees it, and the end of the scenario is the program's."""
    file = tmp_path / "gap.toml"
    file.write_text(
        'start = 2026-11-20T09:20:00\nend = "10:00"\n'
        '[[event]]\nat = "09:20"\naction = "pre_market"\n'
        '[[event]]\nat = "09:22"\naction = "broadcast"\ncode = 1100\n',
        encoding="utf-8",
    )
    async with started("gateway", "--port", "0", "--positions", "4", "--scenario", file, "--speed", "240") as gateway:
        host, port = (await gateway.line("Simulated IB gateway")).split(" at ")[1].split(": ")[0].split(":")
        assert "gap, 2 events; times are America/New_York's, at 240 times the speed" in await gateway.line("scenario")
        client = ib_async.IB()
        lost = asyncio.get_running_loop().create_future()
        client.errorEvent += lambda _id, code, _text, _contract: code in (1100, 2110) and lost.set_result(None)
        await client.connectAsync(host, int(port), clientId=5, timeout=5)
        async with asyncio.timeout(DEADLINE):
            await lost
        client.disconnect()
        await gateway.line("broadcast(code=1100)")
        assert "gap is over: 2 events" in await gateway.line("is over")
        ended = await gateway.end()
    assert (ended.code, ended.err) == (0, "")


def test_a_wrong_scenario_is_one_clear_line(tmp_path: Path):
    """It names the file, the event, the field, its value, and what is allowed."""
    file = tmp_path / "gap.toml"
    file.write_text('[[event]]\nat = "09:30"\naction = "halt"\nsymbol = "XYZ"\n', encoding="utf-8")
    ran = v6kit("gateway", "--port", "0", "--scenario", file)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: gap.toml, event 1 (halt): symbol must be one of SPY, QQQ")
    assert ran.stderr.count("\n") == 1


def test_a_port_in_use_is_one_clear_line():
    """It names the port, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = v6kit("gateway", "--port", str(port), "--positions", "4")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: port {port} on 127.0.0.1 is in use")
    assert ran.stderr.count("\n") == 1


# --- worker ---------------------------------------------------------------------------------------------------------


async def test_a_worker_tells_each_cycle_and_stops_without_open_claims(tmp_path):
    """It works on a gateway that is a process of its own, and says that it is the simulated one."""
    async with simulated_gateway() as (_, address):
        options = ("--broker", address, "--client-id", "11", "--interval", "0.5", "--batch-size", "10")
        async with started("worker", tmp_path / "lake", *options) as worker:
            assert address in await worker.line("simulated gateway")
            await worker.line("cycle 1 ")
            assert "refreshed" in await worker.line("cycle 2 ")
            beside = v6kit("doctor", tmp_path / "lake", "--broker", address, "--client-id", "11")
            ended = await worker.end(signal.SIGINT)
    assert (ended.code, ended.err) == (0, "")
    assert "No claim is left open" in ended.out
    assert (await statuses(tmp_path / "lake"))[Status.PROCESSING] == 0
    assert beside.returncode == 1
    assert "client id 11 is in use" in beside.stdout


# --- lab ------------------------------------------------------------------------------------------------------------


async def test_jupyterlab_opens_on_a_copy_of_the_notebooks_until_ctrl_c(tmp_path, monkeypatch):
    """Kernels are told which gateway is meant; what is in the folder already stays as it is."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "01_quickstart.ipynb").write_text("of mine")
    quiet = ("--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=")
    async with started("lab", folder, "--broker", "127.0.0.1:7497", *quiet) as command:
        assert f"5 notebooks copied to {folder}" in await command.line("copied")
        address = await command.told("http://127.0.0.1")
        listed = await asyncio.to_thread(read_json, f"{address}/api/contents")
        assert sorted(each["name"] for each in listed["content"]) == NOTEBOOKS
        ended = await command.end(signal.SIGINT)
    assert (ended.code, "Traceback" in ended.err) == (0, False)
    assert (folder / "01_quickstart.ipynb").read_text() == "of mine"


def read_json(address: str) -> Any:
    """Return what a server on this machine answers; Jupyter says where it is before it listens there."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=DEADLINE) as answer:  # noqa: S310 - our own, over HTTP
                return json.load(answer)
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise


def test_each_notebook_is_in_the_installed_package():
    """`v6kit lab` has them without a clone, too."""
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    expected = {f"notebooks/{name}": f"v6kit/notebooks/{name}" for name in NOTEBOOKS}
    assert packed["force-include"] == expected


# --- what every command does ----------------------------------------------------------------------------------------


def test_help_is_told_without_waiting_for_the_libraries_behind_it():
    """Importing deltalake and ib_async takes a second, and help needs neither."""
    code = (
        "import sys\nfrom v6kit.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('deltalake', 'ib_async', 'polars') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert ran.returncode == 0
    assert ran.stdout.endswith("[]\n")
    for command in ("demo", "lab", "gateway", "worker", "doctor", "reconcile"):
        assert command in ran.stdout


def test_the_version_is_told():
    """As `pip` knows it."""
    ran = v6kit("--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "v6kit 0.1.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("dance",), 2, "No such command"),
        (("demo", "--positions", "0"), 2, "--positions"),
        (("demo", "--positions", "60", "--strategies", "50"), 1, "--strategies must be at most 7"),
        (("demo", "--line-limit", "20"), 1, "leave none for snapshots"),
        (("demo", "--speed", "3"), 2, "--speed goes with --day"),
        (("demo", "--day", "--positions", "30"), 2, "--positions goes without --day"),
        (("lab", "--broker", "nowhere"), 1, "'HOST:PORT'"),
        (("worker", "lake"), 2, "--broker"),
        (("worker", "lake", "--broker", "nowhere"), 1, "'HOST:PORT'"),
        (("worker", "lake", "--broker", "127.0.0.1:1"), 1, "no gateway at 127.0.0.1:1"),
    ],
)
def test_a_wrong_argument_is_named(arguments, code, said, tmp_path, monkeypatch):
    """Usage errors exit with 2, what turns out later with 1; never a traceback."""
    monkeypatch.chdir(tmp_path)
    ran = v6kit(*arguments)
    assert ran.returncode == code, ran
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_traceback_is_there_for_those_who_ask(tmp_path):
    """`--debug` goes before the command; without it, an error is one line."""
    path = tmp_path / "file"
    path.touch()
    assert "Traceback" in v6kit("--debug", "demo", "--lake", path).stderr
    plain = v6kit("demo", "--lake", path).stderr
    assert plain.startswith("error: ")
    assert plain.count("\n") == 1
