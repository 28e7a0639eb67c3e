"""Keys show nowhere: not in a repr, an error, a log line or a table, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import timedelta
from urllib.parse import quote

import pytest
import v6kit
from stores import COMMIT, DATA, OBJECT_STORES, Do, Place
from tallies import SPEC, Tallies, count
from v6kit.errors import ContentionError, StorageError
from v6kit.history import TableHistory
from v6kit.ledger import Decision, Ledger, upkeep
from v6kit.ledger.store import Store
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry

pytestmark = OBJECT_STORES

ANYTHING = {"method": ".*", "path": ".*", "times": float("inf")}
HASTY = {"retry_timeout": "200ms", "timeout": "2s"}


@pytest.fixture
def tells_no(place, caplog, capfd):
    """Check that the secret is in none of the texts, and neither in the log of any library nor in what was printed."""
    caplog.set_level(logging.DEBUG)
    forbidden = {place.secret, quote(place.secret, safe=""), place.secret[:24]}

    def check(*texts: str) -> None:
        captured = capfd.readouterr()
        for text in (*texts, caplog.text, captured.out, captured.err):
            assert not [secret for secret in forbidden if secret in text]

    return check


def said(error: BaseException) -> str:
    """Return all that an error shows: its text, its repr, its notes, and those of every cause."""
    return "".join([*traceback.format_exception(error), str(error), repr(error), *getattr(error, "__notes__", [])])


def broken(place: Place, what: str) -> dict[str, str]:
    """Return the place's options with one of them wrong."""
    wrong = {
        "endpoint": {"aws_endpoint_url": "http://127.0.0.1:1", "azure_endpoint": "http://127.0.0.1:1/v6kit"},
        "name": {"aws_access_key_id": "nobody", "azure_storage_account_name": "nobody"},
        "switch": {"aws_allow_http": "perhaps", "azure_allow_http": "perhaps"},
    }[what]
    return {**place.options, **HASTY, **{key: value for key, value in wrong.items() if key in place.options}}


def test_objects_do_not_show_the_options_that_they_were_given(place, uri, tells_no):
    """Every public object, closed, open, and in a notebook."""
    made = [kind(uri, storage_options=place.options) for kind in (StrategyRegistry, PositionQueue, PositionBook)] + [
        TableHistory(uri, ("request_id",), storage_options=place.options),
        Ledger(uri, SPEC, Tallies, storage_options=place.options),
        Store(uri, place.options),
    ]
    tells_no(*(repr(each) + str(each) + f"{each}" for each in made))
    tells_no(*(each._repr_html_() for each in made if hasattr(each, "_repr_html_")))


@pytest.mark.parametrize("what", ["endpoint", "switch"])
def test_opening_with_wrong_options_tells_no_secret(place, uri, what, tells_no):
    """Nobody listens there, or a value is not what it should be: the error names the place, not the key."""
    with pytest.raises(StorageError, match="lake") as raised:
        Store(uri, broken(place, what)).open()
    tells_no(said(raised.value))


def test_a_bucket_that_is_not_there_tells_no_secret(place, tells_no):
    """The error names the URI."""
    elsewhere = place.lake.replace("lake", "nowhere", 1)
    ledger = Ledger(f"{elsewhere}/table", SPEC, Tallies, storage_options={**place.options, **HASTY})
    with pytest.raises(StorageError, match="nowhere") as raised:
        ledger.open().result(60)
    ledger.close()
    tells_no(said(raised.value), repr(ledger))


@pytest.mark.parametrize(
    "trouble",
    [
        (Do.REFUSE, {}),
        (Do.THROTTLE, {}),
        (Do.LOSE_REQUEST, {}),
        (Do.LOSE_ANSWER, {"path": COMMIT}),
        (Do.THROTTLE, {"path": DATA, "method": "PUT"}),
        (Do.REFUSE, {"path": DATA, "method": "GET|HEAD"}),  # 503 here would be tried again for 30 s, by Polars
    ],
    ids=["forbidden", "throttled", "cut off", "answers lost", "data not written", "data not read"],
)
def test_a_store_that_fails_under_way_tells_no_secret(place, proxy, make_ledger, trouble, tells_no):
    """403, 503 and broken connections, for every kind of request: whatever is raised, and all of its causes."""
    there = place.through(proxy.port, **HASTY)
    ledger = make_ledger(storage_options=there.options, deadline=timedelta(seconds=0.2))
    ledger.open().result()
    other = make_ledger()
    other.submit(count("SPY")).result()
    fault, which = trouble
    proxy.trouble(fault, **(ANYTHING | which))
    texts = [repr(ledger)]
    for call in (
        lambda: ledger.submit(count("SPY")).result(60),
        lambda: ledger.refresh().result(60),
        lambda: ledger.set_property("v6kit.note", "seen").result(60),
        lambda: Store(ledger.uri, there.options).open(),
        lambda: upkeep.run(Store(ledger.uri, there.options)),
        lambda: TableHistory(ledger.uri, ("name",), storage_options=there.options).versions(),
    ):
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not tell
            texts.append(said(error))
    assert len(texts) > 1 or fault is Do.LOSE_ANSWER
    tells_no(*texts)


def test_a_change_that_always_loses_tells_no_secret(make_ledger, tells_no):
    """Contention until the deadline."""
    ledger, rival = make_ledger(deadline=timedelta(seconds=0.5)), make_ledger()
    rival.open().result()

    def decide(state, moment):
        rival.submit(count("SPY")).result(30)
        return count("QQQ")(state, moment)

    with pytest.raises(ContentionError) as raised:
        ledger.submit(decide).result(60)
    tells_no(said(raised.value))


def test_a_table_of_another_kind_tells_no_secret(place, ledger, tells_no):
    """The refusal names columns and places."""
    queue = PositionQueue(ledger.uri, storage_options=place.options)
    with pytest.raises(StorageError) as raised:
        asyncio.run(queue.initialize())
    asyncio.run(queue.close())
    tells_no(said(raised.value), repr(queue))


def test_a_closed_ledger_tells_no_secret(ledger, tells_no):
    """Nor does one whose decision fails."""

    def fail(_state, _moment) -> Decision:
        raise LookupError("not found")

    with pytest.raises(LookupError) as failed:
        ledger.submit(fail).result()
    ledger.close()
    with pytest.raises(StorageError) as closed:
        ledger.refresh()
    tells_no(said(failed.value), said(closed.value))


async def test_opening_a_desk_on_a_store_that_fails_tells_no_secret(place, tells_no):
    """`v6kit.open` on a wrong endpoint: the error, and whatever was noted on it."""
    with pytest.raises(StorageError) as raised:
        await v6kit.open(place.lake, "simulated", storage_options=broken(place, "endpoint"))
    tells_no(said(raised.value))


def test_nothing_that_is_written_holds_a_secret(place, proxy, make_ledger, tells_no):
    """Log entries, checkpoints, data and snapshot, as they went over the wire and as the table tells them."""
    ledger = make_ledger(storage_options=place.through(proxy.port).options)
    for _ in range(3):
        ledger.submit(count("SPY")).result()
    ledger.set_property("v6kit.note", "seen").result()
    upkeep.run(Store(ledger.uri, place.options), ledger._write_snapshot)
    store = Store(ledger.uri, place.options)
    tells_no(str(store.table.history(100)), str(store.properties), ledger.actor, str(store.files().rows()))
    rows = store.rows_since(0, SPEC.empty())
    tells_no(str(rows.rows()))
    assert rows["updated_by"].unique().to_list() == [ledger.actor]
    assert [seen for seen in proxy.seen() if seen.method == "PUT"]
