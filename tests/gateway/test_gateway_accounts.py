"""Several accounts on one login of the simulated gateway, with the real ib_async client over TCP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import ib_async
import pytest
from tests.patience import DEADLINE
from v6kit.gateway import SimulatedGateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Errors = asyncio.Queue[tuple[int, int, str]]

FIRST, SECOND = IDS = ("DU0000001", "DU0000002")


async def error_with(errors: Errors, code: int) -> tuple[int, int, str]:
    """Wait for the next error with a code."""
    async with asyncio.timeout(DEADLINE):
        while True:
            error = await errors.get()
            if error[1] == code:
                return error


async def round_trip(ib: ib_async.IB) -> None:
    """Wait until all that was sent before is answered."""
    async with asyncio.timeout(DEADLINE):
        await ib.reqCurrentTimeAsync()


def held_by(gateway: SimulatedGateway) -> dict[tuple[str, int], float]:
    """Return each account's quantities by contract."""
    return {
        (name, each.instrument.conid): each.quantity
        for name, account in gateway.accounts.items()
        for each in account.positions
    }


@pytest.fixture
async def gateway(make_gateway: Callable[..., Awaitable[SimulatedGateway]]) -> SimulatedGateway:
    """A running gateway with two accounts, of 40 and 24 positions."""
    return await make_gateway((40, 24), accounts=IDS)


async def test_a_client_learns_of_all_accounts_and_of_what_each_holds(
    gateway: SimulatedGateway, ib: ib_async.IB
) -> None:
    """Positions of all accounts come with one request, each with its account."""
    assert ib.managedAccounts() == list(IDS)
    assert {(each.account, each.contract.conId): each.position for each in ib.positions()} == held_by(gateway)
    assert {each.account for each in ib.accountValues()} == set(IDS)
    assert gateway.account is gateway.accounts[FIRST]


async def test_accounts_share_contracts_with_quantities_of_their_own(gateway: SimulatedGateway) -> None:
    """One stream serves both accounts, but each has its own position."""
    first, second = (
        {each.instrument.conid: each.quantity for each in gateway.accounts[name].positions} for name in IDS
    )
    shared = first.keys() & second.keys()
    assert len(shared) >= 4
    assert {conid: first[conid] for conid in shared} != {conid: second[conid] for conid in shared}


def test_a_second_account_does_not_change_the_first() -> None:
    """What the first account holds depends on the seed alone."""
    one, two = SimulatedGateway(40), SimulatedGateway(40, accounts=IDS)
    assert [each.quantity for each in one.account.positions] == [each.quantity for each in two.account.positions]
    assert "80 positions in 2 accounts" in repr(two)


async def test_the_portfolio_is_that_of_the_account_that_was_asked_for(
    gateway: SimulatedGateway, connect: Callable[..., Awaitable[ib_async.IB]]
) -> None:
    """Portfolio items carry the account, and no other account's."""
    ib = await connect(gateway, account=SECOND)
    assert {each.account for each in ib.portfolio()} == {SECOND}
    assert len(ib.portfolio()) == 24


async def test_asking_for_another_account_ends_the_former_one(
    gateway: SimulatedGateway, connect: Callable[..., Awaitable[ib_async.IB]], errors_of: Callable[..., Errors]
) -> None:
    """The client hears 2100, and from then on only the new account's changes."""
    ib = await connect(gateway, account=FIRST)
    errors = errors_of(ib)
    async with asyncio.timeout(DEADLINE):
        await ib.reqAccountUpdatesAsync(SECOND)
    assert await error_with(errors, 2100) == (-1, 2100, "API client has been unsubscribed from account data.")
    sent = gateway.log.sent["PORTFOLIO_VALUE"]
    for name in IDS:
        account = gateway.accounts[name]
        account.set_position(account.positions[0].instrument.conid, 99)
    await round_trip(ib)
    assert gateway.log.sent["PORTFOLIO_VALUE"] == sent + 1
    assert [each.account for each in ib.portfolio() if each.position == 99] == [SECOND]


async def test_asking_for_the_same_account_again_ends_nothing(
    gateway: SimulatedGateway, connect: Callable[..., Awaitable[ib_async.IB]]
) -> None:
    """The portfolio simply comes once more."""
    ib = await connect(gateway, account=FIRST)
    before = gateway.log.sent["ERROR"], gateway.log.sent["PORTFOLIO_VALUE"]
    async with asyncio.timeout(DEADLINE):
        await ib.reqAccountUpdatesAsync(FIRST)
    assert (gateway.log.sent["ERROR"], gateway.log.sent["PORTFOLIO_VALUE"]) == (before[0], before[1] + 40)


async def test_a_client_that_stops_following_hears_so(
    gateway: SimulatedGateway, connect: Callable[..., Awaitable[ib_async.IB]], errors_of: Callable[..., Errors]
) -> None:
    """IB confirms the end of account updates with 2100, too."""
    ib = await connect(gateway, account=FIRST)
    errors = errors_of(ib)
    ib.client.reqAccountUpdates(False, FIRST)
    await error_with(errors, 2100)


async def test_an_account_is_refused_while_another_client_follows_a_different_one(
    gateway: SimulatedGateway, connect: Callable[..., Awaitable[ib_async.IB]], errors_of: Callable[..., Errors]
) -> None:
    """Error 2101 names the client that is in the way; the same account may be followed by both."""
    first, second = await connect(gateway, 1, account=FIRST), await connect(gateway, 2, account=FIRST)
    errors = errors_of(second)
    second.client.reqAccountUpdates(True, SECOND)
    assert (await error_with(errors, 2101))[2].endswith("subscribed to a different account. 1")
    first.client.reqAccountUpdates(False, FIRST)
    await round_trip(first)
    async with asyncio.timeout(DEADLINE):
        await second.reqAccountUpdatesAsync(SECOND)
    assert len(second.portfolio(SECOND)) == 24


def ask_for_updates(ib: ib_async.IB, name: str) -> None:
    """Ask for one account's updates."""
    ib.client.reqAccountUpdates(True, name)


REQUESTS = {
    "updates": ask_for_updates,
    "values": lambda ib, name: ib.client.reqAccountUpdatesMulti(77, name, "", False),
    "positions": lambda ib, name: ib.client.reqPositionsMulti(77, name, ""),
    "summary": lambda ib, name: ib.client.reqAccountSummary(77, name, "NetLiquidation"),
    "profit": lambda ib, name: ib.client.reqPnL(77, name, ""),
    "profit of one": lambda ib, name: ib.client.reqPnLSingle(77, name, "", ib.positions()[0].contract.conId),
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_an_account_that_is_not_of_this_login_gives_321(
    ib: ib_async.IB, errors_of: Callable[..., Errors], what: str
) -> None:
    """Never silence: the error names the account, with the request's id if it has one."""
    errors = errors_of(ib)
    REQUESTS[what](ib, "DU9999999")
    req_id, _, text = await error_with(errors, 321)
    assert req_id == (-1 if what == "updates" else 77)
    assert "Invalid account code 'DU9999999'" in text


@pytest.mark.parametrize("what", ["updates", "profit", "profit of one"])
async def test_with_several_accounts_one_must_be_named(
    ib: ib_async.IB, errors_of: Callable[..., Errors], what: str
) -> None:
    """Where the answer is one account's, none named is an error."""
    errors = errors_of(ib)
    REQUESTS[what](ib, "")
    assert "The account code is required for this operation" in (await error_with(errors, 321))[2]


async def test_values_and_profit_are_each_accounts_own(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Summary, values and profit agree with the account that they name."""
    async with asyncio.timeout(DEADLINE):
        summary = await ib.accountSummaryAsync()
    worth = {each.account: each.value for each in summary if each.tag == "NetLiquidation"}
    assert worth == {name: account.totals()["NetLiquidation"] for name, account in gateway.accounts.items()}
    held = gateway.accounts[SECOND].positions[0]
    single, whole = ib.reqPnLSingle(SECOND, "", held.instrument.conid), ib.reqPnL(SECOND)
    await round_trip(ib)
    valued = [gateway.accounts[SECOND].value(each) for each in gateway.accounts[SECOND].positions]
    assert (single.position, single.unrealizedPnL) == (held.quantity, valued[0].unrealized)
    assert whole.unrealizedPnL == pytest.approx(sum(each.unrealized for each in valued), abs=0.01)


async def test_positions_of_one_account_can_be_asked_for(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """Each row carries request, account and contract, and the end comes."""
    ib.client.reqPositionsMulti(77, SECOND, "")
    await round_trip(ib)
    rows = [each.fields for each in gateway.log.records if each.name == "POSITION_MULTI"]
    assert [(row[2], row[3], int(row[4]), float(row[-3])) for row in rows] == [
        ("77", SECOND, each.instrument.conid, each.quantity) for each in gateway.accounts[SECOND].positions
    ]
    assert gateway.log.sent["POSITION_MULTI_END"] == 1


async def test_a_change_is_pushed_with_its_account(gateway: SimulatedGateway, ib: ib_async.IB) -> None:
    """The same contract in the other account is not touched."""
    conid = next(
        iter(
            {conid for name, conid in held_by(gateway) if name == FIRST}
            & {conid for name, conid in held_by(gateway) if name == SECOND}
        )
    )
    before = gateway.accounts[FIRST].position(conid).quantity
    gateway.accounts[SECOND].set_position(conid, 0)
    await round_trip(ib)
    assert {each.account: each.position for each in ib.positions() if each.contract.conId == conid} == {FIRST: before}


async def test_an_account_whose_updates_never_end_leaves_the_others_alone(
    gateway: SimulatedGateway, connect: Callable[..., Awaitable[ib_async.IB]]
) -> None:
    """A silent account times out by itself, the other answers, and positions list both."""
    gateway.faults.silent_accounts.add(SECOND)
    with pytest.raises(ConnectionError, match=f"account updates for {SECOND} request timed out"):
        await connect(gateway, 1, timeout=0.3)
    ib = await connect(gateway, 2, account=FIRST, raiseSyncErrors=False, timeout=0.3)
    assert {each.account for each in ib.portfolio()} == {FIRST}
    assert {each.account for each in ib.positions()} == set(IDS)
    async with asyncio.timeout(DEADLINE):
        assert {each.account for each in await ib.accountSummaryAsync()} == {FIRST}
    gateway.faults.clear()
    async with asyncio.timeout(DEADLINE):
        await ib.reqAccountUpdatesMultiAsync(SECOND)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"accounts": ()}, "accounts must be different ids without commas, at least one, got \\(\\)"),
        ({"accounts": ("A", "A")}, "accounts must be different ids"),
        ({"accounts": "DU0000001"}, "accounts must be different ids .* got 'DU0000001'"),
        ({"accounts": ("A,B",)}, "accounts must be different ids"),
        ({"positions": (1, 2, 3), "accounts": IDS}, "positions must be one number, or one for each of 2 accounts"),
        ({"positions": (1, 5501), "accounts": IDS}, "positions must be at most 5500, got 5501"),
    ],
    ids=str,
)
def test_wrong_accounts_are_named(arguments: dict[str, Any], text: str) -> None:
    """Ids must be different, and positions must fit them."""
    with pytest.raises(ValueError, match=text):
        SimulatedGateway(**({"positions": 0} | arguments))
