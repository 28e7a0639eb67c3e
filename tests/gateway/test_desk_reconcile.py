"""Reconciliation at a desk: what is found in a real account, what applying it does, and what must never happen."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import v6kit
from broker_helpers import reached, states_of
from sync_helpers import FAST, Breakage, eventually, legs_of, rigged, without_throttle
from v6kit.broker import ConnectionState
from v6kit.errors import GatewayUnavailableError, RegistryError, StorageError
from v6kit.gateway import Answer, SimulatedGateway
from v6kit.sync.reconcile import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import GatewayMaker
    from sync_helpers import Rig
    from v6kit.clock import FakeClock
    from v6kit.desk import Desk
    from v6kit.gateway import Position


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Take ib_async's own throttle away."""
    with without_throttle():
        yield


async def opened(lake: Path, positions: int = 20) -> Desk:
    """Open a desk on a simulated gateway of its own, which records what it receives."""
    settings = {"snapshot_hold": 0.02, "tick_interval": 0.02, "record": True}
    return await v6kit.open(lake, "simulated", gateway=SimulatedGateway(positions, **(settings | FAST)))


async def with_condor(desk: Desk, strategy_id: str = "condor") -> tuple[Position, ...]:
    """Register the first iron condor of the account as it is held."""
    condor = desk.gateway.account.iron_condors[0]
    await desk.registry.add_strategy(strategy_id, legs_of(*condor))
    return condor


def end_in_silence(desk: Desk, conid: int) -> None:
    """Let a position end without a message, as if the link had been down; the book still has it afterwards."""
    del desk.gateway.account._positions[conid]
    assert conid in desk.positions.current()["conid"]


def brief(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Return what a frame says of wrong strategies and of the book."""
    alarming = frame.filter(pl.col("finding") != "unassigned")
    return alarming.select("finding", "conid", "strategy_id", "held", "wanted", "becomes").rows()


async def test_an_account_in_order_has_only_unassigned_positions(tmp_path: Path):
    """A strategy that is held as registered is no finding; the other positions are in no strategy."""
    async with await opened(tmp_path) as desk:
        condor = await with_condor(desk)
        frame = await desk.reconcile()
        assert frame.schema == pl.Schema(SCHEMA)
        others = {each.instrument.conid for each in desk.gateway.account.positions} - {
            each.instrument.conid for each in condor
        }
        assert set(frame["finding"]) == {"unassigned"}
        assert set(frame["conid"]) == others


async def test_an_empty_account_without_strategies_has_an_empty_frame(tmp_path: Path):
    """The columns are there nevertheless, and applying nothing does nothing."""
    async with await opened(tmp_path, positions=0) as desk:
        frame = await desk.reconcile()
        assert frame.is_empty()
        assert frame.schema == pl.Schema(SCHEMA)
        await desk.apply(frame)


async def test_every_kind_is_found_and_nothing_changes_until_it_is_applied(tmp_path: Path):
    """Looking twice changes nothing; applying brings registry and book in line with the account, in one commit each."""
    async with await opened(tmp_path) as desk:
        put, sold_put, sold_call, call = (each.instrument.conid for each in await with_condor(desk))
        quantity = desk.gateway.account.position(put).quantity
        desk.gateway.account.set_position(put, quantity + 2)
        desk.gateway.account.set_position(sold_call, 0)
        await desk.sync()
        end_in_silence(desk, call)
        before = desk.registry.ledger.version
        frame = await desk.reconcile()
        assert frame["finding"].unique(maintain_order=True).to_list() == ["quantity", "missing", "closed", "unassigned"]
        assert set(brief(frame)) == {
            ("quantity", put, "condor", quantity + 2, quantity, quantity + 2),
            ("missing", sold_call, "condor", 0.0, -quantity, 0.0),
            ("missing", call, "condor", 0.0, quantity, 0.0),
            ("closed", call, None, 0.0, quantity, None),
        }
        assert (await desk.reconcile()).equals(frame)
        assert desk.registry.ledger.version == before
        assert call in desk.positions.current()["conid"]

        await desk.apply(frame)
        assert desk.registry.ledger.version == before + 1
        assert {leg.conid: leg.quantity for leg in desk.registry["condor"]} == {
            put: quantity + 2,
            sold_put: -quantity,
        }
        assert call not in desk.positions.current()["conid"]
        assert brief(await desk.reconcile()) == []


async def test_only_the_rows_that_are_handed_back_are_applied(tmp_path: Path):
    """A trader who picks one leg keeps the other as it is."""
    async with await opened(tmp_path) as desk:
        one, two, *_ = (each.instrument.conid for each in await with_condor(desk))
        desk.gateway.account.set_position(one, 9)
        desk.gateway.account.set_position(two, -9)
        await desk.apply((await desk.reconcile()).filter(conid=one))
        assert [row[1] for row in brief(await desk.reconcile())] == [two]


async def test_a_strategy_that_is_gone_is_removed_and_its_streams_end(tmp_path: Path):
    """None of its legs is held: applying leaves no strategy, and no line for it."""
    async with await opened(tmp_path) as desk:
        for each in await with_condor(desk):
            desk.gateway.account.set_position(each.instrument.conid, 0)
        await desk.sync()
        assert desk.lines.streams == 4
        frame = await desk.reconcile()
        assert frame.filter(finding="missing")["proposal"].str.contains("remove strategy 'condor'").sum() == 4
        await desk.apply(frame)
        assert desk.registry.strategies().is_empty()
        await eventually(lambda: desk.lines.streams == 0)


async def test_the_proposal_for_an_unassigned_position_registers_it(tmp_path: Path):
    """What it says can be run as it stands, with a name for the strategy: options, stocks and futures alike."""
    async with await opened(tmp_path) as desk:
        frame = await desk.reconcile()
        assert {desk.gateway.market.instrument(conid).sec_type for conid in frame["conid"]} == {"OPT", "STK", "FUT"}
        await desk.apply(frame)  # they are a trader's to carry out, so this does nothing
        for proposal in frame["proposal"]:
            call = proposal.partition("to stream it: await ")[2].replace("strategy_id=...", "strategy_id='N'")
            await eval(call, {"desk": desk})  # noqa: S307 - the code is ours, and what it does is the test
        assert (await desk.reconcile()).is_empty()


async def test_what_another_desk_registers_is_seen(tmp_path: Path):
    """Registry and book are read anew, so that a leg of another notebook is not called unassigned."""
    async with await opened(tmp_path) as desk, v6kit.StrategyRegistry(tmp_path / "active_strategies") as other:
        condor = desk.gateway.account.iron_condors[0]
        await other.add_strategy("theirs", legs_of(*condor))
        assert not {each.instrument.conid for each in condor} & set((await desk.reconcile())["conid"])


@pytest.mark.parametrize("use", ["reconcile", "apply"])
async def test_an_incomplete_list_is_an_error_and_never_flat(tmp_path: Path, use: str):
    """Only one position comes, and the link breaks before the end: nothing is found, and nothing is changed."""
    async with await opened(tmp_path) as desk:
        condor = await with_condor(desk)
        desk.gateway.account.set_position(condor[0].instrument.conid, 9)
        frame = await desk.reconcile()
        before, book = desk.registry.ledger.version, desk.positions.current().height
        gateway = desk.gateway
        gateway.faults.position_limit = 1
        gateway.faults.silent_answers.add(Answer.POSITION_END)
        asked = gateway.log.received["REQ_POSITIONS"]
        running = asyncio.create_task(desk.reconcile() if use == "reconcile" else desk.apply(frame))
        await eventually(lambda: gateway.log.received["REQ_POSITIONS"] > asked)
        gateway.faults.refuse_connections = True
        gateway.drop_clients()
        with pytest.raises(GatewayUnavailableError):
            await running
        assert (desk.registry.ledger.version, desk.positions.current().height) == (before, book)
        with pytest.raises(GatewayUnavailableError):  # nor while the link is down
            await desk.reconcile()


async def test_a_finding_that_is_outdated_is_not_applied(tmp_path: Path):
    """A leg was bought back after the look: it stays, and so does everything else of that frame."""
    async with await opened(tmp_path) as desk:
        one, two, *_ = await with_condor(desk)
        for each in (one, two):
            desk.gateway.account.set_position(each.instrument.conid, 0)
        frame = await desk.reconcile()
        desk.gateway.account.set_position(one.instrument.conid, one.quantity)
        before = desk.registry.ledger.version
        with pytest.raises(RegistryError, match=r"no longer as it was found.*nothing was changed"):
            await desk.apply(frame)
        assert desk.registry.ledger.version == before
        await desk.apply(await desk.reconcile())
        assert {leg.conid for leg in desk.registry["condor"]} == {
            each.instrument.conid for each in desk.gateway.account.iron_condors[0]
        } - {two.instrument.conid}


async def test_applying_twice_says_that_it_is_done(tmp_path: Path):
    """A cell that is run again changes nothing, and says so."""
    async with await opened(tmp_path) as desk:
        condor = await with_condor(desk)
        desk.gateway.account.set_position(condor[0].instrument.conid, 9)
        frame = await desk.reconcile()
        await desk.apply(frame)
        before = desk.registry.ledger.version
        with pytest.raises(RegistryError, match="nothing was changed"):
            await desk.apply(frame)
        assert desk.registry.ledger.version == before


async def test_a_commit_that_fails_leaves_the_registry_as_it_was(tmp_path: Path):
    """All of a frame's fixes or none; after that it can be applied again."""
    async with await opened(tmp_path) as desk:
        for each in await with_condor(desk):
            desk.gateway.account.set_position(each.instrument.conid, 9)
        frame = await desk.reconcile()
        legs = desk.registry["condor"]
        broken = Breakage(desk.registry)
        with pytest.raises(StorageError):
            await desk.apply(frame)
        broken.mend()
        assert desk.registry["condor"] == legs
        await desk.apply(frame)
        assert {leg.quantity for leg in desk.registry["condor"]} == {9.0}


async def test_a_closed_desk_reconciles_nothing(tmp_path: Path):
    """The error names the lake and the next step."""
    desk = await opened(tmp_path)
    frame = await desk.reconcile()
    await desk.close()
    with pytest.raises(StorageError, match=r"is closed; open it again with v6kit\.open"):
        await desk.reconcile()
    with pytest.raises(StorageError, match=r"is closed; open it again with v6kit\.open"):
        await desk.apply(frame)


# --- at every reconnect ---------------------------------------------------------------------------------------------


async def reconnect(rig: Rig) -> None:
    """Cut the link and wait until it is back and was looked at."""
    states = states_of(rig.broker)
    rig.gateway.drop_clients()
    await reached(states, ConnectionState.LIVE)
    await rig.until(lambda: not rig.made[-1]._look_is_due)
    states.stop()


def looks(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Return what the log says of reconciliation, with levels."""
    return [
        (record.levelno, record.getMessage()) for record in caplog.records if "reconciliation" in record.getMessage()
    ]


async def test_a_reconnect_warns_of_what_it_finds_and_changes_nothing(
    make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """One warning with the counts and the next step, once as long as it stays the same; the registry is not touched."""
    caplog.set_level(logging.INFO, "v6kit.sync")
    gateway = await make_gateway(20)
    async with rigged(gateway, tmp_path, clock) as rig:
        condor = gateway.account.iron_condors[0]
        await rig.registry.add_strategy("condor", legs_of(*condor))
        await rig.streamer().start()
        assert looks(caplog) == []
        before = rig.registry.ledger.version
        del gateway.account._positions[condor[0].instrument.conid]  # closed at the desk of somebody else
        await reconnect(rig)
        says = (
            "reconciliation after the reconnect has 17 findings (1 missing, 16 unassigned); nothing was changed, see "
            "them with await desk.reconcile()"
        )
        assert looks(caplog) == [(logging.WARNING, says)]
        await reconnect(rig)
        assert looks(caplog) == [(logging.WARNING, says)]
        assert rig.registry.ledger.version == before
        assert len(rig.registry["condor"]) == 4
        gateway.account.set_position(condor[1].instrument.conid, 9)
        await reconnect(rig)
        assert "1 quantity, 1 missing, 16 unassigned" in looks(caplog)[-1][1]


async def test_positions_in_no_strategy_alone_are_no_warning(
    make_gateway: GatewayMaker, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """The queue watches them by design, so a reconnect mentions them and does not warn."""
    caplog.set_level(logging.INFO, "v6kit.sync")
    gateway = await make_gateway(5)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.streamer().start()
        await reconnect(rig)
        ((level, text),) = looks(caplog)
        assert level == logging.INFO
        assert "5 findings (5 unassigned)" in text
