"""The Strategies panel, the dashboard, and looking back with every panel: on a real desk, without a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import v6kit
from sync_helpers import FAST, UNHURRIED, eventually, legs_of
from v6kit.errors import RegistryError, RequestFailedError, V6KitError
from v6kit.gateway import SimulatedGateway
from v6kit.panels import PANELS, Panel, StrategiesPanel, frames

if TYPE_CHECKING:
    from v6kit.desk import Desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with 20 positions and no strategy."""
    gateway = SimulatedGateway(20, snapshot_hold=0.02, tick_interval=0.02, **FAST)
    opened = await v6kit.open(tmp_path / "lake", "simulated", gateway=gateway, **UNHURRIED)
    yield opened
    await opened.close()


async def condor(desk: Desk, name: str | int, account: str | None = None) -> None:
    """Register an iron condor that the account holds."""
    await desk.registry.add_strategy(
        name, legs_of(*desk.gateway.account.iron_condors[0]), kind="IRON_CONDOR", account=account
    )
    await desk.sync()


async def open_form(desk: Desk, panel: StrategiesPanel, symbol: str) -> str:
    """Open the form and choose an underlying, and the second of its expiries; returns that."""
    await panel.click("form").settled()
    await panel.fill("symbol", symbol).settled()
    [_, series, *_] = await desk.options.series(symbol.upper())
    await panel.fill("expiry", series.expiry).settled()
    return series.expiry


async def test_a_strategy_is_put_together_in_the_form_and_its_code_does_the_same(desk: Desk):
    """Underlying, expiry, width: what is registered is what was shown, and the code registers the same legs again."""
    panel = desk.panel("strategies")
    expiry = await open_form(desk, panel, "qqq")
    panel.fill("width", "10").fill("quantity", "3")
    code = panel._form.code
    await panel.click("register").settled()
    legs = desk.registry["1"]
    assert [(leg.right, leg.quantity) for leg in sorted(legs, key=lambda leg: leg.strike)] == [
        ("P", 3.0),
        ("P", -3.0),
        ("C", -3.0),
        ("C", 3.0),
    ]
    assert {leg.expiry for leg in legs} == {expiry}
    assert panel.selected == ["1"]
    await eventually(lambda: panel.legs["how"].to_list() == ["stream"] * 4)
    await eventually(lambda: panel.legs["quality"].to_list() == ["ok"] * 4)  # although the account holds none of them
    assert panel.frame.select("kind", "state", "legs", "lines").row(0) == ("IRON_CONDOR", "active", 4, 4)
    space: dict[str, object] = {"desk": desk}
    body = "\n".join(f"    {line}" for line in code.splitlines())
    exec(f"async def run():\n{body}", space)  # noqa: S102 - that is what users do with it
    before = desk.registry.ledger.version
    await space["run"]()
    assert desk.registry.ledger.version == before


async def test_a_strategy_is_bound_to_one_of_several_accounts_and_has_a_priority(tmp_path: Path):
    """The form asks for the account where there are several; the same id in another account is another strategy."""
    gateway = SimulatedGateway((8, 8), accounts=["DU1", "DU2"], snapshot_hold=0.02, tick_interval=0.02, **FAST)
    async with await v6kit.open(tmp_path / "lake", "simulated", gateway=gateway) as desk:
        panel = desk.panel("strategies")
        for account, priority in (("DU2", 1), ("DU1", 2)):
            await open_form(desk, panel, "SPY")
            panel.fill("strategy_id", "7").fill("account", account).fill("priority", str(priority))
            await panel.click("register").settled()
            assert panel.selected == [f"7@{account}"]
            assert desk.registry["7", account].priority == priority
            assert desk.registry["7", account].accounts == (account,)
        assert panel.frame["key"].to_list() == ["7@DU1", "7@DU2"]
        await panel.click("form").settled()
        with pytest.raises(ValueError, match=r"account must be one of DU1, DU2, any, got 'DU9'; did you mean"):
            panel.fill("account", "DU9")
        for name in ("strategies", "queue", "book"):
            heads = [head["name"] for head in desk.panel(name)._state()["grid"]["columns"]]
            assert "account" in heads, f"{name} must tell whose each row is"


async def test_strikes_are_found_by_delta(desk: Desk):
    """Of a vertical, the leg that is chosen goes to the delta, and its wing follows at the width."""
    panel = desk.panel("strategies")
    await open_form(desk, panel, "SPY")
    await panel.fill("shape", "bull_put").fill("width", "15").fill("delta", "0.3").settled()
    await panel.click("register").settled()
    long, short = sorted(desk.registry["1"], key=lambda leg: leg.strike)
    assert (short.strike - long.strike, long.quantity, short.quantity) == (15.0, 1.0, -1.0)
    delta = desk.gateway.market.quote(short.conid).greeks.delta
    assert -0.45 < delta < -0.15


async def test_the_underlying_that_was_entered_last_is_the_one_that_counts(desk: Desk):
    """Although the answer for the one before comes later, and would take the new one's expiry away."""
    panel = desk.panel("strategies")
    await panel.click("form").settled()
    slow = await desk._engine.run(desk.broker.underlying("SPY"))
    desk.gateway.faults.hold_by_conid[slow.conid] = 0.5
    panel.fill("symbol", "SPY").fill("symbol", "QQQ")
    await eventually(lambda: panel._form.symbol)
    assert panel._form.symbol == "QQQ"
    [_, series, *_] = panel._form.series
    await panel.fill("expiry", series.expiry).settled()
    assert (panel._form.symbol, panel._form.chosen) == ("QQQ", series)
    assert panel._form.lacks() == ""


async def test_a_closed_panel_takes_nothing_in(desk: Desk):
    """It says how to have another one, instead of asking the gateway in vain."""
    panel = desk.panel("strategies")
    await panel.click("form").settled()
    panel.close()
    with pytest.raises(V6KitError, match=r"make it again with desk\.panel\('strategies'\)"):
        panel.fill("symbol", "SPY")
    assert panel._asking == 0


async def test_what_the_gateway_refuses_is_raised_and_the_form_stays(desk: Desk):
    """As with any button: the error is kept, shown and raised; what was filled in is not lost."""
    panel = desk.panel("strategies")
    await panel.click("form").settled()
    with pytest.raises(RequestFailedError, match="NOPE"):
        await panel.fill("symbol", "NOPE").settled()
    assert panel.below()[-1]["text"] == "choose an underlying"
    drawn = {each["name"]: each["off"] for each in panel._buttons.draw(closed=False)}
    assert drawn == {"register": True, "discard": False, "remove": True}
    with pytest.raises(ValueError, match=r"field must be one of symbol, expiry, .*got 'colour'"):
        panel.fill("colour", "red")
    await panel.click("discard").settled()
    with pytest.raises(ValueError, match="form is closed"):
        panel.fill("symbol", "SPY")


async def test_an_id_that_is_taken_is_refused_so_that_two_strategies_never_become_one(desk: Desk):
    """The registry would add the legs to those that are there; the form means a new strategy."""
    await condor(desk, "1")
    panel = desk.panel("strategies")
    await open_form(desk, panel, "QQQ")
    panel.fill("strategy_id", "1").click("register")
    with pytest.raises(RegistryError, match="active already"):
        await panel.settled()
    assert len(desk.registry["1"]) == 4
    await panel.fill("strategy_id", "2").click("register").settled()
    assert len(desk.registry["2"]) == 4


async def test_nothing_is_registered_while_the_gateway_still_looks_for_its_strikes(desk: Desk):
    """Who presses Enter twice would register the legs from before; he is told to wait for the answer."""
    panel = desk.panel("strategies")
    await open_form(desk, panel, "SPY")
    before = panel._form.code
    desk.gateway.faults.stalled = True
    panel.fill("delta", "0.3").click("register")
    await eventually(lambda: panel.last_error is not None)
    desk.gateway.faults.stalled = False
    with pytest.raises(RegistryError, match="register when the legs are shown"):
        await panel.settled()
    assert desk.registry.strategies().is_empty()
    assert panel._form.code != before
    await panel.click("register").settled()
    assert len(desk.registry["1"]) == 4


async def test_removing_asks_once_more_and_takes_only_the_strategy_of_that_account(desk: Desk):
    """The same id in an account and without one are two strategies."""
    await condor(desk, "1")
    account = desk.gateway.account.account_id
    await condor(desk, "1", account)
    panel = desk.panel("strategies")
    panel.selected = [f"1@{account}"]
    panel.click("remove")
    await panel.settled()
    assert panel._buttons.draw(closed=False)[-1]["label"] == "Remove 1 and end its streams? Click again"
    assert panel.frame.height == 2
    await panel.click("remove").settled()
    assert panel.frame.select("key", "lines").rows() == [("1", 4)]
    assert panel.chip("removed").frame["state"].to_list() == ["active", "removed"]


@pytest.mark.parametrize("name", sorted(name for name, kind in PANELS.items() if not kind.is_of_past))
async def test_every_panel_shows_the_past_in_its_own_columns_and_rests(desk: Desk, name: str):
    """As of an instant: the same columns, nothing of what came later, no button; then back to what is now."""
    await condor(desk, "1")
    await desk.run_cycle()
    panel = desk.panel(name)
    earlier, then = panel.frame, desk.clock.now()
    await desk.registry.remove_strategy("1")
    await desk.sync()
    await desk.run_cycle()
    panel.as_of = then
    past = panel.frame
    assert past.schema == earlier.schema
    assert past.height == earlier.height
    assert set(past[panel.key]) == set(earlier[panel.key]) or name == "lines"
    assert not panel.is_live
    assert all(button["off"] for button in panel._buttons.draw(closed=not panel._may_act()))
    with pytest.raises(V6KitError, match="shows the past"):
        panel.click("whatever")
    panel.as_of = None
    assert panel.is_live


async def test_a_strategy_is_selected_by_its_id_as_it_was_registered(desk: Desk):
    """A number is as good as a text here as in the registry."""
    await condor(desk, 1)
    panel = desk.panel("strategies")
    for chosen in (1, [1], "1", ["1"]):
        panel.selected = []
        panel.selected = chosen
        assert panel.selected == ["1"]
        assert panel.legs.height == 4
    with pytest.raises(ValueError, match="no row has the key '2'"):
        panel.selected = 2


async def test_before_the_first_change_a_panel_is_empty_and_says_so(desk: Desk):
    """No error, and no guess: there is nothing to be seen, and the strip tells from when on there is."""
    await condor(desk, "1")
    panel = desk.panel("strategies")
    panel.as_of = "2001-01-01 00:00:00+00:00"
    assert panel.frame.height == 0
    assert "2001-01-01" in panel._trouble()["line"]
    assert panel.last_error is None
    with pytest.raises(ValueError, match="as_of must say how far it is from UTC"):
        panel.as_of = "2026-11-22 14:00:00"


async def test_the_code_of_the_past_gives_what_is_seen(desk: Desk):
    """What is copied while looking back looks back."""
    await condor(desk, "1")
    panel = desk.panel("queue")
    panel.as_of = desk.clock.now()
    shown = panel.frame
    await desk.run_cycle()
    assert eval(panel.code.splitlines()[-1], {"frames": frames, "desk": desk}).equals(shown)  # noqa: S307


def done(panel: Panel) -> int:
    """Return how many requests a page shows as successful."""
    return sum("SUCCESS" in row["cells"] for row in panel._surface.grid["rows"])


def look(panel: Panel) -> None:
    """Let a page say that it shows a panel."""
    content = {"do": "see", "view": "a-view", "number": 0}
    panel._on_screen()._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


async def test_one_instant_moves_every_tab_and_panels_beside_it_stay(desk: Desk):
    """The dashboard's panels share it; a panel of its own in another cell is neither moved nor closed."""
    alone = desk.panel("queue")
    dashboard = desk.dashboard().open("queue")
    assert alone.is_live
    await desk.run_cycle()
    dashboard.as_of = desk.clock.now()
    assert {dashboard.open(name).panel.as_of for name in PANELS} == {dashboard.as_of}
    assert alone.as_of is None
    dashboard.open("book").panel.as_of = None  # any of them sets it for all
    assert dashboard.as_of is None
    with pytest.raises(ValueError, match="must be one of strategies"):
        dashboard.open("nope")


async def test_a_tab_that_looks_is_moved_at_once(desk: Desk):
    """What is seen is drawn again, with the instant in the head."""
    dashboard = desk.dashboard().open("queue")
    panel = dashboard.panel
    look(panel)
    await eventually(lambda: panel.audience.is_there)
    before = desk.clock.now()
    await desk.run_cycle()
    await eventually(lambda: done(panel))
    dashboard.as_of = before
    await eventually(lambda: panel._surface.head["state"] == "past" and not done(panel))
    dashboard.as_of = None
    await eventually(lambda: panel._surface.head["state"] == "live" and done(panel))


async def test_a_dashboard_waits_for_its_panels_and_is_saved_with_the_open_one(desk: Desk, tmp_path: Path):
    """What a button in a tab has started, and what failed there, is the dashboard's, too; so is the tab's picture."""
    await condor(desk, "1")
    dashboard = desk.dashboard().open("worker")
    dashboard.panel.click("run")
    await dashboard.settled()
    assert desk.worker.last_report.settled > 0
    dashboard.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("class='v6-static'") == 2
    assert "<b>Worker</b>" in page
    form = dashboard.open("strategies").panel
    await form.click("form").settled()
    form.fill("symbol", "NOSUCH")
    with pytest.raises(RequestFailedError):
        await dashboard.open("worker").settled()


async def test_a_closed_dashboard_makes_no_panel_that_nobody_would_close(desk: Desk):
    """A tab that was open can be looked at again, another one cannot."""
    dashboard = desk.dashboard().open("queue")
    dashboard.close()
    assert dashboard.open("strategies").panel.title == "Strategies"
    with pytest.raises(V6KitError, match=r"make it again with desk\.dashboard\(\)"):
        dashboard.open("book")
    assert dashboard.panel.title == "Strategies"


async def test_a_dashboard_has_a_picture_and_closes_with_all_its_panels(desk: Desk):
    """Top and open tab for where there is no widget; after the second one the first is closed."""
    await condor(desk, "1")
    first = desk.dashboard()
    data, _ = first._repr_mimebundle_()
    assert "strategies: 1 active" in data["text/html"]
    assert "IRON_CONDOR" in data["text/html"]
    assert "0x" not in data["text/plain"]
    inside = first.panel
    second = desk.dashboard()
    assert not first.is_live
    assert not inside.is_live
    assert second.is_live
