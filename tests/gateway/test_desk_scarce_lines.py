"""Lines as a scarce good, from the desk: a policy of the user's, combos by their legs, who holds what and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import v6kit
from broker_helpers import options_of, requests_for
from ib_async import Bag, ComboLeg, Contract
from sync_helpers import FAST, eventually, legs_of, without_throttle
from v6kit.contracts import Leg
from v6kit.errors import RequestFailedError
from v6kit.gateway import SimulatedGateway
from v6kit.sync import streamer as streamer_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from v6kit.desk import Desk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at ranks more often; the pace is the broker's to keep, and tested there."""
    monkeypatch.setattr(streamer_module, "REASSESS_SECONDS", 0.02)
    with without_throttle():
        yield


@pytest.fixture
def gateway() -> SimulatedGateway:
    """A gateway that the desk starts and stops."""
    return SimulatedGateway(20, snapshot_hold=0.02, tick_interval=0.02, record=True, **FAST)


@pytest.fixture
async def desk(tmp_path: Path, gateway: SimulatedGateway) -> AsyncIterator[Desk]:
    """A desk with room for six streams, ranked by the user: the highest strike first."""
    async with await v6kit.open(
        tmp_path / "lake",
        "simulated",
        gateway=gateway,
        line_limit=7,
        line_reserve=0,
        snapshot_floor=1,
        policy=highest_strike,
        minimum_hold=0.05,
    ) as desk:
        yield desk


def highest_strike(candidate: v6kit.Candidate) -> float:
    """Rank by strike, as the label has it."""
    return -float(candidate.label.split()[-1])


def market_data(gateway: SimulatedGateway) -> set[tuple[int, str]]:
    """Return conid and sec_type of all market data that was asked for."""
    return {(int(fields[3]), fields[5]) for fields in requests_for(gateway, "REQ_MKT_DATA")}


async def test_a_combo_is_streamed_by_its_legs(desk: Desk, gateway: SimulatedGateway):
    """An iron condor, sold twice, as one contract: its legs are found out, registered and streamed; the BAG never."""
    legs = legs_of(*gateway.account.iron_condors[0])
    combo = Bag(
        symbol="SPY",
        exchange="SMART",
        currency="USD",
        comboLegs=[
            ComboLeg(conId=leg.conid, ratio=1, action="BUY" if leg.quantity > 0 else "SELL", exchange="SMART")
            for leg in legs
        ],
    )
    active = await desk.register(combo, "condor", quantity=-2, kind="IRON_CONDOR", priority=1)
    wanted = {leg.conid: -2.0 if leg.quantity > 0 else 2.0 for leg in legs}
    assert {leg.conid: leg.quantity for leg in active} == wanted
    assert {leg.label() for leg in active} == {leg.label() for leg in legs}
    assert {(leg.strategy, leg.priority) for leg in active} == {("IRON_CONDOR", 1)}
    await eventually(lambda: desk.streamer.streaming == wanted.keys())
    await eventually(lambda: gateway.lines_in_use == 4)
    asked = market_data(gateway)
    assert {conid for conid, _ in asked} == wanted.keys()
    assert "BAG" not in {sec_type for _, sec_type in asked}


async def test_a_contract_is_registered_by_its_conid_alone(desk: Desk, gateway: SimulatedGateway):
    """What it is, the gateway is asked: an option, a stock and a future."""
    held = {each.instrument.sec_type: each.instrument for each in gateway.account.positions}
    for sec_type in ("OPT", "STK"):
        await desk.register(Contract(conId=held[sec_type].conid), sec_type, quantity=3)
    future = gateway.market.find(sec_type="FUT")[0]
    await desk.register(Contract(conId=future.conid), "FUT")
    wanted = {Leg.of(each, number) for each, number in ((held["OPT"], 3.0), (held["STK"], 3.0), (future, 1.0))}
    assert {
        Leg(**{name: getattr(leg, name) for name in Leg.__dataclass_fields__}) for leg in desk.registry.active_legs()
    } == wanted


async def test_a_combo_with_a_leg_that_nobody_knows_is_not_registered(desk: Desk, gateway: SimulatedGateway):
    """Not even its other legs: the error says which one, and the registry is as it was."""
    known = options_of(gateway)[0].conid
    combo = Bag(comboLegs=[ComboLeg(conId=conid, ratio=1, action="BUY") for conid in (known, 4)])
    with pytest.raises(RequestFailedError, match="conid 4") as raised:
        await desk.register(combo, "unknown")
    assert raised.value.code == 200
    assert desk.registry.active_legs() == []
    with pytest.raises(ValueError, match=r"desk\.register"):
        await desk.registry.add_contract(combo, "unknown")


async def test_the_desk_shows_who_holds_a_line_who_waits_and_why(desk: Desk, gateway: SimulatedGateway):
    """Six of eight legs stream by the user's policy; the two others wait, with their rank."""
    condors = gateway.account.iron_condors[:2]
    for number, condor in enumerate(condors):
        await desk.registry.add_strategy(f"condor-{number}", legs_of(*condor), "IRON_CONDOR")
    await eventually(lambda: desk.lines.streams == 6 and desk.lines.waiting["rank"].to_list() == [7, 8])
    use = desk.lines
    strikes = sorted((leg.strike for condor in condors for leg in legs_of(*condor)), reverse=True)
    held = [float(label.split()[-1]) for label in use.holders["label"]]
    assert sorted(held, reverse=True) == strikes[:6]
    assert [float(label.split()[-1]) for label in use.waiting["label"]] == strikes[6:]
    assert set(use.holders["strategies"].explode()) == {"condor-0", "condor-1"}
    assert all(why.startswith("strategy condor-") and "priority 2" in why for why in use.holders["why"])
    assert (use.holders["for_seconds"] >= 0).all()
    assert use.policy == "your policy highest_strike"
    assert "2 active contracts wait; room for 6 streams, chosen by your policy highest_strike" in repr(use)
    await desk.sync()
    report = await desk.run_cycle()
    assert report.settled == 14
    rows = {row.conid: row.quality for row in desk.positions.rows()}
    assert {rows[conid] for conid in use.waiting["conid"]} == {"ok"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"policy": "priority"}, "policy must be a plain function"), ({"minimum_hold": "long"}, "minimum_hold must be")],
)
async def test_a_policy_that_cannot_be_one_is_refused_at_once(tmp_path: Path, wrong: dict[str, object], says: str):
    """The lake is not even made."""
    with pytest.raises(TypeError, match=says):
        await v6kit.open(tmp_path / "lake", "simulated", **wrong)
    assert not (tmp_path / "lake").exists()
