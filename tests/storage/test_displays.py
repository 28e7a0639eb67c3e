"""What registry, queue and book show in a cell and offer to the tab key: real tables, and a real IPython."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell
from v6kit.clock import FakeClock
from v6kit.contracts import AccountPosition, Instrument, PositionUpdate, Quality, Quote, Source
from v6kit.errors import RequestNotFoundError, StorageError, StrategyNotFoundError
from v6kit.ledger import LedgerTable
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import Strategy, StrategyRegistry

KINDS = (StrategyRegistry, PositionQueue, PositionBook)
ATTACK = '"><img src=x onerror=alert(1)>'
CALL = {"conid": 101, "symbol": "SPY", "right": "C", "strike": 595.0, "expiry": "20261218", "quantity": -2}
PUT = {"conid": 102, "symbol": "SPY", "right": "P", "strike": 480.0, "expiry": "20261218"}
Complete = Callable[..., list[str]]


@pytest.fixture
async def registry(tmp_path: Path, clock: FakeClock) -> AsyncIterator[StrategyRegistry]:
    """An open, empty registry."""
    async with StrategyRegistry(tmp_path / "registry", clock=clock) as made:
        yield made


@pytest.fixture
async def queue(tmp_path: Path, clock: FakeClock) -> AsyncIterator[PositionQueue]:
    """An open, empty queue."""
    async with PositionQueue(tmp_path / "queue", clock=clock) as made:
        yield made


@pytest.fixture
async def book(tmp_path: Path, clock: FakeClock) -> AsyncIterator[PositionBook]:
    """An open, empty book."""
    async with PositionBook(tmp_path / "book", clock=clock) as made:
        yield made


@pytest.fixture
def cell(shell: InteractiveShell) -> Callable[[Any], tuple[str, str]]:
    """Show something as the last line of a cell does: its text and its HTML."""

    def show(thing: Any) -> tuple[str, str]:
        data, _ = shell.display_formatter.format(thing)
        return data["text/plain"], data["text/html"]

    return show


def held(conid: int, account: str = "DU1", symbol: str = "SPY", **fields: Any) -> AccountPosition:
    """Return a position of 100 shares."""
    instrument = Instrument(conid=conid, symbol=symbol, sec_type="STK", **fields)
    return AccountPosition(account=account, instrument=instrument, position=100.0, avg_cost=10.0)


# --- every table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_table_that_is_not_open_says_so(kind: type[LedgerTable[Any, Any]], tmp_path: Path, cell):
    """Before it is opened and after it was closed: a look neither opens it nor raises, and nothing is offered."""
    table = kind(tmp_path / "table")
    text, html = cell(table)
    assert text == f"{kind.__name__}\n  table  {table.uri}\n  state  not open: await its initialize()"
    assert "not open" in html
    assert table.ledger.version == -1
    await table.initialize()
    assert "closed" not in cell(table)[0]
    await table.close()
    assert cell(table)[0] == f"{kind.__name__}\n  table  {table.uri}\n  state  closed"
    assert table._ipython_key_completions_() == []
    with pytest.raises(StorageError, match="not open"):
        table["x" if kind is not PositionBook else 1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_path_is_no_markup(kind: type[LedgerTable[Any, Any]], tmp_path: Path, cell):
    """A folder may have any name."""
    async with kind(tmp_path / "<img src=x onerror=alert(1)>") as table:
        assert "<img" not in cell(table)[1]
        assert "&lt;img" in cell(table)[1]
        for thing in (table, getattr(table, "stats", lambda: table)()):
            assert "<img" in table.uri
            assert "<img" not in cell(thing)[1]


@pytest.mark.parametrize("kind", KINDS)
async def test_two_looks_are_the_same_and_name_no_address(kind: type[LedgerTable[Any, Any]], tmp_path: Path, cell):
    """What a notebook is compared by."""
    async with kind(tmp_path / "table", clock=FakeClock()) as table:
        assert cell(table) == cell(table)
        assert " at 0x" not in "".join(cell(table))


# --- the registry ---------------------------------------------------------------------------------------------------


async def test_a_registry_shows_its_strategies_and_their_legs(registry: StrategyRegistry, cell):
    """One row per strategy and account; the legs open by a click."""
    assert "registers one" in cell(registry)[0]
    await registry.add_strategy("condor-1", [CALL, PUT], kind="IRON_CONDOR", account="DU1", priority=1)
    await registry.add_strategy(2, [CALL])
    text, html = cell(registry)
    assert text == (
        "StrategyRegistry\n"
        f"  table   {registry.uri}\n"
        "  active  2 active strategies, 3 legs\n"
        "\n"
        "strategy  kind         account  priority  legs  since\n"
        "2         CUSTOM       any             2     1  2026-11-20 14:30:00 UTC\n"
        "condor-1  IRON_CONDOR  DU1             1     2  2026-11-20 14:30:00 UTC"
    )
    assert "<summary>legs of condor-1 in DU1</summary>" in html
    assert "SPY 261218 P 480" in html


async def test_a_large_registry_is_cut_and_says_by_how_much(registry: StrategyRegistry, cell):
    """Fifty strategies fill no notebook; those that were removed are not shown."""
    for each in range(25):
        await registry.add_strategy(f"s{each:02}", [CALL])
    await registry.remove_strategy("s00")
    text, html = cell(registry)
    assert text.splitlines()[-1] == "... and 4 more"
    assert ("s00" in html, "s01" in html, html.count("<details>")) == (False, True, 10)


async def test_a_strategy_is_a_sequence_of_its_legs_with_a_face(registry: StrategyRegistry, cell):
    """Kind, accounts, priority, a frame; equal as long as nothing has changed."""
    await registry.add_strategy("condor-1", [CALL, PUT], kind="IRON_CONDOR", account="DU1", priority=1)
    await registry.add_strategy("condor-1", [CALL], kind="SHORT_CALL")
    strategy = registry["condor-1"]
    assert isinstance(strategy, Strategy)
    assert (strategy.kind, strategy.accounts, strategy.priority) == ("SHORT_CALL, IRON_CONDOR", (None, "DU1"), 1)
    assert [leg.conid for leg in strategy] == [101, 101, 102]
    assert (len(strategy), strategy[0].quantity, strategy[1:] == strategy.legs[1:]) == (3, -2.0, True)
    assert strategy.frame.equals(registry.current().filter(strategy_id="condor-1").select(strategy.frame.columns))
    assert strategy == registry["condor-1"]
    one = registry["condor-1", "DU1"]
    assert (one.kind, one.accounts, len(one), one == strategy) == ("IRON_CONDOR", ("DU1",), 2, False)
    assert registry["condor-1", ""].accounts == (None,)
    assert cell(one)[0] == (
        "Strategy condor-1\n"
        "  kind      IRON_CONDOR\n"
        "  account   DU1\n"
        "  priority  1\n"
        "  since     2026-11-20 14:30:00 UTC\n"
        "\n"
        "contract          conid  quantity  account  since\n"
        "SPY 261218 C 595    101        -2  DU1      2026-11-20 14:30:00 UTC\n"
        "SPY 261218 P 480    102        +1  DU1      2026-11-20 14:30:00 UTC"
    )


async def test_a_registry_is_asked_like_a_dictionary(registry: StrategyRegistry):
    """`in` and iteration know the active strategies, by id or by id and account."""
    await registry.add_strategy(2, [CALL], account="DU1")
    await registry.add_strategy("a", [PUT])
    assert list(registry) == ["2", "a"]
    for there in (2, "2", "a", ("2", "DU1"), ("a", "")):
        assert there in registry
    for not_there in (3, "b", ("2", ""), ("a", "DU1"), None, 1.5, ("a",), ("a", "b", "c"), True, ""):
        assert not_there not in registry
    await registry.remove_strategy("a")
    assert "a" not in registry


async def test_a_strategy_that_is_not_there_names_near_ones(registry: StrategyRegistry):
    """In the registry's own words and as a `KeyError`, without quotes around the sentence."""
    await registry.add_strategy("condor-1", [CALL])
    with pytest.raises(StrategyNotFoundError, match="did you mean 'condor-1'") as raised:
        registry["condr-1"]
    assert isinstance(raised.value, KeyError)
    assert str(raised.value) == "no active strategy 'condr-1'; did you mean 'condor-1'? active are condor-1"
    with pytest.raises(StrategyNotFoundError, match="no active strategy 'condor-1' in DU9; it is active in no account"):
        registry["condor-1", "DU9"]
    for wrong in (None, 1.5, ("a", "b", "c")):
        with pytest.raises((TypeError, ValueError)):
            registry[wrong]


async def test_tab_offers_the_strategies_and_their_accounts(registry: StrategyRegistry, complete: Complete):
    """Ids first; behind the comma the accounts of one that is in several."""
    await registry.add_strategy("condor-1", [CALL], account="DU1")
    await registry.add_strategy("condor-1", [CALL], account="DU2")
    await registry.add_strategy("fly", [PUT])
    assert {"'condor-1'", "'fly'"} <= set(complete("registry[", registry=registry))
    assert any("condor-1" in each for each in complete("registry['con"))
    assert {"'DU1'", "'DU2'"} <= set(complete("registry['condor-1', "))


async def test_a_strategy_may_have_any_name(registry: StrategyRegistry, cell):
    """It is text on a card, never markup."""
    await registry.add_strategy(ATTACK, [CALL | {"symbol": ATTACK}], kind=ATTACK, account=ATTACK)
    for thing in (registry, registry[ATTACK]):
        assert "<img" not in cell(thing)[1].lower()
        assert "&lt;img" in cell(thing)[1].lower()


# --- the queue ------------------------------------------------------------------------------------------------------


async def test_a_queue_shows_its_numbers(queue: PositionQueue, clock: FakeClock, cell):
    """By status and priority, how old the oldest is, what has ended, and whether it is paused."""
    assert "nothing waits" in cell(queue)[0]
    await queue.insert_many([{"conid": conid, "symbol": "SPY", "priority": 1 + conid % 2} for conid in range(1, 8)])
    await queue.mark_success(await queue.get_batch(2))
    await queue.get_batch(1)
    clock.advance(90)
    await queue.pause("lunch <b>")
    text, html = cell(queue)
    assert text == (
        "PositionQueue\n"
        "! paused: lunch <b>\n"
        "! 1 expired lease; the next claim takes it\n"
        f"  table       {queue.uri}\n"
        "  oldest      due for 1 min 30 s\n"
        "  retries     0\n"
        "  throughput  0 ended within the last minute\n"
        "\n"
        "PENDING  PROCESSING  SUCCESS  FAILED  CANCELLED\n"
        "      4           1        2       0          0\n"
        "\n"
        "priority  live\n"
        "       1     1\n"
        "       2     4"
    )
    assert "⚠ paused: lunch &lt;b&gt;" in html
    assert cell(queue.stats())[0].startswith("QueueStats\n! paused: lunch <b>\n")


async def test_a_request_is_looked_up_by_its_id(queue: PositionQueue, cell):
    """Live or finished, as it stands now; one of a bulk insert too. What it shows of errors is escaped."""
    known = await queue.insert_many(pl.DataFrame({"conid": range(1, 3_001), "symbol": [ATTACK] * 3_000}))
    (claimed,) = await queue.get_batch(1)
    assert queue[claimed.request_id] == queue[claimed] == claimed
    await queue.mark_failed(claimed, ATTACK)
    assert (queue[claimed].status, queue[known[-1]].status) == ("FAILED", "PENDING")
    text, html = cell(queue[claimed])
    assert text.splitlines()[:2] == [f"Request {claimed.request_id}", f"! {ATTACK}"]
    assert "<img" not in html
    with pytest.raises(RequestNotFoundError, match="request 'r9' is neither live nor") as raised:
        queue["r9"]
    assert isinstance(raised.value, KeyError)
    with pytest.raises(TypeError, match="request_id must be a string"):
        queue[0]
    with pytest.raises(TypeError, match="not iterable"):
        iter(queue)


async def test_tab_offers_requests_in_the_order_of_claiming(queue: PositionQueue, complete: Complete):
    """Not more than anybody would read."""
    known = await queue.insert_many([{"conid": conid, "symbol": "SPY"} for conid in range(1, 601)])
    assert complete("queue[", queue=queue) == [repr(each) for each in known[:500]]


# --- the book -------------------------------------------------------------------------------------------------------


async def test_a_book_adds_up_by_quality_and_never_across_currencies(book: PositionBook, clock: FakeClock, cell):
    """How many there are of each quality, with value and unrealized; largest positions open by a click."""
    assert cell(book)[0].endswith("held   0 positions")
    await book.sync([held(1), held(2), held(3, "DU2"), held(4, "DU2", "SAP", currency="EUR")])
    quoted = [(1, "DU1", "USD", 12.0), (4, "DU2", "EUR", 9.0)]
    await book.record(
        PositionUpdate(
            account=account,
            instrument=Instrument(conid=conid, symbol="SPY", sec_type="STK", currency=currency),
            quote=Quote(
                conid=conid, source=Source.STREAM, requested_at=clock.now(), received_at=clock.now(),
                quality=Quality.OK, bid=price, ask=price,
            ),
        )
        for conid, account, currency, price in quoted
    )  # fmt: skip
    text, html = cell(book)
    assert text == (
        "PositionBook\n"
        f"  table  {book.uri}\n"
        "  held   4 positions in DU1, DU2\n"
        "2 of them have no value yet, and are in no sum\n"
        "\n"
        "quality   positions     value  unrealized  currency\n"
        "ok                1    900.00     -100.00  EUR\n"
        "ok                1  1,200.00     +200.00  USD\n"
        "no quote          2                        USD\n"
        "all               1    900.00     -100.00  EUR\n"
        "all               3  1,200.00     +200.00  USD"
    )
    assert html.index("positions, the largest value first") < html.index(">1,200.00<", html.index("<details>"))


async def test_a_position_is_looked_up_by_account_and_conid(book: PositionBook, cell):
    """The account may be left out where only one holds it; else both are named."""
    await book.sync([held(1), held(2, symbol=ATTACK), held(2, "DU2")])
    assert (book[1], book["DU2", 2].account) == (book["DU1", 1], "DU2")
    with pytest.raises(KeyError, match="conid 2 is held in DU1, DU2; say in which: book"):
        book[2]
    for missing in (3, ("DU2", 1)):
        assert missing not in book
        with pytest.raises(KeyError, match="is held; book"):
            book[missing]
    assert 2 in book
    assert ("DU1", 2) in book
    assert "x" not in book
    with pytest.raises(TypeError, match="not iterable"):
        iter(book)
    assert cell(book["DU2", 2])[0].splitlines()[:3] == ["SPY", "  account      DU2", "  conid        2"]
    for thing in (book, book["DU1", 2]):
        assert "<img" not in cell(thing)[1]


async def test_tab_offers_accounts_then_their_conids(book: PositionBook, complete: Complete):
    """And conids alone for a number that was begun."""
    await book.sync([held(711), held(712, "DU2")])
    assert {"'DU1'", "'DU2'", "711", "712"} <= set(complete("book[", book=book))
    assert complete("book['DU2', ") == ["712"]
    assert complete("book[71") == ["711", "712"]
