"""Several accounts on one login, through TCP: each is followed, and the trouble of one is not that of the others."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import v6kit
from broker_helpers import PATIENT, QUICK, Heard, broker_for, connected, reached, requests_for, states_of
from sync_helpers import FAST, Breakage, asked, eventually, legs_of, rigged, without_throttle
from v6kit.broker import ConnectionState
from v6kit.clock import FakeClock
from v6kit.contracts import Quality, Source
from v6kit.errors import ClientIdInUseError, GatewayUnavailableError, StorageError
from v6kit.gateway import Answer, SimulatedGateway
from v6kit.sync import decisions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Connector, GatewayMaker
    from sync_helpers import Rig
    from v6kit.broker import Broker

FIRST, SECOND = IDS = ("DU0000001", "DU0000002")


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Take ib_async's own throttle away."""
    with without_throttle():
        yield


@pytest.fixture
async def gateway(make_gateway: GatewayMaker) -> SimulatedGateway:
    """A running gateway with two accounts, of 40 and 24 positions."""
    return await make_gateway((40, 24), accounts=IDS, **FAST)


def shared_conid(gateway: SimulatedGateway) -> int:
    """Return an option that both accounts hold."""
    first, second = (
        {each.instrument.conid for each in account.positions if each.instrument.sec_type == "OPT"}
        for account in gateway.accounts.values()
    )
    return min(first & second)


def followed(gateway: SimulatedGateway) -> list[str]:
    """Return the accounts whose updates were asked for, in order."""
    return [fields[3] for fields in requests_for(gateway, "REQ_ACCOUNT_UPDATES")]


async def has_portfolio(broker: Broker, *accounts: str) -> None:
    """Wait until the whole portfolio of each account has come in, in as many rounds as it takes."""

    def is_there() -> bool:
        broker._rounds.start()
        return all(broker.status_of(each).portfolio_at and not broker.status_of(each).trouble for each in accounts)

    await eventually(is_there)


async def in_trouble(broker: Broker, account: str) -> str:
    """Wait until an account is in trouble, in as many rounds as it takes; return the words."""

    def is_told() -> str | None:
        broker._rounds.start()
        return broker.status_of(account).trouble

    await eventually(is_told)
    return broker.status_of(account).trouble


async def round_is_over(broker: Broker) -> None:
    """Wait for the end of the round of portfolios that is under way."""
    await eventually(lambda: not broker._rounds.is_going)


def lose_account(gateway: SimulatedGateway, account: str) -> object:
    """Take an account from the login; return it, so that it can be given back."""
    return gateway._shared.accounts.pop(account)


def rows_of(rig: Rig, account: str) -> list[v6kit.positions.BookRow]:
    """Return an account's rows of the book."""
    return [row for row in rig.book.rows() if row.account == account]


# --- the portfolio goes round ---------------------------------------------------------------------------------------


async def test_every_account_of_the_login_is_followed_in_turn(
    gateway: SimulatedGateway, caplog: pytest.LogCaptureFixture
):
    """One after the other, without being named; in between the first one; switching is no cause for a warning."""
    caplog.set_level(logging.INFO, "v6kit")
    async with connected(gateway) as broker:
        await round_is_over(broker)
        assert followed(gateway) == [FIRST, SECOND, FIRST]
        rows = await broker.portfolio()  # which begins the next round
        assert {account: sum(row.account == account for row in rows) for account in IDS} == {FIRST: 40, SECOND: 24}
        assert broker.accounts == IDS
        await round_is_over(broker)
        assert followed(gateway) == [FIRST, SECOND, FIRST, SECOND, FIRST]
    assert not any("took the account updates" in each.message for each in caplog.records)
    assert not any(each.levelno >= logging.WARNING for each in caplog.records)


async def test_a_single_account_is_followed_once_and_for_all(make_gateway: GatewayMaker):
    """Its updates come by themselves, so nothing is asked for again."""
    gateway = await make_gateway(20)
    async with connected(gateway) as broker:
        for _ in range(3):
            assert len(await broker.portfolio()) == 20
        await broker.current_time()
        assert followed(gateway) == [FIRST]


async def test_what_an_account_is_worth_is_known_of_each(gateway: SimulatedGateway, clock: FakeClock):
    """The net liquidation value comes along with the portfolio, at no request more."""
    async with connected(gateway, clock=clock) as broker:
        await round_is_over(broker)
        one, two = (broker.status_of(account) for account in IDS)
        assert one.net_liquidation != two.net_liquidation
        assert (one.currency, one.portfolio_at, one.trouble) == ("USD", clock.now(), None)


async def test_a_silent_account_neither_keeps_from_connecting_nor_the_others_waiting(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """The login connects, all positions are there, the other portfolio comes; the trouble is said once, in words."""
    gateway.faults.silent_accounts.add(SECOND)
    async with rigged(gateway, tmp_path, clock, timings=replace(PATIENT, request_timeout=1.0)) as rig:
        streamer = rig.streamer()
        await streamer.sync()
        assert len(rig.book.rows()) == 64
        await has_portfolio(rig.broker, FIRST)
        assert f"portfolio of account {SECOND}" in await in_trouble(rig.broker, SECOND)
        for _ in range(2):
            await round_is_over(rig.broker)
            await streamer.sync()
        await round_is_over(rig.broker)
        assert rig.broker.status_of(FIRST).trouble is None
        assert {row.source for row in rows_of(rig, FIRST)} == {Source.PORTFOLIO}
        assert {row.source for row in rows_of(rig, SECOND)} == {None}
        assert followed(gateway)[-1] == FIRST  # the one that answers is followed in between
        assert sum(f"No portfolio of account {SECOND}" in each.message for each in caplog.records) == 1
        gateway.faults.silent_accounts.clear()
        await rig.broker.portfolio()
        await has_portfolio(rig.broker, SECOND)
        assert rig.broker.status_of(SECOND).trouble is None


async def test_an_account_that_falls_silent_keeps_its_old_values_and_their_age(
    gateway: SimulatedGateway, clock: FakeClock
):
    """What was known stays known, and `received_at` does not lie about it; the other account gets newer."""
    async with connected(gateway, clock=clock, timings=replace(PATIENT, request_timeout=0.5)) as broker:
        await has_portfolio(broker, *IDS)
        await round_is_over(broker)
        before = clock.now()
        gateway.faults.silent_accounts.add(SECOND)
        clock.advance(timedelta(minutes=5))
        await in_trouble(broker, SECOND)
        await eventually(lambda: broker.status_of(FIRST).portfolio_at == clock.now())
        rows = broker._account_book.portfolio(IDS)
        assert {row.received_at for row in rows if row.account == SECOND} == {before}
        assert {row.received_at for row in rows if row.account == FIRST} == {clock.now()}
        assert broker.status_of(SECOND).portfolio_at == before


async def test_an_end_that_comes_late_is_not_taken_for_another_accounts(gateway: SimulatedGateway):
    """The rows of a slow account are still its own, and complete nothing else."""
    async with connected(gateway) as broker:
        await round_is_over(broker)
        gateway.faults.silent_accounts.add(SECOND)
        session = broker._connection.session
        waiting = asyncio.create_task(session.follow_account(SECOND, seconds=5.0))
        await broker.current_time()
        session._router.accountDownloadEnd(FIRST)
        await broker.current_time()
        assert not waiting.done()
        session._router.accountDownloadEnd(SECOND)
        await waiting


async def test_a_login_that_is_refused_the_portfolio_works_without_it(gateway: SimulatedGateway, connect: Connector):
    """Another program follows another account (2101): positions and prices come, and the trouble is in words."""
    await connect(gateway, client_id=9, account=FIRST)
    async with connected(gateway, account=SECOND) as broker:
        assert broker.state is ConnectionState.LIVE
        assert "2101" in await in_trouble(broker, SECOND)
        assert len(await broker.positions()) == 24
        option = next(each.instrument for each in gateway.accounts[SECOND].positions)
        assert (await broker.snapshot(option)).quality is Quality.OK


async def test_updates_that_another_client_took_are_asked_for_once_more(gateway: SimulatedGateway):
    """Outside of a round, 2100 means what it meant before, of the account that is followed."""
    async with connected(gateway) as broker:
        await round_is_over(broker)
        notices = Heard(broker.on_notice)
        for _ in range(2):
            gateway.broadcast(2100)
            await notices.until(lambda code, _text: code == 2100)
        await broker.current_time()
        assert followed(gateway) == [FIRST, SECOND, FIRST, FIRST]


async def test_a_round_that_was_cut_short_blames_nobody_for_what_it_ended(
    gateway: SimulatedGateway, caplog: pytest.LogCaptureFixture
):
    """Its last request may be answered with 2100 after we have stopped waiting, as when a command ends."""
    gateway.faults.silent_accounts.add(SECOND)
    async with connected(gateway) as broker:
        notices = Heard(broker.on_notice)
        assert broker._rounds.is_going
        await broker._rounds.close()
        gateway.broadcast(2100)
        await notices.until(lambda code, _text: code == 2100)
        assert "Another client" not in caplog.text


async def test_a_drop_in_the_midst_of_a_round_begins_a_new_one(gateway: SimulatedGateway):
    """Nothing hangs on the account that was being asked; after the reconnect all are asked again."""
    gateway.faults.silent_accounts.add(SECOND)
    async with connected(gateway) as broker:
        states = states_of(broker)
        assert broker._rounds.is_going
        gateway.faults.silent_accounts.clear()
        gateway.drop_clients(7)
        await reached(states, ConnectionState.LIVE)
        await has_portfolio(broker, *IDS)
        assert broker.status_of(SECOND).trouble is None


# --- restricting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("account", "expected"), [(SECOND, {SECOND: 24}), (IDS[::-1], {FIRST: 40, SECOND: 24})])
async def test_a_desk_may_be_kept_to_some_accounts(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, account: object, expected: dict[str, int]
):
    """Positions, events and portfolio of the others are nobody's business here, and their rows are left alone."""
    async with rigged(gateway, tmp_path, clock, account=account) as rig:
        streamer = rig.streamer()
        await streamer.start()
        await has_portfolio(rig.broker, *expected)
        for each in gateway.accounts.values():
            each.set_position(each.positions[0].instrument.conid, 77)
        await rig.until(lambda: sum(row.position == 77 for row in rig.book.rows()) == len(expected))
        found = [row.account for row in rig.book.rows()]
        assert {each: found.count(each) for each in set(found)} == expected
        assert {row.account for row in await rig.broker.portfolio()} == set(expected)


async def test_two_desks_share_lake_and_login_and_each_keeps_to_its_accounts(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The second desk's sync closes nothing of the first one's and asks for nothing of it."""
    async with rigged(gateway, tmp_path, clock, account=FIRST) as one:
        await one.streamer().sync()
    async with rigged(gateway, tmp_path, clock, account=SECOND) as two:
        await two.queue.cancel([each.request_id for each in two.requests()])
        await two.streamer().sync()
        assert (len(rows_of(two, FIRST)), len(rows_of(two, SECOND))) == (40, 24)
        assert {each.account for each in two.requests() if each.status == "PENDING"} == {SECOND}


async def test_a_name_that_the_login_does_not_manage_is_refused(gateway: SimulatedGateway):
    """The error names it and the accounts that there are; wrong types are named, too."""
    with pytest.raises(ValueError, match=f"account must be one of {FIRST}, {SECOND}, got 'DU9'"):
        await broker_for(gateway, account=(FIRST, "DU9")).connect()
    with pytest.raises(TypeError, match="account must be an account's id or several, got 5"):
        broker_for(gateway, account=5)
    with pytest.raises(TypeError, match="account must be a string, got 5"):
        broker_for(gateway, account=(5,))


# --- isolation ------------------------------------------------------------------------------------------------------


async def test_positions_that_close_in_one_account_stay_open_in_the_other(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The same contract, two rows: one goes, the other keeps its quantity and its stream."""
    conid = shared_conid(gateway)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.registry.add_strategy(1, legs_of(gateway.accounts[FIRST].position(conid)))
        streamer = rig.streamer()
        await streamer.start()
        kept = gateway.accounts[FIRST].position(conid).quantity
        for each in gateway.accounts[SECOND].positions:
            gateway.accounts[SECOND].set_position(each.instrument.conid, 0)
        await rig.until(lambda: not rows_of(rig, SECOND))
        assert len(rows_of(rig, FIRST)) == 40
        assert next(row for row in rows_of(rig, FIRST) if row.conid == conid).position == kept
        assert streamer.streaming == {conid}


async def test_a_streamed_quote_is_written_to_each_account_that_holds_the_contract(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """One line serves both accounts, and both rows say the same of the market."""
    conid = shared_conid(gateway)
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.registry.add_strategy(1, legs_of(gateway.accounts[FIRST].position(conid)), account=FIRST)
        await rig.streamer().start()
        one, two = await rig.until(
            lambda: (
                (rows := [row for row in rig.book.rows() if row.conid == conid])
                and all(row.source == Source.STREAM for row in rows)
                and rows
            )
        )
        assert (one.account, two.account) == IDS
        assert (one.bid, one.ask) == (two.bid, two.ask)
        assert one.position != two.position
        assert rig.broker.lines.used == 1


async def test_an_account_that_the_login_loses_is_stale_and_never_flat(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
):
    """Its rows keep their quantities, nothing refreshes them, and an error says so; once it is back all goes on."""
    async with rigged(gateway, tmp_path, clock) as rig:
        conid = shared_conid(gateway)
        await rig.registry.add_strategy(1, legs_of(gateway.accounts[FIRST].position(conid)), account=FIRST)
        streamer = rig.streamer()
        await streamer.start()
        await rig.worker(batch_size=64).run_cycle()
        await rig.until(lambda: {row.quality for row in rig.book.rows()} == {"ok"})
        before = {row.conid: row.position for row in rows_of(rig, SECOND)}
        states, gone = states_of(rig.broker), lose_account(gateway, SECOND)
        gateway.drop_clients(7)
        await reached(states, ConnectionState.LIVE)
        await rig.until(lambda: {row.quality for row in rows_of(rig, SECOND)} == {"stale"})
        assert {row.conid: row.position for row in rows_of(rig, SECOND)} == before
        assert rig.broker.lost_accounts == {SECOND}
        loud = [each.message for each in caplog.records if each.levelno == logging.ERROR]
        assert [SECOND in each and "they are not flat" in each for each in loud] == [True]
        clock.advance(timedelta(minutes=2))
        await streamer.sync()
        assert {each.account for each in rig.requests() if each.status == "PENDING"} == {FIRST}
        await rig.until(lambda: next(r for r in rows_of(rig, FIRST) if r.conid == conid).quality == "ok")
        await streamer._writer.write()
        assert {row.quality for row in rows_of(rig, SECOND)} == {"stale"}  # the stream writes to it no longer
        assert (await streamer.reconcile())["account"].unique().to_list() == [FIRST]

        gateway._shared.accounts[SECOND] = gone
        gateway.drop_clients(7)
        await reached(states, ConnectionState.LIVE)
        await streamer.sync()
        assert rig.broker.lost_accounts == frozenset()
        assert rig.broker.status_of(SECOND).trouble is None
        assert {each.account for each in rig.requests() if each.status == "PENDING"} == {FIRST, SECOND}


async def without_second(rig: Rig) -> None:
    """Let the login lose its second account, whose rows are marked as the streamer does it."""
    states = states_of(rig.broker)
    lose_account(rig.gateway, SECOND)
    rig.gateway.drop_clients(7)
    await reached(states, ConnectionState.LIVE)
    assert rig.broker.lost_accounts == {SECOND}
    await rig.book.mark_stale(accounts=[SECOND])


async def test_a_request_for_a_lost_account_is_cancelled_unasked(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """It may be claimed before the streamer has cancelled it; one for any account goes to another that holds it."""
    async with rigged(gateway, tmp_path, clock) as rig:
        conid, worker = shared_conid(gateway), rig.worker(batch_size=64)
        await rig.fill()
        await worker.run_cycle()
        await without_second(rig)
        await rig.queue.insert_many([decisions.wanted(row, 1) for row in rows_of(rig, SECOND)])
        anywhere = await rig.queue.insert(conid, "any account's")
        before = len(asked(gateway))
        report = await worker.run_cycle()
        assert (report.cancelled, report.settled) == (24, 1)
        assert asked(gateway)[before:] == [conid]
        assert {row.quality for row in rows_of(rig, SECOND)} == {"stale"}
        assert rig.queue[anywhere].status == "SUCCESS"
        assert f"{SECOND} is no account of this login any more" in next(iter(report.problems))


async def test_what_was_fetched_before_an_account_was_lost_makes_no_row_of_it_good(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """A quote that could not be written at once may outlive the account."""
    async with rigged(gateway, tmp_path, clock) as rig:
        await rig.book.sync(await rig.broker.positions())
        row, *_ = rows_of(rig, SECOND)
        request = await rig.queue.insert(row.conid, "before", account=SECOND)
        worker, breakage = rig.worker(), Breakage(rig.book)
        with pytest.raises(StorageError):
            await worker.run_cycle()
        breakage.mend()
        await without_second(rig)
        report = await worker.run_cycle()
        assert (report.cancelled, report.settled) == (1, 0)
        assert rig.queue[request].status == "CANCELLED"
        assert next(each for each in rows_of(rig, SECOND) if each.conid == row.conid).quality != "ok"


async def test_losing_the_only_account_that_was_named_is_not_flat_either(
    gateway: SimulatedGateway, tmp_path: Path, clock: FakeClock
):
    """The link stays up with nothing to follow, and the book keeps what it knew; a stream goes on, but not for it."""
    async with rigged(gateway, tmp_path, clock, account=SECOND) as rig:
        leg = gateway.accounts[SECOND].position(shared_conid(gateway))
        await rig.registry.add_strategy(1, legs_of(leg))
        streamer = rig.streamer()
        await streamer.start()
        await rig.worker(batch_size=64).run_cycle()
        await rig.until(lambda: {row.quality for row in rows_of(rig, SECOND)} == {"ok"})
        states = states_of(rig.broker)
        lose_account(gateway, SECOND)
        gateway.drop_clients(7)
        await reached(states, ConnectionState.LIVE)
        await streamer.sync()
        assert rig.broker.accounts == ()
        clock.advance(timedelta(minutes=2))
        quotes = Heard(rig.broker.on_quote)
        await quotes.until(lambda quote: quote.quality == "ok" and quote.received_at == clock.now())
        await streamer.sync()
        await streamer._writer.write()
        assert [row.quality for row in rows_of(rig, SECOND)] == ["stale"] * 24
        assert all(each.status != "PENDING" for each in rig.requests())


async def test_above_fifty_accounts_the_error_says_that_ib_does_not_serve_positions(make_gateway: GatewayMaker):
    """The gateway says nothing at all then, so the reason is ours to give."""
    gateway = await make_gateway(1, accounts=[f"DU{number}" for number in range(51)])
    gateway.faults.silent_answers |= {Answer.POSITION, Answer.POSITION_END}
    with pytest.raises(GatewayUnavailableError, match="manages 51 accounts, and above 50 IB does not serve positions"):
        await broker_for(gateway, connect_timeout=0.5).connect()


# --- a client id that somebody else has -----------------------------------------------------------------------------


async def in_use(gateway: SimulatedGateway, connect: Connector) -> None:
    """Let another program have client id 7 from now on, whoever has it at present."""
    await connect(gateway, client_id=8)
    next(each for each in gateway._shared.sessions if each.client_id == 8).client_id = 7


async def test_a_client_id_that_stays_in_use_is_given_up_and_named(
    gateway: SimulatedGateway, connect: Connector, caplog: pytest.LogCaptureFixture
):
    """A few tries, then DOWN with the id and the next step; `connect` begins again, and the old streams come back."""
    option = gateway.account.positions[0].instrument
    async with connected(gateway, timings=replace(PATIENT, client_id_wait=0.2)) as broker:
        await broker.subscribe(option)
        await in_use(gateway, connect)
        gateway.broadcast(1300)
        await eventually(lambda: "given up" in broker.state_reason)
        assert broker.state is ConnectionState.DOWN
        assert "client id 7 is in use" in broker.state_reason
        assert "await desk.connect()" in broker.state_reason
        assert sum(each.levelno == logging.CRITICAL for each in caplog.records) == 1
        tries = gateway.log.refused[326]
        assert tries >= 2
        await eventually(broker._connection._supervisor.done)
        assert gateway.log.refused[326] == tries  # nobody is left who could try again
        with pytest.raises(ClientIdInUseError, match="client id 7"):
            await broker.connect()
        gateway.drop_clients(7)
        await eventually(lambda: gateway.client_ids == [])
        await broker.connect()
        assert broker.state is ConnectionState.LIVE
        assert broker.streaming == {option.conid}


async def test_our_own_former_session_may_hold_the_client_id_for_a_while(gateway: SimulatedGateway, connect: Connector):
    """The gateway notices late that we are gone; that is no reason to give up."""
    async with connected(gateway) as broker:
        states = states_of(broker)
        await in_use(gateway, connect)
        gateway.broadcast(1300)
        await eventually(lambda: gateway.log.refused[326] >= 2)
        gateway.drop_clients(7)
        await reached(states, ConnectionState.LIVE)


# --- at a desk ------------------------------------------------------------------------------------------------------


async def test_a_desk_shows_what_is_known_of_each_account(tmp_path: Path):
    """Positions, legs, the portfolio's age, worth and trouble: by id, as text and as a table."""
    gateway = SimulatedGateway((20, 12), accounts=IDS, snapshot_hold=0.02, tick_interval=0.02, **FAST)
    gateway.faults.silent_accounts.add(SECOND)
    async with await v6kit.open(tmp_path, "simulated", gateway=gateway) as desk:
        await desk.registry.add_strategy(1, legs_of(gateway.account.positions[0]), account=FIRST)
        await desk.registry.add_strategy(2, legs_of(gateway.account.positions[0]), account="U<9>")
        await eventually(lambda: desk.accounts[FIRST].portfolio_age is not None)
        one, two, other = desk.accounts
        assert [each.account for each in desk.accounts] == [*IDS, "U<9>"]
        assert (one.positions, one.legs, one.trouble, one.currency) == (20, 1, None, "USD")
        assert one.net_liquidation > 0
        assert one.portfolio_age < timedelta(minutes=1)
        assert (two.positions, two.portfolio_age, two.net_liquidation) == (12, None, None)
        assert (other.is_followed, other.positions, other.legs) == (False, 0, 1)
        assert "named by strategies only" in other.trouble
        lines = repr(desk.accounts).splitlines()
        assert lines[1].split()[:2] == ["account", "positions"]
        assert [line.split()[0] for line in lines[2:]] == [*IDS, "U<9>"]
        assert "U&lt;9&gt;" in desk.accounts._repr_html_()
        assert FIRST in repr(desk)
        with pytest.raises(KeyError, match=f"no account 'X'; known are {FIRST}"):
            desk.accounts["X"]
        await desk.connect()  # which does nothing while the link is kept up
        frame = await desk.reconcile()
        assert frame.filter(finding="missing")["strategy_account"].to_list() == ["U<9>"]


async def test_a_desk_reconciles_and_applies_per_account(tmp_path: Path):
    """One strategy in two accounts: a difference in one is taken over there, and the other account's leg stays."""
    gateway = SimulatedGateway((20, 12), accounts=IDS, snapshot_hold=0.02, tick_interval=0.02, **FAST)
    async with await v6kit.open(tmp_path, "simulated", gateway=gateway) as desk:
        conid = shared_conid(gateway)
        for account in IDS:
            await desk.registry.add_strategy(1, legs_of(gateway.accounts[account].position(conid)), account=account)
        before = {leg.account: leg.quantity for leg in desk.registry[1]}
        gateway.accounts[SECOND].set_position(conid, 9 * before[SECOND])
        frame = (await desk.reconcile()).filter(finding="quantity")
        assert frame.select("account", "strategy_id", "strategy_account", "becomes").rows() == [
            (SECOND, "1", SECOND, 9 * before[SECOND])
        ]
        await desk.apply(frame)
        assert {leg.account: leg.quantity for leg in desk.registry[1]} == before | {SECOND: 9 * before[SECOND]}
        assert (await desk.reconcile()).filter(finding="quantity").is_empty()


async def test_a_desk_whose_client_id_was_taken_connects_again_by_hand(tmp_path: Path):
    """From any loop; `desk.accounts` says that the gateway is down, and the streams are back afterwards."""
    gateway = SimulatedGateway((20, 12), accounts=IDS, snapshot_hold=0.02, tick_interval=0.02, **FAST)
    async with await v6kit.open(tmp_path, "simulated", gateway=gateway) as desk:
        legs = legs_of(*gateway.account.iron_condors[0])
        await desk.registry.add_strategy(1, legs)
        await eventually(lambda: desk.lines.streams == len(legs))
        connection = desk.broker._connection
        connection._timings = replace(QUICK, heartbeat=30.0, client_id_wait=0.2)  # else it tries for a minute
        session = next(iter(gateway._shared.sessions))
        other = await asyncio.open_connection(gateway.host, gateway.port)
        await eventually(lambda: len(gateway._shared.sessions) == 2)
        next(each for each in gateway._shared.sessions if each is not session).client_id = 7
        gateway.broadcast(1300)
        await eventually(lambda: "given up" in desk.broker.state_reason)
        assert desk.accounts[FIRST].trouble == "the gateway is down"
        with pytest.raises(ClientIdInUseError):
            await desk.connect()
        other[1].close()
        await eventually(lambda: gateway.client_ids == [])
        await desk.connect()
        assert desk.broker.state is ConnectionState.LIVE
        await eventually(lambda: desk.lines.streams == len(legs))
        assert desk.accounts[FIRST].trouble is None
