"""`v6kit reconcile`: a real process against a gateway and a lake, and that neither is changed by it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from rich.console import Console
from sync_helpers import legs_of
from tests.patience import DEADLINE
from v6kit.cli.reconcile import _show
from v6kit.gateway import SimulatedGateway
from v6kit.positions import PositionBook
from v6kit.registry import StrategyRegistry
from v6kit.sync import reconcile

if TYPE_CHECKING:
    from conftest import GatewayMaker

FIRST, SECOND = IDS = ("DU0000001", "DU0000002")


class Ran(NamedTuple):
    """How the command ended."""

    code: int
    out: str
    err: str


async def ran(lake: Path, gateway: SimulatedGateway | str, *arguments: str) -> Ran:
    """Run the command as a process of its own, beside the gateway in this one."""
    address = gateway if isinstance(gateway, str) else f"{gateway.host}:{gateway.port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "v6kit", "reconcile", str(lake), "--broker", address, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())


def files_of(lake: Path) -> dict[Path, bytes]:
    """Return all that is in a lake."""
    return {path: path.read_bytes() for path in sorted(lake.rglob("*")) if path.is_file()}


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with two accounts, of 20 and 12 positions."""
    return await make_gateway((20, 12), accounts=IDS)


@pytest.fixture
async def lake(tmp_path: Path, gateway: SimulatedGateway) -> Path:
    """A lake with one iron condor, as the first account holds it."""
    async with (
        StrategyRegistry(tmp_path / "active_strategies") as registry,
        PositionBook(tmp_path / "position_updates"),
    ):
        await registry.add_strategy("condor", legs_of(*gateway.account.iron_condors[0]), account=FIRST)
    return tmp_path


async def test_strategies_that_are_right_end_with_0(lake: Path, gateway: SimulatedGateway):
    """Positions in no strategy are named and are no alarm; nothing in the lake has changed."""
    before = files_of(lake)
    code, out, err = await ran(lake, gateway)
    assert (code, err) == (0, "")
    first, *found, last = out.splitlines()
    assert first == f"Accounts: {FIRST}, {SECOND}"
    assert len(found) == 28
    assert all(line.startswith("unassigned  DU000000") for line in found)
    assert last == "Strategies and book are right. 28 unassigned. Nothing was changed."
    assert files_of(lake) == before


async def test_a_strategy_that_is_wrong_ends_with_1(lake: Path, gateway: SimulatedGateway):
    """The finding comes first, with what to do; as JSON it is the row of `desk.reconcile()`."""
    leg = gateway.account.iron_condors[0][0]
    gateway.account.set_position(leg.instrument.conid, leg.quantity + 2)
    code, out, _ = await ran(lake, gateway)
    assert code == 1
    quantity = f"{leg.quantity + 2:g}  {leg.quantity:g}  {leg.quantity + 2:g}"
    assert out.splitlines()[1].startswith(
        f"quantity  {FIRST}  {leg.instrument.label()}  condor in {FIRST}  {quantity}  strategy 'condor' in {FIRST}"
    )
    code, out, err = await ran(lake, gateway, "--json")
    told = json.loads(out)
    assert (code, err, told["accounts"]) == (1, "", list(IDS))
    assert list(told["findings"][0]) == list(reconcile.SCHEMA)
    assert (told["findings"][0]["finding"], told["findings"][0]["becomes"]) == ("quantity", leg.quantity + 2)


async def test_one_account_may_be_looked_at_alone(lake: Path, gateway: SimulatedGateway):
    """Legs of another account are then nobody's to judge here, and say so."""
    code, out, _ = await ran(lake, gateway, "--account", SECOND)
    assert code == 1
    assert out.startswith(f"Accounts: {SECOND}\n")
    assert out.count(f"{FIRST} is not followed here") == 4


async def test_what_could_not_be_found_out_ends_with_2(lake: Path, gateway: SimulatedGateway, tmp_path: Path):
    """No lake, no gateway, an id that is taken, an account that is not there: one line says what to do."""

    async def line(code: int, out: str, err: str) -> str:
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "there is no Delta table at" in await line(*await ran(tmp_path / "nowhere", gateway))
    assert not (tmp_path / "nowhere").exists()
    assert "account must be one of" in await line(*await ran(lake, gateway, "--account", "DU9"))
    assert "broker must be" in await line(*await ran(lake, "here"))
    await gateway.stop()
    assert "Is TWS or IB Gateway running" in await line(*await ran(lake, gateway))


def test_on_a_terminal_it_is_a_table(gateway: SimulatedGateway):
    """Wrong strategies stand out; brackets in texts are brackets."""
    held = [reconcile.AccountPosition(account="[b]", instrument=gateway.account.positions[0].instrument, position=1.0,
                                      avg_cost=1.0)]  # fmt: skip
    console = Console(force_terminal=True, width=160, record=True)
    _show(reconcile.findings(held, [], [], ["[b]"]), ["[b]"], console)
    text = console.export_text()
    assert "│ unassigned" in text
    assert "│ [b]" in text
